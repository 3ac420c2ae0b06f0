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

    Source:
        Hutchinson (1990): the variance of z^T A z is 2 (|A|_F^2 - sum_i A_ii^2).
    """

    def __init__(self, operator: Operator, generator: torch.Generator, deflate: Tensor | None = None) -> None:
        self.operator = operator
        self.traces: list[float] = []
        self.squares: list[float] = []
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
            self.traces += traces.tolist()
            self.squares += squares.tolist()
        return signs, images

    def samples(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """The estimates of tr A and tr A^2, [n] each, in float64."""
        return numpy.array(self.traces), numpy.array(self.squares)


def _dots(left: Tensor, right: Tensor) -> numpy.ndarray:
    """Inner products of corresponding rows, [k], in float64."""
    return numpy.array([inner_product(one, other) for one, other in zip(left, right, strict=True)])
