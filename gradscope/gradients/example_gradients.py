"""The gradients of single examples themselves, a few at a time: for what no Gram matrix holds."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.gradients.example_values import ExampleSource, example_values
from gradscope.problem import Problem, examples_in

# So many numbers of gradients are held at a time: 64 MB in float32.
_HELD = 2**24
# Values that differ by more than so many roots of the rounding step are another example's doing.
_ROUNDING_ROOTS = 8


def example_gradients(
    problem: Problem,
    inputs: Any,
    targets: Tensor | None,
    source: ExampleSource,
    parameters: Mapping[str, nn.Parameter],
) -> Iterator[Sequence[Tensor]]:
    """Gradients of each example's value at some parameters, in order, a chunk of examples at a time.

    Three ways, the first that is right for this network and batch: `torch.func.vmap` over the examples; a forward and
    a backward pass for each example alone, where vmap refuses an operation; and a backward pass of the whole batch for
    each example, where examples mix, so that one alone has another value than among the others. The values of the
    whole batch, one forward pass, are what all is compared with.

    Args:
        problem: Network and loss; call inside `problem.prepared()`, with gradients enabled.
        inputs: One batch.
        targets: Its targets.
        source: As in `example_values`.
        parameters: By their names in the network; each needs a gradient.

    Yields:
        One tensor for each parameter, [n, *shape of the parameter], for the next n examples. Zeros where the value does
        not depend on it.

    Raises:
        ValueError: As `example_values`; or a value that hangs on none of the parameters.
    """
    examples = examples_in(inputs)
    with torch.no_grad():
        expected = example_values(problem, inputs, targets, source)
    done = 0
    if problem.batch_norm_name in ("none", "running"):
        size = max(1, _HELD // max(1, sum(parameter.numel() for parameter in parameters.values())))
        while done < examples:
            some = _by_vmap(
                problem, _rows(inputs, done, size), _part(targets, done, size), source, parameters
            )
            if some is None or not _same(some[0], expected, done):
                break
            done += len(some[0])
            yield some[1]
    yield from _one_by_one(problem, inputs, targets, source, list(parameters.values()), expected, done)


class _Values(nn.Module):
    """A problem's network under a name of its own, so that its parameters can be handed over."""

    def __init__(self, problem: Problem, source: ExampleSource) -> None:
        super().__init__()
        self.model = problem.model
        self.asked = problem, source

    def forward(self, one: Tensor, target: Tensor | None) -> Tensor:
        problem, source = self.asked
        return example_values(problem, one[None], None if target is None else target[None], source)[0]


def _by_vmap(
    problem: Problem,
    inputs: Any,
    targets: Tensor | None,
    source: ExampleSource,
    parameters: Mapping[str, nn.Parameter],
) -> tuple[Tensor, Sequence[Tensor]] | None:
    """Values and gradients of some examples; None where vmap cannot."""
    if not isinstance(inputs, Tensor):
        return None
    values = _Values(problem, source)
    given = {f"model.{name}": parameter.detach() for name, parameter in parameters.items()}

    def value(handed: dict[str, Tensor], one: Tensor, target: Tensor | None) -> Tensor:
        result = torch.func.functional_call(values, handed, (one, target))
        return torch.as_tensor(result)

    over = None if targets is None else 0
    mapped = torch.func.vmap(torch.func.grad_and_value(value), in_dims=(None, 0, over))
    try:
        with warnings.catch_warnings():
            # Operations that vmap runs example by example are no news to whoever asked for single examples.
            warnings.filterwarnings("ignore", message="There is a performance drop")
            gradients, found = mapped(given, inputs, targets)
    except (RuntimeError, ValueError):
        # Operations that vmap has no rule for, or whose result its rule refuses, are left to single passes.
        return None
    return found.detach(), [gradients[name].detach() for name in given]


def _one_by_one(
    problem: Problem,
    inputs: Any,
    targets: Tensor | None,
    source: ExampleSource,
    parameters: Sequence[nn.Parameter],
    expected: Tensor,
    start: int,
) -> Iterator[Sequence[Tensor]]:
    examples, together = examples_in(inputs), None
    mixing = problem.batch_norm_name not in ("none", "running")
    for place in range(start, examples):
        alone = None if mixing else _alone(problem, inputs, targets, source, place)
        if alone is None or not _same(alone.detach()[None], expected, place):
            mixing = True
            if together is None:
                together = example_values(problem, inputs, targets, source)
        value = together[place] if together is not None else alone
        if value is None or not value.requires_grad:
            raise ValueError("The source does not depend on these parameters in a way autograd can see.")
        gradients = torch.autograd.grad(
            value,
            parameters,
            retain_graph=mixing and place < examples - 1,
            allow_unused=True,
            materialize_grads=True,
        )
        yield [gradient[None] for gradient in gradients]


def _alone(
    problem: Problem, inputs: Any, targets: Tensor | None, source: ExampleSource, place: int
) -> Tensor | None:
    """The value of one example without the others; None where it cannot be had so."""
    try:
        return example_values(problem, _rows(inputs, place, 1), _part(targets, place, 1), source)[0]
    except (RuntimeError, ValueError):
        # All of them together were accepted, so what was refused is their being alone.
        return None


def _rows(inputs: Any, start: int, size: int) -> Any:
    """The rows of some examples, in whatever the inputs are kept in; what has no row for each stays."""
    examples = examples_in(inputs)

    def of(value: Any) -> Any:
        per_row = isinstance(value, Tensor) and value.ndim > 0 and len(value) == examples
        return value[start : start + size] if per_row else value

    return {key: of(value) for key, value in inputs.items()} if isinstance(inputs, Mapping) else of(inputs)


def _part(targets: Tensor | None, start: int, size: int) -> Tensor | None:
    return None if targets is None else targets[start : start + size]


def _same(values: Tensor, expected: Tensor, start: int) -> bool:
    """Whether values are those the examples have among the others, to rounding."""
    largest = float(expected.abs().amax())
    allowed = _ROUNDING_ROOTS * math.sqrt(torch.finfo(expected.dtype).eps) * largest
    apart = (values - expected[start : start + len(values)]).abs().amax()
    return not math.isfinite(largest) or float(apart) <= allowed
