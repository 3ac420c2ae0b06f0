"""Symmetric matrices in float64 whose eigenvalues are known, as unlike each other as spectra get."""

import torch
from torch import Tensor

SIZE = 100


def rotated(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """A matrix with these eigenvalues and random eigenvectors."""
    size = len(eigenvalues)
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis = torch.linalg.qr(drawn).Q
    matrix = (basis * eigenvalues.double()) @ basis.T
    return (matrix + matrix.T) / 2


def padded(*eigenvalues: float) -> Tensor:
    return torch.cat([torch.tensor(eigenvalues), torch.zeros(SIZE - len(eigenvalues))])


def normal(size: int, seed: int = 1) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


_COUNT = torch.arange(SIZE, dtype=torch.float64)
MATRICES = {
    "indefinite": rotated(normal(SIZE)),
    "traceless": rotated(torch.cat([torch.linspace(0.5, 1, 50), -torch.linspace(0.5, 1, 50)])),
    "exponential decay": rotated(0.9**_COUNT),
    "power decay": rotated((1 + _COUNT) ** -1.5),
    "rank 2": rotated(padded(3.0, 1.0)),
    "rank 6, indefinite": rotated(padded(3.0, 2.0, 1.0, 1.0, 0.5, -1.0)),
    "outliers and bulk": rotated(torch.cat([torch.tensor([10.0, 6.0, 4.0, -0.8]), 0.05 * normal(SIZE - 4)])),
    "diagonal": torch.diag(normal(SIZE)),
}
