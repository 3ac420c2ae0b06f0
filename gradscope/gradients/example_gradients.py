"""The gradients of single examples themselves, a few at a time: for what no Gram matrix holds."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.gradients.example_values import ExampleSource, example_values
from gradscope.gradients.gathered import copied
from gradscope.gradients.mixing import Mixing, SumOfExamples, same_values
from gradscope.instruments.batch_norm import Statistics
from gradscope.problem import Problem, examples_in

# So many numbers of gradients are held at a time: 64 MB in float32.
_HELD = 2**24
NOT_SEEN = "The source does not depend on these parameters in a way autograd can see."


def example_gradients(
    problem: Problem,
    inputs: Any,
    targets: Tensor | None,
    source: ExampleSource,
    parameters: Mapping[str, nn.Parameter],
    *,
    statistics: Statistics | None = None,
    among: bool = False,
) -> Iterator[Sequence[Tensor]]:
    """Gradients of each example's value at some parameters, in order, a chunk of examples at a time.

    Each example is run alone: by `torch.func.vmap`, or by a forward and a backward pass for each where vmap refuses an
    operation or only one example's gradients can be held. That is right where examples do not meet, which is proven
    for each batch: the values have to be those of the whole batch, and the gradients, added up with a weight for each
    example, have to be the gradient of the weighted sum over the whole batch.

    Args:
        problem: Network and loss; call inside `problem.prepared()`, with gradients enabled.
        inputs: One batch, which is not changed, whatever the network does to its input.
        targets: Its targets.
        source: As in `example_values`.
        parameters: By their names in the network; each needs a gradient.
        statistics: Those of frozen batch normalisation, kept from an earlier pass, under which the mode in force
            runs; without them frozen statistics are those of this batch, among which examples meet.
        among: Run no example alone: a backward pass of the whole batch for each, which is right in any case.

    Yields:
        One tensor for each parameter, [n, *shape of the parameter], for the next n examples. Zeros where the value does
        not depend on it.

    Raises:
        Mixing: Gradients of examples alone, yielded so far, are not those among the others. Drop them and call again
            with `among`.
        ValueError: As `example_values`; or a value that hangs on none of the parameters.
    """
    run = _Run(problem, source, statistics)
    if among or not run.apart:
        yield from _among(run, inputs, targets, list(parameters.values()))
        return
    with torch.no_grad():
        expected = run.values(inputs, targets)
    added = SumOfExamples(parameters)
    done = 0
    for values, gradients in _alone(run, inputs, targets, parameters):
        if not same_values(values, expected[done : done + len(values)], expected):
            raise Mixing
        added.add(gradients)
        done += len(values)
        yield gradients
    whole = run.values(inputs, targets)
    if not whole.requires_grad:
        raise ValueError(NOT_SEEN)
    if not added.agrees(whole):
        raise Mixing


class _Run(nn.Module):
    """A problem's network under a name of its own, so that its parameters can be handed over."""

    def __init__(self, problem: Problem, source: ExampleSource, statistics: Statistics | None) -> None:
        super().__init__()
        self.model = problem.model
        self.asked = problem, source, statistics
        free = {"none", "running"} | ({"frozen"} if statistics is not None else set())
        self.apart = set(problem.batch_norm_name.split("+")) <= free

    def values(self, inputs: Any, targets: Tensor | None) -> Tensor:
        problem, source, statistics = self.asked
        if statistics is not None:
            statistics.again()
        return example_values(problem, copied(inputs), targets, source)

    def forward(self, one: Tensor, target: Tensor | None) -> Tensor:
        return self.values(one[None], None if target is None else target[None])[0]


def _alone(
    run: _Run, inputs: Any, targets: Tensor | None, parameters: Mapping[str, nn.Parameter]
) -> Iterator[tuple[Tensor, Sequence[Tensor]]]:
    """Values and gradients of examples that do not see the others."""
    examples, done = examples_in(inputs), 0
    size = _HELD // max(1, sum(parameter.numel() for parameter in parameters.values()))
    while size > 1 and done < examples:
        some = _by_vmap(run, _rows(inputs, done, size), _part(targets, done, size), parameters)
        if some is None:
            break
        yield some
        done += len(some[0])
    for place in range(done, examples):
        try:
            value = run.values(_rows(inputs, place, 1), _part(targets, place, 1))
        except (RuntimeError, ValueError) as error:
            # All of them together were accepted, so what was refused is their being alone.
            raise Mixing from error
        yield value.detach(), _gradients(value[0], list(parameters.values()), kept=False)


def _by_vmap(
    run: _Run, inputs: Any, targets: Tensor | None, parameters: Mapping[str, nn.Parameter]
) -> tuple[Tensor, Sequence[Tensor]] | None:
    """Values and gradients of some examples; None where vmap cannot."""
    if not isinstance(inputs, Tensor):
        return None
    given = {f"model.{name}": parameter.detach() for name, parameter in parameters.items()}

    def value(handed: dict[str, Tensor], one: Tensor, target: Tensor | None) -> Tensor:
        return torch.as_tensor(torch.func.functional_call(run, handed, (one, target)))

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


def _among(
    run: _Run, inputs: Any, targets: Tensor | None, parameters: Sequence[nn.Parameter]
) -> Iterator[Sequence[Tensor]]:
    """Each example's gradient from a backward pass of the whole batch."""
    values = run.values(inputs, targets)
    for place in range(len(values)):
        yield _gradients(values[place], parameters, kept=place < len(values) - 1)


def _gradients(value: Tensor, parameters: Sequence[nn.Parameter], kept: bool) -> list[Tensor]:
    if not value.requires_grad:
        raise ValueError(NOT_SEEN)
    gradients = torch.autograd.grad(
        value, parameters, retain_graph=kept, allow_unused=True, materialize_grads=True
    )
    return [gradient[None] for gradient in gradients]


def _rows(inputs: Any, start: int, size: int) -> Any:
    """The rows of some examples, in whatever the inputs are kept in; what has no row for each stays."""
    examples = examples_in(inputs)

    def of(value: Any) -> Any:
        per_row = isinstance(value, Tensor) and value.ndim > 0 and len(value) == examples
        return value[start : start + size] if per_row else value

    return {key: of(value) for key, value in inputs.items()} if isinstance(inputs, Mapping) else of(inputs)


def _part(targets: Tensor | None, start: int, size: int) -> Tensor | None:
    return None if targets is None else targets[start : start + size]
