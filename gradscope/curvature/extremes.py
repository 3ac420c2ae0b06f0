"""Run Lanczos until the wanted values at both ends have converged, and a second start has found none beyond them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy
from torch import Tensor

from gradscope.curvature.lanczos import Lanczos
from gradscope.curvature.multiplicity import ranks_known
from gradscope.curvature.operators import Operator
from gradscope.curvature.settled import settled
from gradscope.curvature.thick_restart import restart, vectors_held
from gradscope.curvature.warm_start import warm_start

ENDS = {"both": (1, -1), "largest": (1,), "smallest": (-1,)}


@dataclass(frozen=True)
class Found:
    """The extreme eigenvalues of an operator, where they are to be read.

    Attributes:
        run: The run whose values they are.
        holder: The run that holds its vectors, those of `places` only where it is another.
        places: Of the Ritz values of `run`, those kept by `holder` as its first vectors; None where it is `run`.
        certain: For each end (1, -1), how many values have converged and have their rank for certain.
        products: Made by both.
    """

    run: Lanczos
    holder: Lanczos
    places: list[int] | None
    certain: dict[int, int]
    products: int

    def vectors(self, places: list[int]) -> Tensor:
        """Ritz vectors, [len(places), P], of these of the Ritz values of `run`."""
        if self.places is None:
            return self.run.ritz_vectors(places)
        return self.holder.kept_vectors([self.places.index(place) for place in places])


def converged_run(
    operator: Operator,
    k: int,
    *,
    ends: str,
    tolerance: float,
    max_products: int,
    max_basis_bytes: int,
    seed: int,
    start: Tensor | None,
    callback: Callable[[Lanczos], None] | None,
) -> Found:
    """The runs behind `extreme_eigenvalues`, which says what the arguments mean and what is raised.

    When the wanted values have converged, they are kept and a second run starts beside them, from a random
    vector orthogonal to them. A Krylov space may miss an eigenvalue, for it sees one copy of a repeated one,
    and late what its start hardly knew; the second start sees what was missed as the outermost value it has. Where
    that lies further in, all ranks are certain. Else the second run takes over.
    """
    if k < 1 or ends not in ENDS or not tolerance > 0 or max_products < 1:
        raise ValueError(
            "Extreme eigenvalues need k >= 1, ends one of both, largest, smallest, tolerance > 0 and "
            f"max_products >= 1; got k={k}, ends={ends!r}, tolerance={tolerance}, "
            f"max_products={max_products}."
        )
    wanted, size = ENDS[ends], operator.shape[0]
    capacity = vectors_held(k, wanted, size, size * operator.dtype.itemsize, max_basis_bytes)
    if start is not None:
        start = warm_start(operator, start, seed)
    run = Lanczos(operator, seed=seed, start=start, capacity=capacity)

    def proceed(run: Lanczos, shown: Lanczos, done: Callable[[], bool]) -> bool:
        check_at = run.steps + 1
        while not run.exhausted and run.steps < max_products:
            if run.full:
                restart(run, k, wanted)
            run.step()
            if callback is not None:
                callback(shown)
            if run.steps >= check_at:
                check_at = run.steps + _pause(run.size, size)
                if done():
                    return True
        return done()

    def all_settled(run: Lanczos) -> bool:
        return all(settled(run, end, tolerance)[:k].sum() == k for end in wanted)

    if not proceed(run, run, lambda: all_settled(run)) or run.exhausted or run.block_start > 0:
        sure = run.exhausted or run.block_start > 0
        certain = {end: int(settled(run, end, tolerance).sum()) if sure else 0 for end in wanted}
        return Found(run, run, None, certain, run.steps)
    places = _outermost(run, k, wanted)
    keep = numpy.zeros(run.size, dtype=bool)
    keep[places] = True
    second = run.renewed(keep)
    known = {end: 0 for end in wanted}

    def confirmed() -> bool:
        known.update({end: ranks_known(second, end, tolerance) for end in wanted})
        return min(known.values()) >= k

    proceed(second, run, confirmed)
    if not _further_out(second, run, k, wanted):
        return Found(run, second, places, {end: min(known[end], k) for end in wanted}, second.steps)
    proceed(second, second, lambda: all_settled(second))
    certain = {end: int(settled(second, end, tolerance).sum()) for end in wanted}
    return Found(second, second, None, certain, second.steps)


def _outermost(run: Lanczos, k: int, ends: tuple[int, ...]) -> list[int]:
    """The places of the k outermost Ritz values at each end."""
    top = range(run.size - k, run.size) if 1 in ends else range(0)
    bottom = range(k) if -1 in ends else range(0)
    return sorted({*top, *bottom})


def _further_out(second: Lanczos, first: Lanczos, k: int, ends: tuple[int, ...]) -> bool:
    """Whether one of the k outermost values at an end lies further out in the second run than it can by rounding."""
    values, bounds = first.ritz()
    found, _ = second.ritz()
    return any(
        bool((end * (found[::-end][:k] - values[::-end][:k]) > bounds[::-end][:k]).any()) for end in ends
    )


def _pause(vectors: int, size: int) -> int:
    """Products until the next look at T, whose solution should cost less than they do."""
    return max(1, min(vectors**3 // (100 * size), vectors // 10))
