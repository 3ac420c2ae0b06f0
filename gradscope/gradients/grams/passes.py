"""Grams of one batch: the one backward pass, and what it had to leave to backward passes of single examples."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress

import torch
from torch import Tensor, nn

from gradscope.gradients.example_values import ExampleSource, example_values
from gradscope.gradients.grams.backward import Found, one_pass
from gradscope.gradients.grams.examples import opened
from gradscope.gradients.grams.gathered import gathered
from gradscope.gradients.grams.hooks import hooks_heard
from gradscope.gradients.grams.layers import Layer
from gradscope.gradients.grams.outputs import outputs_of
from gradscope.gradients.grams.result import LayerGram
from gradscope.gradients.grams.structure import structure
from gradscope.gradients.grams.terms import FALLBACK, Combined
from gradscope.gradients.grams.whole import outputs_one_by_one, parameters_one_by_one
from gradscope.instruments.batch_norm import Statistics
from gradscope.instruments.quiet import left_as_found, random_state_kept
from gradscope.problem import Batch, Problem, examples_in

_OWN = "under batch_norm='own' each example's gradient goes through statistics it shares with others"
_CHECKPOINTED = "activation checkpointing computes layers again in the backward pass"
_HOOKED = "a backward hook of the model's may change gradients"
_NOT_A_SUM = "the gradients of single examples do not add up to that of their sum"


def grams_of_examples(
    problem: Problem,
    batch: Batch,
    layers: Sequence[Layer],
    source: ExampleSource,
    *,
    own: bool,
    statistics: Statistics | None,
) -> dict[str, LayerGram]:
    """The Grams of the examples of one batch, by layer; call where the model is prepared.

    Args:
        own: Every gradient by a backward pass of its own.
        statistics: Of frozen batch normalisation.
    """
    wanted = {id(p): p for layer in layers for p in layer.parameters.values()}
    examples = examples_in(batch[0])
    found = _all_left(layers, _OWN) if own else _together(problem, batch, layers, source, statistics)
    if found.left or found.outputs_left:
        _one_by_one(
            problem, batch, layers, source, statistics, found, [wanted[key] for key in found.left], own
        )
    with torch.no_grad(), torch._C.DisableTorchFunction():
        return gathered(layers, found, examples)


def _together(
    problem: Problem,
    batch: Batch,
    layers: Sequence[Layer],
    source: ExampleSource,
    statistics: Statistics | None,
) -> Found:
    """What one backward pass gives."""
    if _has_convolutions(problem.model):
        # A network may be written for one order in memory: `x.view(len(x), -1)` behind a convolution, for example.
        with suppress(RuntimeError):
            return _in_order(problem, batch, layers, source, statistics, channels_last=True)
    return _in_order(problem, batch, layers, source, statistics, channels_last=False)


def _in_order(
    problem: Problem,
    batch: Batch,
    layers: Sequence[Layer],
    source: ExampleSource,
    statistics: Statistics | None,
    channels_last: bool,
) -> Found:
    if statistics is not None:
        statistics.again()
    inputs, sources, integers = opened(batch[0], examples_in(batch[0]), channels_last)
    with torch.enable_grad(), _state_kept(problem.model), outputs_of(layers) as outputs:
        with hooks_heard(problem.model) as hooks:
            values = _differentiable(example_values(problem, inputs, batch[1], source))
        if outputs.computed_again:
            return _all_left(layers, _CHECKPOINTED)
        found = Found() if hooks.changed else one_pass(values, layers, outputs, sources, integers)
        return _all_left(layers, _HOOKED) if hooks.changed else found


def _has_convolutions(model: nn.Module) -> bool:
    """Whether images are best laid out with channels last, as they are on a CPU."""
    return any(isinstance(m, nn.Conv2d) and m.weight.device.type == "cpu" for m in model.modules())


def _one_by_one(
    problem: Problem,
    batch: Batch,
    layers: Sequence[Layer],
    source: ExampleSource,
    statistics: Statistics | None,
    found: Found,
    left: Sequence[nn.Parameter],
    own: bool,
) -> None:
    """What backward passes of single examples give, put where the one pass left something out."""
    if not left and not found.mixed:
        return
    if statistics is not None:
        statistics.again()
    inputs, sources, integers = opened(batch[0], examples_in(batch[0]))
    with torch.enable_grad(), _state_kept(problem.model), outputs_of(layers) as outputs:
        values = _differentiable(example_values(problem, inputs, batch[1], source))
        live = structure(values, sources, integers).live
        for key, gram in parameters_one_by_one(values, left).items():
            if gram is None:
                found.left[key] = _NOT_A_SUM
                found.unknown.add(key)
            else:
                found.parameters[key] = Combined(gram, FALLBACK)
        again = {name: edges for name, edges in outputs.items() if name in found.outputs_left}
        constant = [name for name, edges in again.items() if not all(edge.node in live for edge in edges)]
        for name in constant:
            found.outputs_left[name] = "its output does not depend on the examples"
            del again[name]
        grams, reasons = outputs_one_by_one(values, again, own)
        found.outputs |= grams
        found.outputs_left |= reasons


def _all_left(layers: Sequence[Layer], why: str) -> Found:
    found = Found(left={id(p): why for layer in layers for p in layer.parameters.values()}, mixed=True)
    found.outputs_left = {layer.name: why for layer in layers}
    return found


def _differentiable(values: Tensor) -> Tensor:
    if not values.requires_grad:
        raise ValueError(
            "The source does not depend on any parameter in a way autograd can see, so there are no gradients. Pass "
            "another source, or a model whose forward pass is not detached."
        )
    return values


def _state_kept(model: nn.Module) -> AbstractContextManager[None]:
    """Every forward pass starts from the same buffers and random numbers, and so is the same function."""
    return left_as_found(model) if any(True for _ in model.buffers()) else random_state_kept()
