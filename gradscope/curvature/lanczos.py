"""Lanczos: a small matrix whose eigenvalues approach the operator's extreme ones."""

import copy
from typing import Self

import numpy
import torch
from scipy.linalg import block_diag
from torch import Tensor

from gradscope.curvature.basis import Basis
from gradscope.curvature.basis import dot as dot
from gradscope.curvature.basis import norm as norm
from gradscope.curvature.operators import Operator


class Solved:
    """Eigenvalues, ascending, eigenvectors as columns and residual bounds of T, or of one of its blocks."""

    def __init__(self, values: numpy.ndarray, vectors: numpy.ndarray, bounds: numpy.ndarray) -> None:
        self.values = values
        self.vectors = vectors
        self.bounds = bounds


class Lanczos:
    """The Lanczos recurrence with reorthogonalisation, one product a step.

    A Q = Q T + q_next b^T, with the basis Q as columns. Products run in the operator's dtype; T and the
    couplings b are float64. T is tridiagonal until the first `restart`, and b has one entry. Each new
    vector is made orthogonal to all before it, and once more where that shortened it ("twice is enough"), so
    no ghost copies of converged eigenvalues appear. Where the Krylov space closes (b is zero to rounding,
    relative to |T|), the run goes on from a random vector orthogonal to what it has: T falls into
    blocks, and further copies of repeated eigenvalues come out. While the first block lasts they are not
    seen: from one starting vector a repeated eigenvalue counts once.

    Args:
        operator: Symmetric, [P, P].
        seed: Of the random starting vectors.
        start: First starting vector, [P]; random when None.
        capacity: Most vectors the basis may hold; when it is full, `restart` before the next step. P when
            None.

    Attributes:
        steps: Number of products made.
        block_start: Index of the first vector of the current block.
        restarts: Number of restarts.
        closed_ends: Smallest and largest Ritz value of the block that closed last; None before.
        exhausted: Whether the basis spans the whole space, so that T is the operator itself.
        largest: Largest absolute Ritz value seen so far.

    Raises:
        ValueError: The operator is not symmetric, or `start` is zero, not finite, or of another shape.

    Source:
        Lanczos (1950); Golub and Van Loan, Matrix Computations, 4th ed., chapter 10. Restarts: Wu and Simon
        (2000), Thick-restart Lanczos method for large symmetric eigenvalue problems.
    """

    def __init__(
        self,
        operator: Operator,
        *,
        seed: int = 0,
        start: Tensor | None = None,
        capacity: int | None = None,
    ) -> None:
        if not operator.symmetric:
            raise ValueError("Lanczos needs a symmetric operator; this one says symmetric=False.")
        size = operator.shape[0]
        self.operator = operator
        self.steps = 0
        self.restarts = 0
        self.block_start = 0
        self.closed_ends: tuple[float, float] | None = None
        self.exhausted = size == 0
        self.largest = 0.0
        self._basis = Basis(size, operator.dtype, operator.device, min(size, capacity or size))
        self._matrix = numpy.zeros((0, 0))
        self._couplings = numpy.zeros(0)
        self._lost = numpy.zeros(0)
        self._scale = 0.0
        self._solved: tuple[int, Solved] | None = None
        self._generator = torch.Generator().manual_seed(seed)
        self._next, self._length = self._fresh() if start is None else self._given(start)

    @property
    def size(self) -> int:
        """Number of basis vectors, m; the number of products as long as there was no restart."""
        return len(self._matrix)

    @property
    def full(self) -> bool:
        """Whether the basis has no room for another vector."""
        return len(self._basis) == self._basis.capacity

    @property
    def scale(self) -> float:
        """An estimate of |A| from below: the largest entry of T or b, or Ritz value, there ever was."""
        return max(self._scale, self.largest)

    @property
    def noise(self) -> float:
        """What rounding may add to a residual: 32 eps |A| in the operator's dtype, and 8 more for each restart.

        Above what was found by multiplying all Ritz vectors with dense matrices: at most 16 eps |A| with up to 3
        restarts, 29 with 4 to 7, and 56 beyond 40. That is no bound that was proved, and a product that rounds
        worse than that of a dense matrix is not covered.
        """
        return (32 + 8 * self.restarts) * torch.finfo(self.operator.dtype).eps * self.scale

    def step(self) -> None:
        """One product, one more row of T.

        Raises:
            FloatingPointError: The product is not finite.
            ValueError: The run is exhausted, or the basis full.
        """
        if self.exhausted:
            raise ValueError(f"The Lanczos basis already spans all {self.operator.shape[0]} dimensions.")
        current = self._basis.append(self._next, self._length)
        product = self.operator.matvec(current)
        alpha = dot(product, current)
        if not numpy.isfinite(alpha):
            raise FloatingPointError(
                f"Product {self.steps + 1} with {self.operator!r} is not finite: {self.operator.not_finite()}"
            )
        self.steps += 1
        self._extend(alpha)
        remainder = torch.add(product, current, alpha=-alpha)
        self._basis.subtract(remainder, self._couplings)
        components, beta = self._orthogonalise(remainder)
        cut = self.block_start
        self._matrix[:cut, -1] = self._matrix[-1, :cut] = components[:cut]
        self._scale = max(self._scale, beta)
        self._couplings = numpy.zeros(self.size)
        if self.size == self.operator.shape[0]:
            self.exhausted = True
            self._lost[:] = 0
            return
        if beta <= max(256 * torch.finfo(self.operator.dtype).eps, 1e-8) * self._scale:
            self._lost[-1] = beta
            self._close()
        else:
            self._couplings[-1] = beta
            self._next, self._length = remainder, beta

    def ritz(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Ritz values, ascending, and for each the bound on its distance to an eigenvalue: two arrays [m].

        The bound is the residual |A u - theta u| = |b . s|, what dropped couplings may add, and `noise`.
        """
        solved = self._solve()
        return solved.values, solved.bounds

    def ritz_vectors(self, places: list[int]) -> Tensor:
        """Ritz vectors, [len(places), P], of the values at these places of `ritz()`; each of length 1."""
        return self._combined(self._solve().vectors[:, places])

    def kept_vectors(self, places: list[int]) -> Tensor:
        """Vectors that a `renewed` run keeps, [len(places), P], in the order it was given them; each of length 1."""
        return self._combined(numpy.eye(self.size)[:, places])

    def blocks(self) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
        """Ritz values of the closed blocks, and those of the open block with their bounds; ascending."""
        if self.block_start == 0:
            return numpy.empty(0), *self.ritz()
        closed, opened = self._solve_blocks()
        return closed.values, opened.values, opened.bounds

    def extended(self) -> numpy.ndarray:
        """T with the couplings b below it, [m + 1, m]: A Q_m = Q_{m+1} times this."""
        return numpy.vstack([self._matrix, self._couplings])

    def image_length(self, weights: numpy.ndarray) -> float:
        """|A Q w| at most, for weights [m] of length 1: by `extended`, what dropped couplings may add, and `noise`."""
        known = float(numpy.linalg.norm(self.extended() @ weights))
        return known + float(self._lost @ numpy.abs(weights)) + self.noise

    def restart(self, keep_closed: numpy.ndarray, keep_open: numpy.ndarray) -> None:
        """Go on with some of the Ritz vectors in the place of the basis.

        Args:
            keep_closed: Which of the closed blocks' Ritz values, a mask in the order of `blocks()`.
            keep_open: Which of the open block's.
        """
        closed, opened = self._solve_blocks()
        turn = block_diag(closed.vectors, opened.vectors)
        keep = numpy.concatenate([keep_closed, keep_open])
        turned = turn.T @ self._matrix @ turn
        self._lost = (self._lost @ numpy.abs(turn) + numpy.linalg.norm(turned[~keep], axis=0))[keep]
        self._couplings = (self._couplings @ turn)[keep]
        self._matrix = turned[numpy.ix_(keep, keep)]
        self._basis.rotate(turn[:, keep])
        self._solved = None
        self.restarts += 1
        self.block_start = int(keep_closed.sum())

    def renewed(self, keep: numpy.ndarray) -> Self:
        """A run that starts anew, from a random vector orthogonal to some of the Ritz vectors, and keeps those.

        It takes the basis over: this run keeps its values, and can neither go on nor give vectors.

        Args:
            keep: Which of the Ritz values, a mask in the order of `ritz()`.
        """
        solved, other = self._solve(), copy.copy(self)
        other._basis.rotate(solved.vectors[:, keep])
        other._matrix = numpy.diag(solved.values[keep])
        other._couplings = numpy.zeros(len(other._matrix))
        other._lost = solved.bounds[keep] - self.noise
        other._solved = None
        other.restarts += 1
        other.block_start, other.closed_ends = other.size, None
        other._next, other._length = other._fresh()
        self._basis = Basis(self.operator.shape[0], self.operator.dtype, self.operator.device, capacity=0)
        return other

    def _extend(self, alpha: float) -> None:
        m = self.size + 1
        matrix = numpy.zeros((m, m))
        matrix[:-1, :-1] = self._matrix
        matrix[-1, :-1] = matrix[:-1, -1] = self._couplings
        matrix[-1, -1] = alpha
        self._matrix = matrix
        self._lost = numpy.append(self._lost, 0.0)
        self._scale = max(self._scale, abs(alpha))

    def _close(self) -> None:
        values = self._solved_part(self.block_start, self.size).values
        self.closed_ends = float(values[0]), float(values[-1])
        self.block_start = self.size
        self._next, self._length = self._fresh()

    def _combined(self, weights: numpy.ndarray) -> Tensor:
        vectors = self._basis.combined(weights)
        return vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)

    def _solve(self) -> Solved:
        if self._solved is None or self._solved[0] != self.steps:
            self._solved = self.steps, self._solved_part(0, self.size)
            self.largest = max(self.largest, float(numpy.abs(self._solved[1].values).max()))
        return self._solved[1]

    def _solve_blocks(self) -> tuple[Solved, Solved]:
        cut = self.block_start
        return self._solved_part(0, cut), self._solved_part(cut, self.size)

    def _solved_part(self, start: int, stop: int) -> Solved:
        values, vectors = numpy.linalg.eigh(self._matrix[start:stop, start:stop])
        residuals = numpy.abs(self._couplings[start:stop] @ vectors) + self._lost[start:stop] @ numpy.abs(
            vectors
        )
        return Solved(values, vectors, residuals + self.noise)

    def _orthogonalise(self, vector: Tensor) -> tuple[numpy.ndarray, float]:
        """Take the part within the basis out of `vector`, in place; its components, and the length of what is left."""
        total, length = numpy.zeros(len(self._basis)), 0.0
        for _ in range(3):
            components = self._basis.remove_from(vector)
            total += components
            length = norm(vector)
            if numpy.linalg.norm(components) <= length:
                break
        return total, length

    def _given(self, start: Tensor) -> tuple[Tensor, float]:
        if start.shape != (self.operator.shape[0],):
            raise ValueError(
                f"Lanczos starts from one vector of shape [{self.operator.shape[0]}], got {list(start.shape)}."
            )
        start = start.detach().to(self.operator.device, self.operator.dtype)
        length = norm(start)
        if length == 0 or not numpy.isfinite(length):
            raise ValueError(
                f"Lanczos cannot start from a vector of length {length:g}. Pass start=None for a random one."
            )
        return start, length

    def _fresh(self) -> tuple[Tensor, float]:
        size = self.operator.shape[0]
        vector = torch.randn(size, generator=self._generator).to(self.operator.device, self.operator.dtype)
        for _ in range(2):
            vector /= self._orthogonalise(vector)[1]
        return vector, norm(vector)
