"""Gradients as rows whose norms are taken: one for the whole batch, or one for each example."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradscope.gradients.split import Paths
from gradscope.problem import Problem

NORMS = ("batch", "example")


@dataclass(frozen=True)
class Parts:
    """What of a gradient one norm is taken of.

    Attributes:
        examples: Number of norms: that of the examples; 1 for the whole batch.
        factor: By which every gradient is multiplied: an example's is that of its own loss, whatever the reduction.
    """

    examples: int
    factor: float

    def rows(self, split: Any, leading: int = 1) -> Tensor:
        """Gradients [*leading, *shape], or a dict of these, as [*leading, examples, D]."""
        if isinstance(split, dict):
            split = torch.cat([part.flatten(start_dim=leading) for part in split.values()], dim=leading)
        flat = split.reshape(*split.shape[:leading], self.examples, -1)
        return flat if self.factor == 1 else flat * self.factor


def parts_of(problem: Problem, paths: Paths, norms: str) -> Parts:
    """How `norms` asks a gradient to be cut.

    Raises:
        ValueError: An unknown word; or `example` where examples have no gradients of their own: at the parameters, at a
            site whose output has no row for each example, or with batch normalisation in train mode.
    """
    if norms not in NORMS:
        raise ValueError(
            f"norms is 'batch' (of the whole batch) or 'example' (averaged over examples), got {norms!r}."
        )
    if norms == "batch":
        return Parts(1, 1.0)
    examples = paths.found.source.shape[0]
    if "train" in problem.batch_norm_name.split("+"):
        raise ValueError(
            "norms='example' wants each example's own gradient, but batch normalisation in train mode couples the "
            "examples: what arrives at one input comes from the losses of all. Take batch_norm='frozen' or "
            "norms='batch'."
        )
    if paths.at == "parameters":
        raise ValueError(
            "norms='example' is for the gradient at the input or at a site; the parameters' is summed over examples. "
            "Take norms='batch'."
        )
    if not paths.shape or paths.shape[0] != examples:
        raise ValueError(
            f"norms='example' wants a gradient of shape [{examples}, ...], one row for each example, but at "
            f"{paths.at} it has {list(paths.shape)}. Take norms='batch', or another site."
        )
    return Parts(examples, float(problem.examples) if problem.reduction == "mean" else 1.0)


@dataclass(frozen=True)
class Scaled:
    """Gradients by length, each length divided by a power of two, so that squares neither vanish nor overflow.

    Attributes:
        rows: [K+1, E, D], float64, largest entries near 1.
        exponents: Of the powers of two, [K+1].
    """

    rows: Tensor
    exponents: Tensor

    def of(self, rows: Tensor) -> Tensor:
        """Other gradients of the same lengths, divided by the same powers."""
        return torch.ldexp(rows, -self.exponents.to(rows.device)[:, None, None])

    def restored(self, values: Tensor, power: int = 1) -> Tensor:
        """Numbers [..., K+1] that go with the given power of the rows, in the gradients' own units, on the CPU."""
        return torch.ldexp(values.cpu(), power * self.exponents)


def scaled(rows: Tensor) -> Scaled:
    """Divide each length of [K+1, E, D] by a power of two; zeros stay."""
    largest = rows.abs().amax(dim=(1, 2)).cpu()
    _, exponents = torch.frexp(torch.where(torch.isfinite(largest), largest, 1.0))
    exponents = exponents.clamp(-1000, 1000)
    return Scaled(torch.ldexp(rows, -exponents.to(rows.device)[:, None, None]), exponents)
