"""Grams of one batch: the one backward pass, and what it had to leave to backward passes of single examples."""

import math
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from gradscope.gradients.example_values import ExampleSource, example_values
from gradscope.gradients.grams.backward import Found, one_pass
from gradscope.gradients.grams.examples import opened
from gradscope.gradients.grams.layers import Layer
from gradscope.gradients.grams.outputs import outputs_of
from gradscope.gradients.grams.result import LayerGram
from gradscope.gradients.grams.scaled import ScaledGram
from gradscope.gradients.grams.terms import FALLBACK, PER_EXAMPLE, PRODUCTS, Combined
from gradscope.gradients.grams.whole import outputs_one_by_one, parameters_one_by_one
from gradscope.instruments.batch_norm import Statistics
from gradscope.problem import Batch, Problem, examples_in

_OWN = "under batch_norm='own' each example's gradient goes through statistics it shares with others"
_CHECKPOINTED = "activation checkpointing computes layers again in the backward pass"
_NOT_A_SUM = "the gradients of single examples do not add up to that of their sum"
_NOT_REACHED = "the source does not depend on its parameters"


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
        _one_by_one(problem, batch, layers, source, statistics, found, [wanted[key] for key in found.left])
    with torch.no_grad(), torch._C.DisableTorchFunction():
        return {layer.name: _gathered(layer, found, examples) for layer in layers}


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
    with torch.enable_grad(), outputs_of(layers) as outputs:
        values = _differentiable(example_values(problem, inputs, batch[1], source))
        if outputs.computed_again:
            return _all_left(layers, _CHECKPOINTED)
        return one_pass(values, layers, outputs, sources, integers)


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
) -> None:
    """What backward passes of single examples give, put where the one pass left something out."""
    if not left and not found.mixed:
        return
    if statistics is not None:
        statistics.again()
    with torch.enable_grad(), outputs_of(layers) as outputs:
        values = _differentiable(example_values(problem, batch[0], batch[1], source))
        for key, gram in parameters_one_by_one(values, left).items():
            if gram is None:
                found.left[key] = _NOT_A_SUM
            else:
                found.parameters[key] = Combined(gram, FALLBACK)
        again = {name: edges for name, edges in outputs.items() if name in found.outputs_left}
        grams, reasons = outputs_one_by_one(values, again)
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


def _gathered(layer: Layer, found: Found, examples: int) -> LayerGram:
    # Taken out, so that what a layer's Grams were made from is let go before the next layer's are made.
    parts = [found.parameters.pop(id(p)) for p in layer.parameters.values() if id(p) in found.parameters]
    output = found.outputs.pop(layer.name, None)
    engines = {part.engine for part in parts}
    engine = next((e for e in (FALLBACK, PER_EXAMPLE, PRODUCTS) if e in engines), "")
    output_matrix = None if output is None else output.matrix()
    factored = [part for part in parts if part.forward is not None]
    forward, backward = None, None
    if len(factored) == 1 and factored[0].backward is not None:
        forward = factored[0].forward
        same = output is not None and output.is_same(factored[0].backward)
        backward = output_matrix if same else factored[0].backward.matrix()
    matrix: Tensor | None
    if forward is not None and backward is not None and _is_dense_layer(parts):
        behind = factored[0].backward
        bias = len(parts) == 2
        matrix = torch.addcmul(backward, forward, backward) if bias else forward * backward
        log_norms = _log_norms(behind, examples) + (forward.diagonal() + int(bias)).log() / 2
    else:
        total = _sum([part.gram for part in parts])
        matrix = None if total is None else total.matrix()
        log_norms = _log_norms(total, examples)
    output_log_norms = _log_norms(output, examples)
    return LayerGram(
        matrix,
        output_matrix,
        log_norms,
        output_log_norms,
        forward,
        backward,
        engine,
        _reason(
            layer,
            found,
            engine,
            None if matrix is None else log_norms,
            None if output is None else output_log_norms,
        ),
        tuple(layer.parameters),
    )


def _is_dense_layer(parts: Sequence[Combined]) -> bool:
    """Whether these are a weight used once and perhaps a bias, whose Gram is the weight's backward factor."""
    weights = [part for part in parts if part.backward is not None]
    biases = [part for part in parts if part.backward is None]
    if len(weights) != 1 or len(biases) > 1:
        return False
    return all(bias.gram.is_same(weights[0].backward) for bias in biases)


def _sum(grams: Sequence[ScaledGram]) -> ScaledGram | None:
    total: ScaledGram | None = None
    for gram in grams:
        total = gram if total is None else total + gram
    return total


def _log_norms(gram: ScaledGram | None, examples: int) -> Tensor:
    return torch.full((examples,), torch.nan, dtype=torch.float64) if gram is None else gram.log_norms()


def _reason(layer: Layer, found: Found, engine: str, parameter: Tensor | None, output: Tensor | None) -> str:
    reasons = []
    given = [found.left[id(p)] for p in layer.parameters.values() if id(p) in found.left]
    if not layer.parameters:
        reasons.append("it has no parameters of its own that are not counted elsewhere")
    elif parameter is None:
        reasons.append(given[0] if given else _NOT_REACHED)
    elif engine == FALLBACK:
        reasons.append(given[0] if given else "no rule for what its parameters go through")
    if output is None:
        reasons.append(
            found.outputs_left.get(layer.name, "it is never called, or gives out no gradient: no output")
        )
    for name, log_norms in (("parameter", parameter), ("output", output)):
        # One look at the largest, which is not a number where some are not.
        if log_norms is not None and not float(log_norms.max()) < math.inf:
            bad = int((log_norms.isnan() | log_norms.isposinf()).sum())
            reasons.append(f"the {name} gradients of {bad} examples are not finite")
    return "; ".join(reasons)
