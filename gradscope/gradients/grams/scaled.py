"""Gram matrices kept apart from the scale of each example, so that no number is too small for them."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from gradscope.gradients.grams.kernels import gram_of_rows
from gradscope.gradients.grams.kernels.rows import gram_and_range
from gradscope.gradients.grams.kernels.scale import largest_entries

# Half precision has no room for products of numbers that are not near 1.
WIDE = (torch.float32, torch.float64)


class Scaled:
    """Per-example values, divided by their own largest entry unless all are near 1 as they are.

    Attributes:
        values: [B, ...]; the norm of each example is between 1e-12 and 1e15, or its largest absolute value is 1, or 0.
        log_scale: Natural logarithm of what they were divided by, [B], float64, 0 for zeros; None: by nothing.
    """

    def __init__(self, tensor: Tensor) -> None:
        if tensor.is_complex():
            # Gradients at a complex number are those at its two parts.
            tensor = torch.view_as_real(tensor.resolve_conj())
        self.values = tensor
        self.log_scale: Tensor | None = None
        if tensor.dtype in WIDE:
            # The Gram is wanted anyway, and its diagonal tells what else takes a look at every number.
            gram, in_range = gram_and_range(tensor)
            if in_range:
                self.rows_gram = gram
                return
        self.values, self.log_scale = divided(tensor, largest_entries(tensor))

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


def divided(tensor: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Examples [B, ...] divided by `largest` [B], and its natural logarithm; by 1 where it is 0."""
    divisor = torch.where(largest > 0, largest, 1.0)
    return tensor / divisor.view(-1, *[1] * (tensor.ndim - 1)), divisor.double().log()


class ScaledGram:
    """A Gram matrix G_ij = gram_ij exp(log_scale_i + log_scale_j).

    Attributes:
        gram: [B, B], float64.
        log_scale: [B], float64; None stands for zeros.
    """

    def __init__(self, gram: Tensor, log_scale: Tensor | None) -> None:
        self.gram = gram
        self.log_scale = log_scale

    def matrix(self) -> Tensor:
        """The Gram itself, float64: 0 or infinite where its numbers are out of range."""
        if self.log_scale is None:
            return self.gram
        scale = self.log_scale.exp()
        return (self.gram * scale).mul_(scale[:, None])

    def is_same(self, other: "ScaledGram | None") -> bool:
        """Whether the other holds the very same tensors."""
        return other is not None and other.gram is self.gram and other.log_scale is self.log_scale

    def __add__(self, other: "ScaledGram") -> "ScaledGram":
        if other.log_scale is self.log_scale:
            return ScaledGram(self.gram + other.gram, self.log_scale)
        # The scale of a zero row is arbitrary and must not drown the other's.
        common = torch.maximum(self._scale_of_what_is_there(), other._scale_of_what_is_there())
        common = torch.where(common == -torch.inf, 0.0, common)
        return ScaledGram(self._at(common) + other._at(common), common)

    def _scale_of_what_is_there(self) -> Tensor:
        diagonal = self.gram.diagonal()
        scale = torch.zeros_like(diagonal) if self.log_scale is None else self.log_scale
        return torch.where(diagonal == 0, -torch.inf, scale)

    def _at(self, log_scale: Tensor) -> Tensor:
        own = -log_scale if self.log_scale is None else self.log_scale - log_scale
        factor = own.clamp(max=0).exp()
        return (self.gram * factor).mul_(factor[:, None])


def log_norms(grams: Sequence[ScaledGram]) -> list[Tensor]:
    """Logarithms of the examples' norms, [B] for each Gram; -inf for a zero gradient."""
    logarithms = half_logarithms([gram.gram.diagonal() for gram in grams])
    return [
        row.clone() if gram.log_scale is None else row + gram.log_scale
        for row, gram in zip(logarithms, grams, strict=True)
    ]


def half_logarithms(squares: Sequence[Tensor]) -> Sequence[Tensor]:
    """Of several [B], all at once where they are on one device."""
    if len({square.device for square in squares}) == 1:
        return torch.stack(list(squares)).log_().div_(2).unbind()
    return [square.log() / 2 for square in squares]
