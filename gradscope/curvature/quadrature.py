"""Gauss quadratures of an operator's spectral measure: Lanczos without a basis, many probes in step."""

import math
from dataclasses import dataclass, field

import numpy
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from gradscope.curvature.operators import Operator
from gradscope.curvature.probes import inner_product, sign_vectors
from gradscope.curvature.zero_rows import count_zero_rows

ELEMENTWISE = 2**17


@dataclass
class Recurrence:
    """Three-term recurrence of one probe: T, and the lengths of the two vectors it goes on from.

    Vectors are not scaled to length 1, since that would be one more pass over their entries a step: T is
    corrected for their lengths instead. Some entries of `betas` are negative, which changes no quadrature.

    Attributes:
        closed: Whether the Krylov space is exhausted, so that the nodes are eigenvalues but for `rounding`.
    """

    length: float
    previous_length: float = 1.0
    alphas: list[float] = field(default_factory=list)
    betas: list[float] = field(default_factory=list)
    first_beta: float = 0.0
    closed: bool = False
    rounding: float = 0.0

    def advance(self, product: Tensor, current: Tensor, previous: Tensor) -> None:
        """Take in `product`, A times `current`, and write the next vector over `previous`; all are [P]."""
        alpha = inner_product(product, current) / self.length**2
        # The next vector is scaled such that the one before needs no factor: a pass over its entries less.
        scale = -self.previous_length / self.betas[-1] if self.betas else 1.0
        weight, share = scale / self.length, -alpha * scale / self.length
        for later, now, before in zip(
            *(v.split(_piece(v)) for v in (product, current, previous)), strict=True
        ):
            before.add_(later, alpha=weight).add_(now, alpha=share)
        length = inner_product(previous, previous) ** 0.5
        beta = length / abs(scale)
        if not numpy.isfinite(alpha + beta):
            raise FloatingPointError(
                "A product with the operator is not finite. Look for NaN or infinite parameters."
            )
        self.alphas.append(alpha)
        if len(self.alphas) == 1:
            self.first_beta = beta
        largest = max(beta, *map(abs, (*self.alphas, *self.betas)))
        rounding = 64 * torch.finfo(product.dtype).eps * largest
        if beta <= rounding:
            self.closed, self.rounding = True, rounding
            return
        self.betas.append(math.copysign(beta, scale))
        self.previous_length, self.length = self.length, length
        if not 1e-6 < length < 1e6:
            # Far from 1, entries of the next product could leave the range of float32.
            previous.div_(length)
            self.length = 1.0

    def quadrature(self, steps: int | None = None) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Nodes, ascending, and weights (which sum to 1) after all steps or the first `steps`: [m] each."""
        m = len(self.alphas) if steps is None else min(steps, len(self.alphas))
        nodes, vectors = eigh_tridiagonal(numpy.array(self.alphas[:m]), numpy.array(self.betas[: m - 1]))
        return nodes, vectors[0] ** 2


def recurrences(operator: Operator, probes: int, steps: int, seed: int) -> tuple[list[Recurrence], int]:
    """Run all probes in step; a probe whose Krylov space is exhausted rests. Also the number of zero rows."""
    size = operator.shape[0]
    generator = torch.Generator().manual_seed(seed)
    current = sign_vectors(operator, probes, generator)
    previous = torch.zeros_like(current)
    runs = [Recurrence(size**0.5) for _ in range(probes)]
    zero_rows = 0
    for step in range(steps):
        active = [index for index, run in enumerate(runs) if not run.closed]
        if not active:
            break
        vectors = current if len(active) == probes else current[active]
        products = operator.matmat(vectors.T).T
        for index, product in zip(active, products, strict=True):
            runs[index].advance(product, current[index], previous[index])
        if step == 0:
            zero_rows = count_zero_rows(operator, products, generator)
        current, previous = previous, current
    return runs, zero_rows


def _piece(vector: Tensor) -> int:
    return ELEMENTWISE if vector.device.type == "cpu" else max(1, len(vector))
