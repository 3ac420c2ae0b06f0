"""A matrix known by its products with vectors."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

DENSE_LIMIT = 5000
"""Largest P for which a [P, P] matrix is formed without being asked twice."""


class Operator(ABC):
    """A real square matrix A of shape [P, P] that is only ever multiplied with vectors.

    A new operator says its size, dtype and device to this constructor, and multiplies in `_apply`.

    Attributes:
        products: Number of products made so far, the unit in which its costs are counted.
        conditions: What distinguishes this operator from others of the same network, as the first columns of
            every frame read off it: `operator`, `batch_norm`, and where there are `weight_decay`, `precondition`.
        watch: Called with the number of products after each few of them, for progress; None for nobody. So every
            function that takes an operator can be watched.
    """

    def __init__(
        self, size: int, dtype: torch.dtype, device: torch.device, *, symmetric: bool = True
    ) -> None:
        self.shape = (size, size)
        self.dtype = dtype
        self.device = device
        self.symmetric = symmetric
        self.products = 0
        self.watch: Callable[[int], None] | None = None
        self.conditions: dict[str, str] = {}

    @abstractmethod
    def _apply(self, rows: Tensor) -> Tensor:
        """A times each row of [k, P], as rows of [k, P]; dtype and device are the operator's."""

    def matvec(self, vector: Tensor) -> Tensor:
        """A v, shape [P], as it comes out: entries may be infinite or NaN where the matrix has such.

        Raises:
            ValueError: `vector` is not of shape [P].
        """
        size = self.shape[0]
        if vector.shape != (size,):
            raise ValueError(f"matvec multiplies one vector of shape [{size}], got {list(vector.shape)}.")
        return self._rows(vector[None])[0]

    def matmat(self, matrix: Tensor) -> Tensor:
        """A V, shape [P, k], as it comes out: all k columns go through each batch together.

        Raises:
            ValueError: `matrix` is not of shape [P, k].
        """
        size = self.shape[0]
        if matrix.ndim != 2 or len(matrix) != size:
            raise ValueError(f"matmat multiplies a matrix of shape [{size}, k], got {list(matrix.shape)}.")
        return self._rows(matrix.T).T

    def quadratic(self, vector: Tensor) -> Tensor:
        """v^T A v, a float64 scalar, as it comes out."""
        return torch.dot(vector.to(self.device, torch.float64), self.matvec(vector).double())

    def dense(self, *, allow_large: bool = False) -> Tensor:
        """The matrix itself, [P, P] in float64, column by column: P products.

        Raises:
            ValueError: P is over 5000 and `allow_large` is not set.
            FloatingPointError: An entry is not finite; a matrix of NaN would look like a result.
        """
        size = self.shape[0]
        if size > DENSE_LIMIT and not allow_large:
            raise ValueError(
                f"dense() would form a {size} x {size} matrix ({8 * size**2 / 2**30:.1f} GiB) by {size} "
                "products. Use extreme_eigenvalues or spectral_density, or pass allow_large=True."
            )
        matrix = torch.empty(size, size, dtype=torch.float64, device=self.device)
        for start in range(0, size, 128):
            stop = min(start + 128, size)
            rows = torch.zeros(stop - start, size, dtype=self.dtype, device=self.device)
            rows.diagonal(start).fill_(1)
            matrix[:, start:stop] = self._rows(rows).T
            if not matrix[:, start:stop].isfinite().all():
                raise FloatingPointError(
                    f"dense() forms a finite matrix, but entries of {self!r} are not: {self.not_finite()}"
                )
        return matrix

    def to_scipy(self) -> "LinearOperator":
        """The operator for SciPy's solvers; vectors travel through the CPU."""
        import numpy
        from scipy.sparse.linalg import LinearOperator

        def multiply(array):  # type: ignore[no-untyped-def]
            # Reversed arrays have negative strides, which tensors have not.
            columns = torch.as_tensor(numpy.ascontiguousarray(array.reshape(self.shape[0], -1)))
            return self.matmat(columns).cpu().numpy().reshape(array.shape)

        numpy_dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        transposed = multiply if self.symmetric else None
        return LinearOperator(
            self.shape, matvec=multiply, rmatvec=transposed, matmat=multiply, dtype=numpy_dtype
        )

    def not_finite(self) -> str:
        """Why entries may not be finite, and what to do, as a sentence for errors."""
        return "look at where its entries come from."

    def close(self) -> None:  # noqa: B027  (most operators keep nothing)
        """Free what is kept between products; a later product builds it anew."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={list(self.shape)}, dtype={self.dtype}, device={self.device})"

    def _rows(self, rows: Tensor) -> Tensor:
        self.products += len(rows)
        found = self._apply(rows.detach().to(self.device, self.dtype).contiguous())
        if self.watch is not None:
            self.watch(len(rows))
        return found


def require_operator(given: object, who: str) -> None:
    """Refuse what is no operator, such as the problem that one is made of.

    Raises:
        ValueError: Says how to make one.
    """
    if not isinstance(given, Operator):
        raise ValueError(
            f"{who} takes an operator, got {type(given).__name__}. Make one first: gs.hessian(problem), where the "
            "problem may be a pair (model, data), or gs.gauss_newton or gs.empirical_fisher of it."
        )


class MatrixOperator(Operator):
    """A matrix that is at hand, seen as an operator.

    Args:
        matrix: Symmetric, shape [P, P], float32 or float64.

    Raises:
        ValueError: `matrix` is not square, or not symmetric to 1e-4 (float32) or 1e-10 of its largest entry.
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"MatrixOperator needs a square matrix, got shape {list(matrix.shape)}.")
        tolerance = 1e-10 if matrix.dtype == torch.float64 else 1e-4
        asymmetry, scale = (matrix - matrix.T).abs().max(), matrix.abs().max()
        if asymmetry > tolerance * scale:
            raise ValueError(
                f"MatrixOperator needs a symmetric matrix; A and its transpose differ by {asymmetry:.2g} "
                f"where the largest entry is {scale:.2g}. Pass (A + A.T) / 2 if that is what you mean."
            )
        super().__init__(len(matrix), matrix.dtype, matrix.device)
        self.matrix = matrix.detach()

    def _apply(self, rows: Tensor) -> Tensor:
        return rows @ self.matrix
