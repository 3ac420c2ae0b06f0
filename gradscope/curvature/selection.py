"""Which of a model's parameters an operator is about."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from torch import nn

Selection = str | Sequence[str] | Callable[[str, nn.Parameter], bool] | None


def select(parameters: dict[str, nn.Parameter], wanted: Selection = None) -> dict[str, nn.Parameter]:
    """The parameters asked for, in the model's order.

    Raises:
        ValueError: A pattern, or all of them together, selects nothing.
    """
    if wanted is None:
        chosen = parameters
    elif callable(wanted):
        chosen = {name: parameter for name, parameter in parameters.items() if wanted(name, parameter)}
    else:
        patterns = [wanted] if isinstance(wanted, str) else list(wanted)

        def matches(name: str, pattern: str) -> bool:
            return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")

        for pattern in patterns:
            if not any(matches(name, pattern) for name in parameters):
                raise ValueError(
                    f"No trainable parameter matches {pattern!r}. There are: "
                    f"{', '.join(parameters) or 'none'}."
                )
        chosen = {n: p for n, p in parameters.items() if any(matches(n, pattern) for pattern in patterns)}
    if not chosen:
        raise ValueError(
            "The Hessian needs at least one parameter, and none was selected. Trainable are: "
            f"{', '.join(parameters) or 'none; set requires_grad on some'}."
        )
    return chosen
