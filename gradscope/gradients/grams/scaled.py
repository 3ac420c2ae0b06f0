"""Gram matrices kept apart from the scale of each example, so that no number is too small for them."""

from functools import cached_property

import torch
from torch import Tensor

from gradscope.gradients.grams.kernels import gram_of_rows


class Scaled:
    """Per-example values divided by their own largest entry.

    Attributes:
        values: [B, ...], largest absolute value 1 for each example (0 where all are).
        log_scale: Natural logarithm of what they were divided by, [B], float64; 0 for zeros.
    """

    def __init__(self, tensor: Tensor) -> None:
        # In whatever order they lie in memory: a copy of channels-last gradients would cost as much as a layer's Gram.
        largest = tensor.abs().amax(dim=tuple(range(1, tensor.ndim)))
        largest = torch.where(largest > 0, largest, 1.0)
        self.values = tensor / largest.view(-1, *[1] * (tensor.ndim - 1))
        self.log_scale = largest.double().log()

    def viewed(self, shape: torch.Size) -> "Scaled":
        """The same numbers in the same order, of another shape behind the first axis."""
        return self if self.values.shape == shape else _Viewed(self, shape)

    @cached_property
    def rows_gram(self) -> Tensor:
        """[B, B], each example's values as one row."""
        return gram_of_rows(self.values)


class _Viewed(Scaled):
    def __init__(self, scaled: Scaled, shape: torch.Size) -> None:
        self.values = scaled.values.view(shape)
        self.log_scale = scaled.log_scale
        self._scaled = scaled

    @cached_property
    def rows_gram(self) -> Tensor:
        return self._scaled.rows_gram


class ScaledGram:
    """A Gram matrix G_ij = gram_ij exp(log_scale_i + log_scale_j).

    Attributes:
        gram: [B, B], float64.
        log_scale: [B], float64.
    """

    def __init__(self, gram: Tensor, log_scale: Tensor) -> None:
        self.gram = gram
        self.log_scale = log_scale

    def matrix(self) -> Tensor:
        """The Gram itself, float64: 0 or infinite where its numbers are out of range."""
        scale = self.log_scale.exp()
        return (self.gram * scale).mul_(scale[:, None])

    def log_norms(self) -> Tensor:
        """Logarithms of the examples' norms, [B]; -inf for a zero gradient."""
        return self.gram.diagonal().log() / 2 + self.log_scale

    def is_same(self, other: "ScaledGram | None") -> bool:
        """Whether the other holds the very same tensors."""
        return other is not None and other.gram is self.gram and other.log_scale is self.log_scale

    def __add__(self, other: "ScaledGram") -> "ScaledGram":
        if other.log_scale is self.log_scale:
            return ScaledGram(self.gram + other.gram, self.log_scale)
        # The scale of a zero row is arbitrary and must not drown the other's.
        own = torch.where(self.gram.diagonal() == 0, -torch.inf, self.log_scale)
        others = torch.where(other.gram.diagonal() == 0, -torch.inf, other.log_scale)
        common = torch.maximum(own, others)
        common = torch.where(common == -torch.inf, 0.0, common)
        return ScaledGram(self._at(common) + other._at(common), common)

    def _at(self, log_scale: Tensor) -> Tensor:
        factor = (self.log_scale - log_scale).clamp(max=0).exp()
        return (self.gram * factor).mul_(factor[:, None])
