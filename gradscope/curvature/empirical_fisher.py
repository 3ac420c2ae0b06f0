"""The empirical Fisher matrix: second moments of the examples' own gradients."""

from typing import Any

from gradscope.curvature.fisher_operator import FisherOperator
from gradscope.curvature.preconditioning import Diagonal
from gradscope.curvature.request import checked, requested
from gradscope.curvature.selection import Selection


def empirical_fisher(
    problem: Any,
    *,
    parameters: Selection = None,
    weight_decay: float = 0.0,
    precondition: Diagonal = None,
    budget_bytes: int = 2**30,
    check: str = "cheap",
) -> FisherOperator:
    """(1/N) sum_i g_i g_i^T, g_i the gradient of example i's loss at its own target (no 1/N for reduction="sum").

    **It is not the Fisher matrix**, whose targets are drawn from the network's own predictions, and it need
    not resemble the curvature: it vanishes where every example is fitted. For the Fisher matrix of
    cross-entropy or half the squared error use `gauss_newton`, which equals it.

    Gradients of examples are never stored: their products with a vector are the derivatives of the losses
    along it, and one backward pass weighted with these adds up the rest. That is exact also where examples mix:
    under batch_norm="train", g_i is the derivative of example i's loss through the statistics of its whole batch.

    Args:
        problem: A `Problem`, or a pair `(model, data)`.
        parameters: Which of the trainable parameters, as in `hessian`.
        weight_decay: Added to the diagonal.
        precondition: Positive diagonal D, for D^(-1/2) (F + w I) D^(-1/2), as in `hessian`.
        budget_bytes: Memory that graphs may keep between products. Where all batches fit, a product costs
            about one gradient, or two where some operation has no rule (see `engine_reason`); where not,
            each call builds them anew, about two thirds of a gradient more, shared by all columns of a `matmat`.
        check: As in `hessian`.

    Returns:
        Operator of shape [P, P], symmetric, positive semi-definite, of rank at most N. The model is left as
        found after every call.

    Raises:
        ValueError, FloatingPointError: As in `hessian`.

    Source:
        Kunstner, Balles, Hennig (2019), Limitations of the empirical Fisher approximation, arXiv:1905.12558;
        Martens (2014), arXiv:1412.1193.
    """
    problem, chosen = requested(problem, parameters, check, FisherOperator.title)
    operator = FisherOperator(
        problem, chosen, weight_decay=weight_decay, precondition=precondition, budget_bytes=budget_bytes
    )
    return checked(operator, check)
