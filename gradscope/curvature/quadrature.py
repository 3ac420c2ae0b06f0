"""Gauss quadratures of an operator's spectral measure: Lanczos without a basis, many probes in step."""

from dataclasses import dataclass, field

import numpy
import torch
from scipy.linalg import eigh_tridiagonal

from gradscope.curvature.lanczos import dot, norm
from gradscope.curvature.operators import Operator


@dataclass
class Recurrence:
    """Three-term recurrence of one probe: T, and the two vectors it goes on from."""

    current: torch.Tensor
    previous: torch.Tensor | None = None
    alphas: list[float] = field(default_factory=list)
    betas: list[float] = field(default_factory=list)
    first_beta: float = 0.0
    closed: bool = False

    def advance(self, product: torch.Tensor, eps: float) -> None:
        alpha = dot(product, self.current)
        remainder = torch.add(product, self.current, alpha=-alpha)
        if self.previous is not None:
            remainder = remainder.sub_(self.previous, alpha=self.betas[-1])
        beta = norm(remainder)
        if not numpy.isfinite(alpha + beta):
            raise FloatingPointError(
                "A product with the operator is not finite. Look for NaN or infinite parameters."
            )
        self.alphas.append(alpha)
        if len(self.alphas) == 1:
            self.first_beta = beta
        scale = max(beta, *map(abs, self.alphas), *self.betas)
        if beta <= 64 * eps * scale:
            self.closed = True
            return
        self.betas.append(beta)
        self.previous, self.current = self.current, remainder.div_(beta)

    def quadrature(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Nodes and weights (which sum to 1), [m] each."""
        m = len(self.alphas)
        nodes, vectors = eigh_tridiagonal(numpy.array(self.alphas), numpy.array(self.betas[: m - 1]))
        return nodes, vectors[0] ** 2


def recurrences(operator: Operator, probes: int, steps: int, seed: int) -> tuple[list[Recurrence], int]:
    """Run all probes in step; a probe whose Krylov space is exhausted rests. Also the number of zero rows."""
    size = operator.shape[0]
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (probes, size), generator=generator, dtype=torch.int8)
    starts = signs.to(operator.device, operator.dtype).mul_(2).sub_(1).div_(size**0.5)
    runs = [Recurrence(start) for start in starts]
    zero_rows = 0
    for step in range(steps):
        active = [run for run in runs if not run.closed]
        if not active:
            break
        products = operator.matmat(torch.stack([run.current for run in active]).T).T
        if step == 0:
            zero_rows = int((products == 0).all(dim=0).sum())
        for run, product in zip(active, products, strict=True):
            run.advance(product, torch.finfo(operator.dtype).eps)
    return runs, zero_rows
