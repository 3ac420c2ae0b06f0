"""The vectors of a Lanczos run: stored, made orthogonal to, rotated in place."""

import numpy
import torch
from torch import Tensor

CHUNK = 16
"""Vectors allocated at a time."""

COLUMNS = 2**14
"""Entries of each vector that are taken at a time: what is summed in float32, and what a rotation copies."""


class Basis:
    """Orthonormal rows q_1 ... q_m, [m, P], allocated a few at a time.

    Args:
        size: P.
        dtype, device: Of the rows.
        capacity: The most rows there may be.
    """

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device, capacity: int) -> None:
        self.size = size
        self.dtype = dtype
        self.device = device
        self.capacity = capacity
        self._chunks: list[Tensor] = []
        self._filled = 0

    def __len__(self) -> int:
        return self._filled

    def __getitem__(self, index: int) -> Tensor:
        return self._chunks[index // CHUNK][index % CHUNK]

    def append(self, vector: Tensor, length: float) -> Tensor:
        """Store `vector / length` as the last row, and return that row.

        Raises:
            ValueError: The basis is full.
        """
        if self._filled == self.capacity:
            raise ValueError(
                f"The Lanczos basis holds {self.capacity} vectors and is full. Restart the run, or give it "
                "room for more."
            )
        if self._filled == CHUNK * len(self._chunks):
            self._chunks.append(self._allocated(min(CHUNK, self.capacity - self._filled)))
        self._filled += 1
        return torch.div(vector, length, out=self[self._filled - 1])

    def subtract(self, vector: Tensor, weights: numpy.ndarray) -> None:
        """Take the combination of the first rows with these weights, [at most m], out of `vector`, in place."""
        places = numpy.flatnonzero(weights)
        if len(places) == 1:
            vector.sub_(self[int(places[0])], alpha=float(weights[places[0]]))
        elif len(places):
            padded = self._tensor(numpy.append(weights, numpy.zeros(self._filled - len(weights))))
            for part, rows in zip(padded.split(CHUNK), self._rows(), strict=True):
                vector.addmv_(rows.T, part, alpha=-1)

    def remove_from(self, vector: Tensor) -> numpy.ndarray:
        """Take the part within the basis out of `vector`, in place; returns its components, [m]."""
        found = [self._components(rows, vector) for rows in self._rows()]
        for rows, components in zip(self._rows(), found, strict=True):
            vector.addmv_(rows.T, components.to(self.dtype), alpha=-1)
        return torch.cat(found).cpu().numpy() if found else numpy.zeros(0)

    def combined(self, weights: numpy.ndarray) -> Tensor:
        """Linear combinations of the rows, [r, P], by weights [m, r]."""
        total = torch.zeros(weights.shape[1], self.size, dtype=self.dtype, device=self.device)
        for start, rows in zip(range(0, self._filled, CHUNK), self._rows(), strict=True):
            total.addmm_(self._tensor(weights[start : start + CHUNK].T), rows)
        return total

    def rotate(self, weights: numpy.ndarray) -> None:
        """Put the r linear combinations with weights [m, r], r <= m, in the place of the m rows."""
        transposed = self._tensor(weights.T)
        count = len(transposed)
        for start in range(0, self.size, COLUMNS):
            parts = [rows[:, start : start + COLUMNS] for rows in self._rows()]
            turned = transposed @ torch.cat(parts)
            for part, rows in zip(parts, turned.split(CHUNK), strict=False):
                part[: len(rows)] = rows
        self._filled = count

    def _rows(self) -> list[Tensor]:
        counts = [min(CHUNK, self._filled - start) for start in range(0, self._filled, CHUNK)]
        return [chunk[:count] for chunk, count in zip(self._chunks, counts, strict=False)]

    def _components(self, rows: Tensor, vector: Tensor) -> Tensor:
        """Inner products with some rows, float64: in float32 a long sum loses what is small beside a large entry."""
        if self.dtype == torch.float64:
            return rows @ vector
        starts = range(0, self.size, COLUMNS)
        parts = [rows[:, start : start + COLUMNS] @ vector[start : start + COLUMNS] for start in starts]
        return torch.stack(parts).double().sum(dim=0)

    def _tensor(self, weights: numpy.ndarray) -> Tensor:
        return torch.as_tensor(numpy.ascontiguousarray(weights)).to(self.device, self.dtype)

    def _allocated(self, rows: int) -> Tensor:
        shape = (rows, self.size)
        if self.device.type == "cpu" and self.dtype in (torch.float32, torch.float64):
            # NumPy asks the system for huge pages, and touching them first takes a third of the time.
            kind = numpy.float32 if self.dtype == torch.float32 else numpy.float64
            return torch.from_numpy(numpy.empty(shape, dtype=kind))
        return torch.empty(shape, dtype=self.dtype, device=self.device)


def dot(left: Tensor, right: Tensor) -> float:
    """Inner product of two vectors, [P] each, in float64; on a CPU by pieces that stay in its cache."""
    if left.dtype == torch.float64 or left.device.type != "cpu":
        return torch.dot(left.double(), right.double()).item()
    pieces = zip(left.split(2**18), right.split(2**18), strict=True)
    return torch.stack([torch.dot(one.double(), other.double()) for one, other in pieces]).sum().item()


def norm(vector: Tensor) -> float:
    """Euclidean length of a vector, [P], summed in float64."""
    return torch.linalg.vector_norm(vector, dtype=torch.float64).item()
