"""Run Lanczos until the wanted values at both ends have converged, and a second start has found none beyond them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy
from torch import Tensor

from gradscope.curvature.lanczos import Lanczos
from gradscope.curvature.multiplicity import ranks_known
from gradscope.curvature.operators import Operator, require_operator
from gradscope.curvature.settled import settled
from gradscope.curvature.thick_restart import restart, vectors_held
from gradscope.curvature.warm_start import warm_start

ENDS = {"both": (1, -1), "largest": (1,), "smallest": (-1,)}

FIRST_SHARE = 0.75
"""Of the products, what the first run may use while values are missing; the rest is for confirming those it has."""


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
    require_operator(operator, "extreme_eigenvalues")
    wanted, size = ENDS[ends], operator.shape[0]
    capacity = vectors_held(k, wanted, size, size * operator.dtype.itemsize, max_basis_bytes)
    if start is not None:
        # For k = 1 it is only looked at: to confirm one value costs as much as to find it from a random start.
        warm = warm_start(operator, start, seed)
        start = warm if k > 1 else None
    # The outermost value of a random start is as certain as that of a second one.
    own = 1 if start is None else 0
    run = Lanczos(operator, seed=seed, start=start, capacity=capacity)

    def proceed(run: Lanczos, shown: Lanczos, limit: int, done: Callable[[], bool]) -> None:
        check_at = run.steps + 1
        while not run.exhausted and run.steps < limit:
            if run.full:
                restart(run, k, wanted)
            run.step()
            if callback is not None:
                callback(shown)
            if run.steps >= check_at:
                check_at = run.steps + _pause(run.size, size)
                if done():
                    break

    def counts(run: Lanczos) -> dict[int, int]:
        return {end: min(k, int(settled(run, end, tolerance).sum())) for end in wanted}

    def all_settled(run: Lanczos) -> bool:
        return min(counts(run).values()) == min(k, size)

    proceed(run, run, max(1, int(FIRST_SHARE * max_products)), lambda: all_settled(run))
    if max(counts(run).values()) <= own or run.block_start > 0:
        proceed(run, run, max_products, lambda: all_settled(run))
    converged = counts(run)
    if run.exhausted or run.block_start > 0 or max(converged.values()) <= own:
        return Found(run, run, None, converged, run.steps)
    values, places = run.ritz()[0], _outermost(run, k, wanted)
    keep = numpy.zeros(run.size, dtype=bool)
    keep[places] = True
    sought = {end: min(converged[end], _clear(run, end, k, converged[end])) for end in wanted}
    second = run.renewed(keep)

    def known() -> dict[int, int]:
        return {end: min(sought[end], max(own, ranks_known(second, end, tolerance))) for end in wanted}

    def further_out() -> bool:
        found, bounds = second.ritz()[0], run.ritz()[1]
        return any(
            bool((end * (found[::-end][:n] - values[::-end][:n]) > bounds[::-end][:n]).any())
            for end, n in sought.items()
        )

    proceed(second, run, max_products, lambda: known() == sought)
    if not further_out():
        return Found(run, second, places, known(), second.steps)
    proceed(second, second, max_products, lambda: all_settled(second))
    return Found(second, second, None, counts(second), second.steps)


def _clear(run: Lanczos, end: int, k: int, converged: int) -> int:
    """How many of the outermost values lie further out than any that is kept unconverged can come to lie."""
    values, bounds = run.ritz()
    outwards = (end * values)[::-end]
    if converged >= min(k, run.size):
        return converged
    reach = (outwards + bounds[::-end])[converged:k].max()
    return int((outwards[:converged] >= reach).sum())


def _outermost(run: Lanczos, k: int, ends: tuple[int, ...]) -> list[int]:
    """The places of the k outermost Ritz values at each end."""
    top = range(max(0, run.size - k), run.size) if 1 in ends else range(0)
    bottom = range(min(k, run.size)) if -1 in ends else range(0)
    return sorted({*top, *bottom})


def _pause(vectors: int, size: int) -> int:
    """Products until the next look at T, whose solution should cost less than they do."""
    return max(1, min(vectors**3 // (100 * size), vectors // 10))
