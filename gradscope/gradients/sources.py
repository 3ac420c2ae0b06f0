"""What is differentiated: the loss, a logit, or the margin between two."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradscope.problem import Problem, examples_in

Source = str | Callable[[Tensor, Tensor | None], Tensor]
SOURCES = ("loss", "logit", "margin")


def source_value(problem: Problem, source: Source) -> Callable[[Any, Tensor | None], Tensor]:
    """A function of (inputs, targets) whose scalar result is differentiated.

    Args:
        problem: Network, loss, reduction.
        source: `loss`; `logit`, the target's (without targets, the largest); `margin`, that logit less the largest
            other one; or `f(outputs, targets)` that returns one value for each example, [N]. Summed or averaged
            over examples as the problem's `reduction` says.

    Raises:
        ValueError: An unknown source; on calling, outputs that are not [N, classes], targets that are no classes,
            values that are not [N] or do not depend on the outputs.
    """
    if source == "loss":
        return problem.value
    if isinstance(source, str) and source not in SOURCES:
        raise ValueError(
            f"source is one of {', '.join(SOURCES)} or a function of (outputs, targets), got {source!r}."
        )

    def value(inputs: Any, targets: Tensor | None) -> Tensor:
        outputs = problem.outputs(inputs)
        if callable(source):
            values = source(outputs, targets)
            if values.ndim != 1 or len(values) != examples_in(inputs):
                raise ValueError(
                    f"The source must return one value for each example, [{examples_in(inputs)}], got "
                    f"{list(values.shape)}."
                )
        else:
            values = _logits(outputs, targets, source)
        if outputs.requires_grad and not values.requires_grad:
            raise ValueError(
                "The source does not depend on the outputs in a way autograd can see, so there is no gradient to "
                "split. Return a differentiable function of `outputs`, without detach() or .data."
            )
        total = values.sum()
        return total / problem.examples if problem.reduction == "mean" else total

    return value


def _logits(outputs: Tensor, targets: Tensor | None, source: str) -> Tensor:
    if outputs.ndim != 2:
        raise ValueError(
            f"source={source!r} wants logits of shape [N, classes], the model returned {list(outputs.shape)}. Pass a "
            "function of (outputs, targets) that returns one value for each example."
        )
    if targets is None:
        classes = outputs.detach().argmax(dim=1)
    elif targets.ndim == 1 and not targets.is_floating_point():
        classes = targets.long()
    else:
        raise ValueError(
            f"source={source!r} wants class numbers [N] as targets, got {targets.dtype} {list(targets.shape)}."
        )
    own = outputs.gather(1, classes[:, None])[:, 0]
    if source == "logit":
        return own
    if outputs.shape[1] < 2:
        raise ValueError("source='margin' needs at least two classes, the model returned one.")
    others = outputs.scatter(1, classes[:, None], torch.full_like(own, -torch.inf)[:, None])
    return own - others.amax(dim=1)
