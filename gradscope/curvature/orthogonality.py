"""How far the next Lanczos vector may have drifted from orthogonality, without looking at the basis."""

import numpy


class Drift:
    """Simon's recurrence for the inner products of the newest Lanczos vectors with all others.

    Rounding in a step is amplified in the directions of converged Ritz vectors. The recurrence follows that in
    numbers of the size of T, so that the basis is read only when it has to be, for two steps in a row: as
    long as all inner products stay below the square root of eps, T and its eigenvalues are as accurate as
    with vectors orthogonal to the last bit.

    Args:
        eps: Of the dtype the vectors are kept in.

    Source:
        Simon (1984), The Lanczos algorithm with partial reorthogonalization, Math. Comp. 42.
    """

    def __init__(self, eps: float) -> None:
        self.eps = eps
        self.limit = eps**0.5 / 4
        self._newest = numpy.zeros(0)
        self._before = numpy.zeros(0)
        self._due = 2

    def restart(self) -> None:
        """T is no longer what it was: the next two vectors are to be made orthogonal."""
        self._due = 2

    def orthogonal_enough(self, matrix: numpy.ndarray, beta: float, scale: float) -> bool:
        """Whether the next vector may go without being made orthogonal to all others.

        Args:
            matrix: T, [m, m] with m >= 1.
            beta: Length of the next vector before it is normalised.
            scale: |A|.
        """
        if self._due == 0:
            # A q_m - alpha q_m - beta q_{m-1}, multiplied with the basis: A Q = Q T does the rest.
            newest = numpy.append(self._newest, 1.0)
            before = numpy.append(self._before, [1.0, self._newest[-1]])
            following = matrix @ newest - matrix[-1, -1] * newest - matrix[-1, -2] * before
            following /= beta
            following += numpy.copysign(2 * self.eps * scale / beta, following)
            following[-1] = self.eps * scale / beta
            self._before, self._newest = self._newest, following
            if numpy.abs(following).max() > self.limit:
                self._due = 2
        return self._due == 0

    def made_orthogonal(self, m: int, beta: float, scale: float) -> None:
        """The next vector, of length `beta`, has just been made orthogonal to all m."""
        # Within two steps that are made orthogonal both memories are of this kind.
        self._before = numpy.full(m - 1, self.eps * scale / beta)
        self._newest = numpy.full(m, self.eps * scale / beta)
        self._due = max(0, self._due - 1)
