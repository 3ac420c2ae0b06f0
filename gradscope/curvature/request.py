"""What all operators of a problem are asked for, and what is asked of them before they are handed out."""

from typing import Any, TypeVar

from torch import nn
from torch.nn.parameter import is_lazy

from gradscope.curvature.problem_operator import ProblemOperator
from gradscope.curvature.selection import Selection, select
from gradscope.curvature.self_check import check_by_differences, check_repeatable
from gradscope.problem import Problem, as_problem

CHECKS = ("cheap", "full", "none")
Kind = TypeVar("Kind", bound=ProblemOperator)


def requested(
    problem: Any, parameters: Selection, check: str, title: str
) -> tuple[Problem, dict[str, nn.Parameter]]:
    """The problem, and those of its trainable parameters that were asked for.

    Args:
        problem: A `Problem`, or a pair `(model, data)`.
        parameters: Which.
        check: One of `CHECKS`.
        title: What the operator is called.

    Raises:
        ValueError: An unknown check, a loss of each example alone, lazy parameters, or nothing is selected.
    """
    problem = as_problem(problem)
    if check not in CHECKS:
        raise ValueError(f"check is one of {', '.join(CHECKS)}, got {check!r}.")
    if "own" in problem.batch_norm_name:
        raise ValueError(
            f"batch_norm='own' defines a gradient for each example, not a loss that has a {title}. "
            "Use batch_norm='train' (statistics differentiated through), 'frozen' or 'running'."
        )
    lazy = [name for name, p in problem.model.named_parameters() if is_lazy(p)]
    if lazy:
        raise ValueError(
            f"The {title} needs parameters with entries, but {', '.join(lazy)} of a lazy module have no shape yet. "
            "Run the model once on a batch."
        )
    return problem, select(problem.parameters, parameters, model=problem.model)


def checked(operator: Kind, check: str) -> Kind:
    """The operator, after it passed the check.

    Raises:
        ValueError, FloatingPointError: As in `self_check`.
    """
    if check != "none":
        check_repeatable(operator)
        if check == "full":
            check_by_differences(operator)
    return operator
