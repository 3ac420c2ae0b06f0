"""What one use of a parameter adds to its per-example gradients, and the Gram of several uses together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradscope.gradients.grams.kernels import (
    convolution_weight_gram,
    elementwise_gram,
    embedding_gram,
    gram_of_rows,
    linear_weight_gram,
)
from gradscope.gradients.grams.kernels.scale import NEAR, largest_entries
from gradscope.gradients.grams.scaled import WIDE, Scaled, ScaledGram, divided
from gradscope.gradients.grams.tied import tied_cross_gram

PRODUCTS, PER_EXAMPLE, FALLBACK = "products", "per-example gradients", "fallback"


@dataclass(frozen=True, eq=False)
class Outer:
    """A matrix used at T positions: per example sum_t x_t g_t^T, [din, dout]; `flipped` for its transpose.

    Attributes:
        inputs: [B, T, din].
        gradients: [B, T, dout].
        scaled: The gradients with their scale taken out, where this was done already.
    """

    inputs: Tensor
    gradients: Tensor
    flipped: bool = False
    scaled: Scaled | None = None

    def rows(self) -> Tensor:
        product = torch.bmm(self.inputs.transpose(1, 2), self.gradients)
        return (product.transpose(1, 2) if self.flipped else product).flatten(1)

    def sides(self) -> tuple[Tensor, Tensor]:
        """The factors along the parameter's first and second axis, [B, T, rows] and [B, T, columns]."""
        return (self.gradients, self.inputs) if self.flipped else (self.inputs, self.gradients)


@dataclass(frozen=True, eq=False)
class Embedded:
    """A table looked up at T positions: indices [B, T], gradients [B, T, D], of a table with `length` rows."""

    indices: Tensor
    gradients: Tensor
    padding_idx: int | None
    length: int

    def rows(self) -> Tensor:
        examples, _, width = self.gradients.shape
        gradients = self.gradients
        if self.padding_idx is not None:
            gradients = gradients * (self.indices != self.padding_idx)[..., None]
        table = gradients.new_zeros(examples, self.length, width)
        return table.scatter_add_(1, self.indices[..., None].expand_as(gradients), gradients).flatten(1)


@dataclass(frozen=True, eq=False)
class Convolved:
    """A kernel of `shape` used m times for each example: inputs [B, m, C, *], gradients [B, m, O, *]."""

    inputs: Tensor
    gradients: Tensor
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    scaled: Scaled | None = None

    @property
    def options(self) -> tuple[Any, ...]:
        return (self.shape, self.stride, self.padding, self.dilation, self.groups)

    def uses(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.inputs.unbind(1), self.gradients.unbind(1), strict=True))

    def rows(self) -> Tensor:
        weight = self.inputs.new_empty(1).expand(self.shape)
        options = (None, self.stride, self.padding, self.dilation, False, [0] * len(self.stride), self.groups)
        backward = torch.ops.aten.convolution_backward
        pairs = zip(self.gradients, self.inputs, strict=True)
        found = [backward(g, x, weight, *options, (False, True, False))[1] for g, x in pairs]
        return torch.stack(found).flatten(1)


@dataclass(frozen=True, eq=False)
class Elementwise:
    """A parameter of `shape` broadcast against [B, ...]: factor (1 if None) times gradients, summed to its shape."""

    factor: Tensor | None
    gradients: Tensor
    shape: tuple[int, ...]
    scaled: Scaled | None = None

    def rows(self) -> Tensor:
        products = self.gradients if self.factor is None else self.factor * self.gradients
        return products.sum_to_size(len(products), *_padded(self.shape, products.ndim - 1)).flatten(1)


@dataclass(frozen=True, eq=False)
class Dense:
    """Per-example gradients themselves, [B, numel]."""

    gradients: Tensor

    def rows(self) -> Tensor:
        return self.gradients


Term = Outer | Embedded | Convolved | Elementwise | Dense


class Combined:
    """The Gram of a parameter, and its factors where it is used once for each example.

    Attributes:
        engine: How it was made.
        forward: Gram of what the parameter multiplies, [B, B]; None where the Gram does not factor.
        backward: Gram of the gradients behind it.
    """

    def __init__(
        self,
        gram: ScaledGram | None,
        engine: str,
        forward: Tensor | None = None,
        backward: ScaledGram | None = None,
    ) -> None:
        self._gram = gram
        self.engine, self.forward, self.backward = engine, forward, backward

    @property
    def gram(self) -> ScaledGram:
        if self._gram is None and self.forward is not None and self.backward is not None:
            return ScaledGram(self.forward * self.backward.gram, self.backward.log_scale)
        if self._gram is None:
            raise ValueError("A Gram that does not factor has to be given, got none.")
        return self._gram


def combined(terms: Sequence[Term]) -> Combined:
    """The Gram of a parameter (or of one piece of it) whose uses are `terms`; these add up for each example."""
    first = terms[0]
    if len(terms) == 1 and isinstance(first, Outer) and first.inputs.shape[1] == 1:
        scaled = first.scaled or Scaled(first.gradients)
        forward = gram_of_rows(first.inputs[:, 0])
        return Combined(None, PRODUCTS, forward, ScaledGram(scaled.rows_gram, scaled.log_scale))
    known: Scaled | None = getattr(first, "scaled", None) if len(terms) == 1 else None
    if known is None:
        level, log_scale = levelled(terms)
    else:
        log_scale = known.log_scale
        if isinstance(first, Elementwise) and first.factor is None and _is_whole(first):
            return Combined(ScaledGram(known.rows_gram, log_scale), PRODUCTS)
        level = [first]
        if log_scale is not None:
            level = [replace(first, gradients=known.values.view(first.gradients.shape))]
    gram, engine = _gram(level)
    return Combined(ScaledGram(gram, log_scale), engine)


def levelled(terms: Sequence[Term]) -> tuple[list[Term], Tensor | None]:
    """All gradients of an example divided by the largest of them, and its logarithm; None if all are near 1."""
    largest = torch.stack([largest_entries(term.gradients) for term in terms]).amax(dim=0)
    low, high = largest.aminmax()
    if largest.dtype in WIDE and float(low) > 2.0**-NEAR and float(high) < 2.0**NEAR:
        return list(terms), None
    pairs = [divided(term.gradients, largest) for term in terms]
    return [replace(term, gradients=pair[0]) for term, pair in zip(terms, pairs, strict=True)], pairs[0][1]


def _gram(terms: Sequence[Term]) -> tuple[Tensor, str]:
    outer = [term for term in terms if isinstance(term, Outer)]
    embedded = [term for term in terms if isinstance(term, Embedded)]
    if len(outer) + len(embedded) == len(terms) and len({t.padding_idx for t in embedded}) <= 1:
        return _matrices(outer, embedded)
    convolved = [term for term in terms if isinstance(term, Convolved)]
    if len(convolved) == len(terms) and len({term.options for term in convolved}) == 1:
        uses = [use for term in convolved for use in term.uses()]
        return convolution_weight_gram(uses, *convolved[0].options)
    first = terms[0]
    if isinstance(first, Elementwise) and len(terms) == 1:
        shape = _padded(first.shape, first.gradients.ndim - 1)
        return elementwise_gram(first.factor, first.gradients, shape), PRODUCTS
    rows = terms[0].rows()
    for term in terms[1:]:
        rows = rows + term.rows()
    return gram_of_rows(rows), PER_EXAMPLE


def _matrices(outer: Sequence[Outer], embedded: Sequence[Embedded]) -> tuple[Tensor, str]:
    gram, engine = None, PRODUCTS
    if outer:
        sides = [term.sides() for term in outer]
        left, right = (
            torch.cat(side, dim=1) if len(sides) > 1 else side[0] for side in zip(*sides, strict=True)
        )
        gram, engine = linear_weight_gram(left, right)
    if embedded:
        padding = embedded[0].padding_idx
        indices = torch.cat([term.indices for term in embedded], dim=1)
        gradients = torch.cat([term.gradients for term in embedded], dim=1)
        own = embedding_gram(indices, gradients, padding)
        if gram is not None:
            cross = tied_cross_gram(indices, gradients, padding, left, right)
            own = own + cross + cross.T
        gram = own if gram is None else gram + own
    if gram is None:
        raise ValueError("A Gram needs at least one use of a parameter, got none.")
    return gram, engine


def _padded(shape: Sequence[int], dims: int) -> tuple[int, ...]:
    return (1,) * (dims - len(shape)) + tuple(shape)


def _is_whole(term: Elementwise) -> bool:
    return term.gradients[0].numel() == torch.Size(term.shape).numel()
