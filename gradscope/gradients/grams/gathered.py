"""What was found of parameters and outputs, put together layer by layer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.gradients.grams.backward import Found
from gradscope.gradients.grams.layers import Layer
from gradscope.gradients.grams.result import NOT_CALLED, PARAMETERS_NOT_REACHED, DenseLayerGram, LayerGram
from gradscope.gradients.grams.scaled import ScaledGram, half_logarithms, log_norms
from gradscope.gradients.grams.terms import FALLBACK, PER_EXAMPLE, PRODUCTS, Combined


def gathered(layers: Sequence[Layer], found: Found, examples: int) -> dict[str, LayerGram]:
    """The Grams by layer. `found` is emptied, so that what they were made from is let go one layer after the other."""
    taken = [_taken(layer, found) for layer in layers]
    # Of all layers at once, for in small batches a look at a tensor costs as much as its numbers.
    own = _log_norms([one.parameter for one in taken], examples)
    dense = [place for place, one in enumerate(taken) if one.dense]
    for place, norms in zip(dense, half_logarithms([taken[k].before() for k in dense]), strict=True):
        own[place] += norms
    outputs = _log_norms([one.output for one in taken], examples)
    bad, bad_outputs = _not_finite(own), _not_finite(outputs)
    grams: dict[str, LayerGram] = {}
    for place, layer in enumerate(layers):
        one = taken.pop(0)
        reason = _reason(layer, one, found, bad[place], bad_outputs[place])
        grams[layer.name] = _gram(layer, one, own[place], outputs[place], reason)
    return grams


@dataclass(frozen=True, eq=False)
class _Taken:
    """What was found of one layer.

    Attributes:
        parameter: Gram of all its parameters; of a dense layer, the one behind its weight.
        output: Gram at its output.
        forward: Gram before its weight.
        backward: Gram behind its weight.
        dense: Its parameters are a weight used once for each example, and perhaps a bias.
        bias: There is one.
        engine: As in `LayerGram`.
    """

    parameter: ScaledGram | None
    output: ScaledGram | None
    forward: Tensor | None
    backward: ScaledGram | None
    dense: bool
    bias: bool
    engine: str

    def before(self) -> Tensor:
        """Squared norms of what a dense layer's gradients take from its inputs, [B]."""
        if self.forward is None:
            raise ValueError(
                "Only a dense layer's Gram is a product with that of its inputs; this one is not dense."
            )
        diagonal = self.forward.diagonal()
        return diagonal + 1 if self.bias else diagonal


def _taken(layer: Layer, found: Found) -> _Taken:
    parts = [found.parameters.pop(id(p)) for p in layer.parameters.values() if id(p) in found.parameters]
    if any(id(p) in found.unknown for p in layer.parameters.values()):
        # The Gram of the others would be taken for that of the layer.
        parts = []
    output = found.outputs.pop(layer.name, None)
    engines = {part.engine for part in parts}
    engine = next((e for e in (FALLBACK, PER_EXAMPLE, PRODUCTS) if e in engines), "")
    factored = [part for part in parts if part.forward is not None and part.backward is not None]
    one = factored[0] if len(factored) == 1 else Combined(None, "")
    dense = _is_dense_layer(parts)
    parameter = one.backward if dense else _sum([part.gram for part in parts])
    return _Taken(parameter, output, one.forward, one.backward, dense, len(parts) == 2, engine)


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


def _log_norms(grams: Sequence[ScaledGram | None], examples: int) -> list[Tensor]:
    """NaN where there is no Gram."""
    found = iter(log_norms([gram for gram in grams if gram is not None]))
    undefined = torch.full((examples,), math.nan, dtype=torch.float64)
    return [undefined.clone() if gram is None else next(found) for gram in grams]


def _not_finite(norms: Sequence[Tensor]) -> list[int]:
    """The number of examples without a finite gradient, for each layer; a zero gradient is finite."""
    return (~(torch.stack([row.cpu() for row in norms]) < math.inf)).sum(dim=1).tolist()


def _gram(layer: Layer, one: _Taken, norms: Tensor, output_norms: Tensor, reason: str) -> LayerGram:
    output = None if one.output is None else one.output.matrix()
    shared = one.output is not None and one.output.is_same(one.backward)
    backward = output if shared else None if one.backward is None else one.backward.matrix()
    parameters = tuple(layer.parameters)
    if one.dense and one.forward is not None and backward is not None:
        return DenseLayerGram(
            output, norms, output_norms, one.forward, backward, one.engine, reason, parameters, one.bias
        )
    matrix = None if one.parameter is None else one.parameter.matrix()
    return LayerGram(
        matrix, output, norms, output_norms, one.forward, backward, one.engine, reason, parameters
    )


def _reason(layer: Layer, one: _Taken, found: Found, bad: int, bad_outputs: int) -> str:
    reasons = []
    given = [found.left[id(p)] for p in layer.parameters.values() if id(p) in found.left]
    if not layer.parameters:
        reasons.append(_no_parameters(layer))
    elif one.parameter is None:
        unknown = [found.left[id(p)] for p in layer.parameters.values() if id(p) in found.unknown]
        reasons.append(unknown[0] if unknown else PARAMETERS_NOT_REACHED)
    elif one.engine == FALLBACK:
        reasons.append(given[0] if given else "no rule for what its parameters go through")
    if one.output is None:
        reasons.append(found.outputs_left.get(layer.name, NOT_CALLED))
    for name, gram, number in (("parameter", one.parameter, bad), ("output", one.output, bad_outputs)):
        if gram is not None and number:
            reasons.append(f"the {name} gradients of {number} examples are not finite")
    return "; ".join(reasons)


def _no_parameters(layer: Layer) -> str:
    if any(True for _ in layer.module.parameters(recurse=False)):
        return (
            "its parameters are counted at the layer that holds them first, or are no floating-point numbers"
        )
    if any(True for _ in layer.module.parameters()):
        inside = f"{layer.name}.*" if layer.name else "*"
        return f"a container: it has no parameters of its own; write at={inside!r} for the layers inside"
    return "it has no parameters"
