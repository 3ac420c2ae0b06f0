"""The one number of each example whose gradient is looked at: outputs, a logit, or the loss."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from gradscope.problem import Problem, examples_in

ExampleSource = str | int | Callable[[Tensor, Tensor | None], Tensor]
EXAMPLE_SOURCES = ("output", "logit", "loss")


def example_values(problem: Problem, inputs: Any, targets: Tensor | None, source: ExampleSource) -> Tensor:
    """One differentiable number for each example of a batch, [N].

    Args:
        problem: Network and loss; call inside `problem.prepared()`.
        inputs: One batch.
        targets: Its targets, needed for `logit` and `loss`.
        source: `output`, the sum of an example's outputs (Definition 1); `logit`, that of its target; `loss`, whose
            factor p - y flips signs between classes; k, the k-th output; or `f(outputs, targets)` returning [N].

    Raises:
        ValueError: An unknown source; no targets, or targets that are no classes, for `logit`; outputs without a
            k-th number; values that are not [N] or hang on no output that autograd can see.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, Definition 1, for `output`.
    """
    if source == "loss":
        return problem.losses(inputs, targets)
    known = (
        source in EXAMPLE_SOURCES if isinstance(source, str) else isinstance(source, int) or callable(source)
    )
    if not known:
        raise ValueError(
            f"source is one of {', '.join(EXAMPLE_SOURCES)}, the number of an output, or a function of (outputs, "
            f"targets), got {source!r}."
        )
    outputs, examples = problem.outputs(inputs), examples_in(inputs)
    if outputs.ndim == 0 or len(outputs) != examples:
        raise ValueError(
            f"The model returned {list(outputs.shape)} for {examples} examples; the first dimension has to count "
            "them. Pass forward=lambda model, inputs: ... that returns [N, ...]."
        )
    if callable(source):
        values = source(outputs, targets)
        if values.ndim != 1 or len(values) != examples:
            raise ValueError(
                f"The source must return one value for each example, [{examples}], got {list(values.shape)}."
            )
    elif source == "output":
        values = outputs.reshape(examples, -1).sum(dim=1)
    else:
        values = _picked(outputs, targets, source)
    if outputs.requires_grad and not values.requires_grad:
        raise ValueError(
            "The source does not depend on the outputs in a way autograd can see, so it has no gradient. Return a "
            "differentiable function of `outputs`, without detach() or .data."
        )
    return values


def _picked(outputs: Tensor, targets: Tensor | None, source: str | int) -> Tensor:
    if outputs.ndim != 2:
        raise ValueError(
            f"source={source!r} picks one of an example's numbers, but the outputs are {list(outputs.shape)}. Pass a "
            "function of (outputs, targets) that returns one value for each example."
        )
    if isinstance(source, int):
        if isinstance(source, bool) or not 0 <= source < outputs.shape[1]:
            raise ValueError(f"source={source!r} is no output: they are 0 .. {outputs.shape[1] - 1}.")
        return outputs[:, source]
    if targets is None or targets.ndim != 1 or targets.is_floating_point():
        came = "none" if targets is None else f"{targets.dtype} {list(targets.shape)}"
        raise ValueError(
            f"source='logit' wants class numbers [N] as targets, got {came}. Use source='output'."
        )
    if not 0 <= int(targets.min()) <= int(targets.max()) < outputs.shape[1]:
        raise ValueError(
            f"source='logit': targets {int(targets.min())} .. {int(targets.max())} for {outputs.shape[1]} outputs."
        )
    return outputs.gather(1, targets.long()[:, None])[:, 0]
