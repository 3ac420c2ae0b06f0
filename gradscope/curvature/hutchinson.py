"""Traces from quadratic forms with random sign vectors."""

import numpy
import torch
from torch import Tensor

from gradscope.curvature.operators import Operator
from gradscope.curvature.probes import inner_product, sign_vectors

BLOCK = 10


class Hutchinson:
    """Estimates of tr A and tr A^2, one of each per sign vector z: z^T A z and |A z|^2.

    With `deflate`, orthonormal rows U, the traces on their span are taken exactly and z is projected onto the
    rest: what few large eigenvalues add to the spread is gone. The rows need not be eigenvectors.

    Args:
        operator: Symmetric, [P, P].
        generator: Of the signs, on the CPU.
        deflate: Linearly independent rows to split off, [k, P]; costs k products.

    Attributes:
        traces, squares: The estimates so far.
        diagonal: Sum of z * A z, [P], whose mean over vectors estimates A's diagonal.

    Source:
        Hutchinson (1990): the variance of z^T A z is 2 (|A|_F^2 - sum_i A_ii^2).
    """

    def __init__(self, operator: Operator, generator: torch.Generator, deflate: Tensor | None = None) -> None:
        self.operator = operator
        self.traces: list[float] = []
        self.squares: list[float] = []
        self.diagonal = torch.zeros(operator.shape[0], dtype=operator.dtype, device=operator.device)
        self._generator = generator
        self._basis: Tensor | None = None
        self._known = 0.0, 0.0
        if deflate is not None:
            rows = deflate.to(operator.device, operator.dtype)
            self._basis = torch.linalg.qr(rows.T).Q.T.contiguous()
            images = operator.matmat(self._basis.T).T
            self._known = float(_dots(self._basis, images).sum()), float(_dots(images, images).sum())

    def extend(self, count: int) -> tuple[Tensor, Tensor]:
        """Add `count` sign vectors, `BLOCK` at a time. The last block and its images, [k, P] each."""
        while count > 0:
            signs = sign_vectors(self.operator, min(count, BLOCK), self._generator)
            count -= len(signs)
            if self._basis is not None:
                signs -= (signs @ self._basis.T) @ self._basis
            images = self.operator.matmat(signs.T).T
            traces = _dots(signs, images) + self._known[0]
            squares = _dots(images, images) + self._known[1]
            if not numpy.isfinite(squares).all():
                raise FloatingPointError(
                    "A product with the operator is not finite. Look for NaN or infinite parameters."
                )
            for one, other in zip(signs, images, strict=True):
                self.diagonal.addcmul_(one, other)
            self.traces += traces.tolist()
            self.squares += squares.tolist()
        return signs, images

    def samples(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """The estimates of tr A and tr A^2, [n] each, in float64."""
        return numpy.array(self.traces), numpy.array(self.squares)

    def error_by_law(self) -> float:
        """The standard error of the mean trace by the law of its variance; 0 with `deflate`, for which it is not.

        |A|_F^2 - sum_i A_ii^2 is estimated by the variance of z_i (A z)_i, summed over rows. Where z^T A z takes
        few values, ten of them may agree by luck and show no spread of their own; their rows do.
        """
        n = len(self.traces)
        if self._basis is not None or n < 2:
            return 0.0
        spread = sum(self.squares) - inner_product(self.diagonal, self.diagonal) / n
        return float(2 * max(0.0, spread) / (n - 1) / n) ** 0.5


def _dots(left: Tensor, right: Tensor) -> numpy.ndarray:
    """Inner products of corresponding rows, [k], in float64."""
    return numpy.array([inner_product(one, other) for one, other in zip(left, right, strict=True)])
