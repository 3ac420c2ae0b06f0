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
    new vector is made orthogonal to all before it twice (two matrix-vector products each time), so
    no ghost copies of converged eigenvalues appear. Where the Krylov space closes (beta is zero to
    rounding, relative to |T|), the run goes on from a random vector orthogonal to what it has: T falls
    into blocks, and further copies of repeated eigenvalues come out. A copy that the first block cannot
    reach is not seen while that block lasts: from one starting vector a repeated eigenvalue counts once.

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
        self._generator = torch.Generator().manual_seed(seed)
        if start is None:
            self._next = self._fresh()
        else:
            start = start.to(operator.device, operator.dtype)
            length = torch.linalg.vector_norm(start)
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
        """What rounding may hide in an eigenvalue: 8 eps |T| of the operator's dtype, and dropped couplings."""
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
        alpha = torch.dot(product.double(), current.double()).item()
        if not numpy.isfinite(alpha):
            raise FloatingPointError(
                f"Product {self.steps + 1} with the operator is not finite. Look for NaN or infinite "
                "parameters."
            )
        self.alphas.append(alpha)
        remainder = self._orthogonal(product)
        beta = torch.linalg.vector_norm(remainder, dtype=torch.float64).item()
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
            self._chunks.append(torch.zeros(CHUNK, len(vector), dtype=vector.dtype, device=vector.device))
        self._chunks[-1][filled] = vector

    def _orthogonal(self, vector: Tensor) -> Tensor:
        for _ in range(2):
            for chunk in self._chunks:
                vector = torch.addmv(vector, chunk.T, chunk @ vector, alpha=-1)
        return vector

    def _fresh(self) -> Tensor:
        size = self.operator.shape[0]
        drawn = torch.randn(size, generator=self._generator, dtype=torch.float64)
        vector = self._orthogonal(drawn.to(self.operator.device, self.operator.dtype) / max(size, 1) ** 0.5)
        vector = vector / torch.linalg.vector_norm(vector)
        vector = self._orthogonal(vector)
        return vector / torch.linalg.vector_norm(vector)
