"""Symmetric matrices with known spectra: a table from name to eigenvalues, and the matrices made of them."""

import torch
from torch import Tensor

from gradscope.curvature import MatrixOperator, Operator


def with_spectrum(values: Tensor, seed: int = 0) -> MatrixOperator:
    """A dense symmetric matrix with these eigenvalues and random eigenvectors."""
    size = len(values)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    matrix = basis @ torch.diag(values.double()) @ basis.T
    return MatrixOperator(((matrix + matrix.T) / 2).to(values.dtype))


def trained_like(size: int = 400, dtype: torch.dtype = torch.float64) -> Tensor:
    """Twelve outliers, a bulk that decays towards zero, a few small negatives."""
    outliers = torch.logspace(0, -1, 12, dtype=torch.float64)
    bulk = torch.logspace(-2, -8, size - 32, dtype=torch.float64)
    return torch.cat([outliers, bulk, -torch.logspace(-2, -4, 20, dtype=torch.float64)]).to(dtype)


def semicircle(size: int) -> Tensor:
    """The spectrum of a random symmetric matrix, on [-1, 1]: no outliers, no gaps."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(size, size, generator=generator, dtype=torch.float64)
    values = torch.linalg.eigvalsh(noise + noise.T)
    return values / values.abs().max()


def repeated(*copies: tuple[float, int]) -> Tensor:
    """Each value as often as told."""
    return torch.cat([torch.full((count,), value, dtype=torch.float64) for value, count in copies])


SPECTRA: dict[str, Tensor] = {
    "indefinite": semicircle(80),
    "positive semi-definite": torch.logspace(0, -6, 80, dtype=torch.float64),
    "trained": trained_like(120),
    "clustered": torch.cat([1 + 1e-9 * torch.arange(4).double(), torch.linspace(-0.5, 0.5, 60).double()]),
    "repeated": repeated((2.0, 3), (1.0, 5), (-1.5, 4), (0.1, 20)),
    "low rank": torch.cat([torch.tensor([3.0, -2.0, 1.0]).double(), torch.zeros(60).double()]),
    "zero": torch.zeros(12).double(),
    "identity": torch.ones(30).double(),
    "1 x 1": torch.tensor([-2.5]).double(),
    "2 x 2": torch.tensor([3.0, -1.0]).double(),
    "huge": 1e30 * semicircle(60),
    "tiny": 1e-30 * semicircle(60),
}
"""Name -> all eigenvalues."""

HIDING: dict[str, tuple[Tensor, float]] = {
    "pairs": (torch.cat([repeated((2.0, 2), (1.5, 2), (1.0, 2), (0.7, 3)), 0.3 * semicircle(40)]), 1e-3),
    "fours": (torch.cat([1 + 1e-9 * torch.arange(4).double(), torch.linspace(-0.5, 0.5, 60).double()]), 1e-3),
    "zero point": (
        repeated(*((sign * value, 6) for value in (3.0, 1.2, 0.5, 0.1) for sign in (1, -1))),
        1e-3,
    ),
    "crowded": (semicircle(80), 1e-2),
}
"""Name -> all eigenvalues, and a tolerance at which one Krylov space passes some of the outermost over."""


class Diagonal(Operator):
    """A diagonal matrix, for sizes at which a dense one takes too long."""

    def __init__(self, values: Tensor) -> None:
        super().__init__(len(values), values.dtype, values.device)
        self.values = values

    def _apply(self, rows: Tensor) -> Tensor:
        return rows * self.values
