"""Mean and scatter of each parameter's gradient over examples, layer by layer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from gradscope.gradients.example_gradients import example_gradients
from gradscope.gradients.example_values import ExampleSource
from gradscope.gradients.gathered import copied, gathered, read_once
from gradscope.gradients.grams.layers import Layer, layers
from gradscope.gradients.mixing import Mixing
from gradscope.gradients.own_parameters import without_own_parameters
from gradscope.instruments.batch_norm import Statistics, batch_norm
from gradscope.instruments.quiet import left_as_found
from gradscope.measures.signal_to_noise import SignalToNoise
from gradscope.problem import Problem, as_problem

COUNTED_ELSEWHERE = (
    "The parameters of these layers are counted at the layer that holds them first, or are no floating-point numbers. "
    "Choose others with at=."
)


def signal_to_noise(
    problem: Any,
    *,
    at: str | Sequence[str] | None = None,
    source: ExampleSource = "loss",
    advance: Callable[[int], None] = lambda examples: None,
) -> dict[str, SignalToNoise]:
    """Per-parameter statistics of per-example gradients for every layer, over all batches.

    A Gram does not hold the scatter of single parameters, so every example's own gradient is computed and taken in:
    many times the cost of `layer_grams`. See `example_gradients` for the ways and for the proof that examples do not
    meet; where they do (batch normalisation that differentiates its statistics, or any module that lets an example's
    gradient hang on the others) each costs a backward pass of its whole batch. The gradient is then that of the
    example's own value, so that `train` and `own` are one here. Four numbers are held for each parameter.

    Args:
        problem: Problem or (model, data), with two examples or more.
        at: Layers, as in `instruments.sites`; None for every module with parameters of its own.
        source: As in `example_values`; gradients are not divided by the number of examples.
        advance: Told how many examples were done, whenever some were; less than none where they have to be done again.

    Returns:
        From module name to the statistics of its own parameters, flattened and one after the other; frozen ones count
        too, and a tied tensor at its first owner only, both as in `layer_grams`. Layers without any are left out.
        Statistics of batch normalisation are those of all examples, as there.

    Raises:
        ValueError: Fewer than two examples, an unknown source, no layer with parameters of its own, or batches that
            cannot be joined although batch normalisation takes its statistics from all examples.

    Source:
        Liu et al. (2020), arXiv:2001.07384.
    """
    problem = as_problem(problem)
    if problem.examples < 2:
        raise ValueError(f"signal_to_noise compares examples, and the data has {problem.examples}.")
    wanted = [layer for layer in layers(problem.model, at) if layer.parameters]
    if not wanted:
        raise ValueError(without_own_parameters(problem, at) or COUNTED_ELSEWHERE)
    modes = set(problem.batch_norm_name.split("+"))
    if modes & {"train", "own"}:
        problem = gathered(problem)[0]
    elif "frozen" in modes:
        problem = read_once(problem)
    with _prepared(problem) as statistics:
        for layer in wanted:
            for parameter in layer.parameters.values():
                parameter.requires_grad_(True)
        done = 0

        def count(examples: int) -> None:
            nonlocal done
            done += examples
            advance(examples)

        try:
            return _taken_in(problem, wanted, source, statistics, count, among=False)
        except Mixing:
            advance(-done)
            return _taken_in(problem, wanted, source, statistics, advance, among=True)


@contextmanager
def _prepared(problem: Problem) -> Iterator[Statistics | None]:
    """As `problem.prepared()`, with gradients, and frozen statistics those of all examples."""
    statistics = Statistics() if "frozen" in problem.batch_norm_name.split("+") else None
    with left_as_found(problem.model), batch_norm(problem.model, problem.batch_norm, statistics):
        problem.model.eval()
        if statistics is not None:
            inputs, _ = gathered(problem)[0].first_batch()
            with torch.no_grad():
                problem.outputs(copied(inputs))
        with torch.enable_grad():
            yield statistics


def _taken_in(
    problem: Problem,
    wanted: Sequence[Layer],
    source: ExampleSource,
    statistics: Statistics | None,
    advance: Callable[[int], None],
    *,
    among: bool,
) -> dict[str, SignalToNoise]:
    found = {layer.name: SignalToNoise() for layer in wanted}
    parameters = {name: one for layer in wanted for name, one in layer.parameters.items()}
    for inputs, targets in problem.batches():
        for gradients in example_gradients(
            problem, inputs, targets, source, parameters, statistics=statistics, among=among
        ):
            left = iter(gradients)
            for layer in wanted:
                own = [next(left).flatten(start_dim=1) for _ in layer.parameters]
                found[layer.name].add(own[0] if len(own) == 1 else torch.cat(own, dim=1))
            advance(len(gradients[0]))
    return found
