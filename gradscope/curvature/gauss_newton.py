"""The Gauss-Newton matrix of a problem's loss: the Hessian of the network made linear in its parameters."""

from typing import Any

from gradscope.curvature.gauss_newton_operator import GaussNewtonOperator
from gradscope.curvature.preconditioning import Diagonal
from gradscope.curvature.request import checked, requested
from gradscope.curvature.selection import Selection


def gauss_newton(
    problem: Any,
    *,
    parameters: Selection = None,
    weight_decay: float = 0.0,
    precondition: Diagonal = None,
    budget_bytes: int = 2**30,
    check: str = "cheap",
) -> GaussNewtonOperator:
    """J^T H_l J over all batches: J the Jacobian of the outputs, H_l the Hessian of the loss by the outputs.

    The Hessian is this plus the curvature of the outputs themselves, weighted by the slope of the loss.
    It is positive semi-definite where the loss is convex in the outputs, of rank at most examples
    times outputs, equal to the Fisher matrix for cross-entropy and half the squared error, and **zero where
    the outputs do not depend on the parameters to first order**: at the zero point of two-layer
    shortcuts it sees nothing, where the Hessian sees all.

    Any loss: cross-entropy and half the squared error by closed forms, others by differentiating
    twice at the outputs.

    Args:
        problem: A `Problem`, or a pair `(model, data)`.
        parameters: Which of the trainable parameters, as in `hessian`.
        weight_decay: Added to the diagonal.
        precondition: Positive diagonal D, for D^(-1/2) (G + w I) D^(-1/2), as in `hessian`.
        budget_bytes: Memory that graphs may keep between products. Where all batches fit, a product costs
            about one gradient, or two where some operation has no rule (see `engine_reason`); where not,
            each call builds them anew, about two thirds of a gradient more, shared by all columns of a `matmat`.
        check: As in `hessian`.

    Returns:
        Operator of shape [P, P], symmetric. The model is left as found after every call.

    Raises:
        ValueError, FloatingPointError: As in `hessian`.

    Source:
        Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient descent; Martens
        (2014), New insights and perspectives on the natural gradient method, arXiv:1412.1193.
    """
    problem, chosen = requested(problem, parameters, check, GaussNewtonOperator.title)
    operator = GaussNewtonOperator(
        problem, chosen, weight_decay=weight_decay, precondition=precondition, budget_bytes=budget_bytes
    )
    return checked(operator, check)
