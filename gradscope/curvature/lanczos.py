"""Lanczos: a tridiagonal matrix whose eigenvalues approach the operator's extreme ones."""

import numpy
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from gradscope.curvature.operators import Operator

CHUNK = 32


class Lanczos:
    """The Lanczos recurrence with full reorthogonalisation, one product a step.

    Products run in the operator's dtype; alpha, beta and the tridiagonal matrix T are float64. Each
    new vector is made orthogonal to all before it, and once more where that shortened it ("twice is
    enough"), so no ghost copies of converged eigenvalues appear. Where the Krylov space closes (beta is
    zero to rounding, relative to |T|), the run goes on from a random vector orthogonal to what it
    has: T falls into blocks, and further copies of repeated eigenvalues come out. While the first
    block lasts they are not seen: from one starting vector a repeated eigenvalue counts once.

    Args:
        operator: Symmetric, [P, P].
        seed: Of the random starting vectors.
        start: First starting vector, [P]; random when None.

    Attributes:
        alphas: Diagonal of T, length m.
        betas: Length m; betas[j] couples vectors j and j+1 (0 where a block ends), the last one is the
            coupling to the vector that comes next.
        block_start: Index of the first vector of the current block.
        exhausted: Whether the basis spans the whole space, so that T is the operator itself.

    Raises:
        ValueError: The operator is not symmetric, or `start` is zero.

    Source:
        Lanczos (1950); Golub and Van Loan, Matrix Computations, 4th ed., chapter 10.
    """

    def __init__(self, operator: Operator, *, seed: int = 0, start: Tensor | None = None) -> None:
        if not operator.symmetric:
            raise ValueError("Lanczos needs a symmetric operator; this one says symmetric=False.")
        self.operator = operator
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self.block_start = 0
        self.exhausted = operator.shape[0] == 0
        self._dropped = 0.0
        self._chunks: list[Tensor] = []
        self._filled = 0
        self._generator = torch.Generator().manual_seed(seed)
        if start is None:
            self._next = self._fresh()
        else:
            start = start.to(operator.device, operator.dtype)
            length = norm(start)
            if length == 0:
                raise ValueError(
                    "Lanczos cannot start from the zero vector. Pass start=None for a random one."
                )
            self._next = start / length

    @property
    def steps(self) -> int:
        """Number of products made, m."""
        return len(self.alphas)

    @property
    def scale(self) -> float:
        """An estimate of |T| from below: the largest |alpha| or beta."""
        return max((abs(entry) for entry in (*self.alphas, *self.betas)), default=0.0)

    @property
    def noise(self) -> float:
        """What rounding may hide: 8 eps |T| in the operator's dtype, and couplings that were dropped."""
        return 8 * torch.finfo(self.operator.dtype).eps * self.scale + self._dropped

    def step(self) -> None:
        """One product, one more row of T.

        Raises:
            FloatingPointError: The product is not finite.
            ValueError: The run is exhausted.
        """
        if self.exhausted:
            raise ValueError(f"The Lanczos basis already spans all {self.operator.shape[0]} dimensions.")
        current = self._next
        self._append(current)
        product = self.operator.matvec(current)
        alpha = dot(product, current)
        if not numpy.isfinite(alpha):
            raise FloatingPointError(
                f"Product {self.steps + 1} with the operator is not finite. Look for NaN or infinite "
                "parameters."
            )
        self.alphas.append(alpha)
        remainder = torch.add(product, current, alpha=-alpha)
        if self.betas and self.betas[-1]:
            remainder.sub_(self._vector(self.steps - 2), alpha=self.betas[-1])
        remainder, beta = self._orthogonal(remainder)
        self.betas.append(0.0)
        if self.steps == self.operator.shape[0]:
            self.exhausted = True
            return
        relative = beta / max(self.scale, beta) if beta else 0.0
        eps = torch.finfo(self.operator.dtype).eps
        if relative <= max(64 * eps, 1e-8):
            self.block_start = self.steps
        if relative <= 64 * eps:
            self._dropped = max(self._dropped, beta)
            self._next = self._fresh()
        else:
            # A faint coupling stays in T: what it leads to is rounding, as good as a fresh start.
            self.betas[-1] = beta
            self._next = remainder / beta

    def ritz(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Ritz values, ascending, and for each the bound on its distance to an eigenvalue: two arrays [m].

        The bound is the residual |A u - theta u| = |beta_m s_m|, plus `noise`.
        """
        values, vectors = eigh_tridiagonal(numpy.array(self.alphas), numpy.array(self.betas[:-1]))
        return values, numpy.abs(self.betas[-1] * vectors[-1]) + self.noise

    def blocks(self) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
        """Ritz values of the closed blocks, and those of the open block with their bounds; ascending."""
        cut = self.block_start
        alphas, betas = numpy.array(self.alphas), numpy.array(self.betas)
        closed = (
            eigh_tridiagonal(alphas[:cut], betas[: cut - 1], eigvals_only=True) if cut else numpy.empty(0)
        )
        if cut == self.steps:
            return closed, numpy.empty(0), numpy.empty(0)
        values, vectors = eigh_tridiagonal(alphas[cut:], betas[cut:-1])
        return closed, values, numpy.abs(self.betas[-1] * vectors[-1]) + self.noise

    def extended(self) -> numpy.ndarray:
        """T with the row of the last coupling below it, [m + 1, m]: A Q_m = Q_{m+1} times this."""
        m = self.steps
        matrix = numpy.zeros((m + 1, m))
        matrix[range(m), range(m)] = self.alphas
        matrix[range(1, m + 1), range(m)] = self.betas
        matrix[range(m - 1), range(1, m)] = self.betas[:-1]
        return matrix

    def _append(self, vector: Tensor) -> None:
        filled = self.steps % CHUNK
        if filled == 0:
            self._chunks.append(torch.empty(CHUNK, len(vector), dtype=vector.dtype, device=vector.device))
        self._chunks[-1][filled] = vector
        self._filled = self.steps + 1

    def _vector(self, index: int) -> Tensor:
        return self._chunks[index // CHUNK][index % CHUNK]

    def _orthogonal(self, vector: Tensor) -> tuple[Tensor, float]:
        """`vector` without its part in the basis, and the length of what is left."""
        length = norm(vector)
        for _ in range(3):
            before = length
            for index, chunk in enumerate(self._chunks):
                rows = chunk[: self._filled - index * CHUNK]
                vector = torch.addmv(vector, rows.T, rows @ vector, alpha=-1)
            length = norm(vector)
            if length > 0.7 * before:
                break
        return vector, length

    def _fresh(self) -> Tensor:
        size = self.operator.shape[0]
        drawn = torch.randn(size, generator=self._generator, dtype=torch.float64)
        vector, length = self._orthogonal(drawn.to(self.operator.device, self.operator.dtype))
        vector, length = self._orthogonal(vector / length)
        return vector / length


def dot(left: Tensor, right: Tensor) -> float:
    """Inner product of two vectors, [P] each, in float64; on a CPU by pieces that stay in its cache."""
    if left.dtype == torch.float64 or left.device.type != "cpu":
        return torch.dot(left.double(), right.double()).item()
    pieces = zip(left.split(2**18), right.split(2**18), strict=True)
    return torch.stack([torch.dot(one.double(), other.double()) for one, other in pieces]).sum().item()


def norm(vector: Tensor) -> float:
    """Euclidean length of a vector, [P], in float64."""
    return dot(vector, vector) ** 0.5
