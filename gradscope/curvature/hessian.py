"""The Hessian of a problem's loss."""

from typing import Any

from gradscope.curvature.hessian_operator import HessianOperator
from gradscope.curvature.selection import Selection, select
from gradscope.curvature.self_check import check_by_differences, check_repeatable
from gradscope.problem import as_problem

CHECKS = ("cheap", "full", "none")


def hessian(
    problem: Any,
    *,
    parameters: Selection = None,
    weight_decay: float = 0.0,
    budget_bytes: int = 2**30,
    check: str = "cheap",
) -> HessianOperator:
    """The Hessian of the whole loss (all batches) with respect to the trainable parameters.

    Args:
        problem: A `Problem`, or a pair `(model, data)`. Its `batch_norm` decides which Hessian this is.
        parameters: Which of the trainable parameters: a name, glob or module path (`"blocks.*"`,
            `"head"`), several of them, or `f(name, parameter) -> bool`. Default: all.
        weight_decay: Added to the diagonal: the optimiser's L2 term, which is not part of the loss.
        budget_bytes: Memory that gradient graphs may keep between products. Where all batches fit,
            a product costs about 2.4 gradients; where not, each call builds them anew, about one
            gradient a call more, shared by all columns of a `matmat`.
        check: `cheap`: the data and the network give the same loss and gradient twice, and the
            operator is symmetric (one gradient and two products). `full`: also a product against
            central differences of the gradient, on a float64 copy and the first batch. `none`.

    Returns:
        Operator of shape [P, P]; P counts each tied weight once. Close it, or use it in a `with`
        block, to free the graphs. The model is left as found after every call.

    Raises:
        ValueError: Nothing is selected; parameters differ in dtype or device; an operation without
            a second derivative; a check that fails, naming the culprit.
        FloatingPointError: The loss or its gradient is not finite.
    """
    problem = as_problem(problem)
    if check not in CHECKS:
        raise ValueError(f"check is one of {', '.join(CHECKS)}, got {check!r}.")
    if "own" in problem.batch_norm_name:
        raise ValueError(
            "batch_norm='own' defines a gradient for each example, not a loss that has a Hessian. "
            "Use batch_norm='train' (statistics differentiated through), 'frozen' or 'running'."
        )
    chosen = select(problem.parameters, parameters)
    operator = HessianOperator(problem, chosen, weight_decay=weight_decay, budget_bytes=budget_bytes)
    if check != "none":
        check_repeatable(operator)
        if check == "full":
            check_by_differences(operator)
    return operator
