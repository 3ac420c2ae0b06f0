"""After a new random start: how many of the outermost values no unseen one can displace."""

import numpy

from gradscope.curvature.lanczos import Lanczos


def ranks_known(run: Lanczos, end: int, tolerance: float) -> int:
    """Number of values, from the outermost inwards, whose rank is certain.

    Each block sees the operator on the complement of the blocks before it, and from a random start its
    outermost value is the outermost one there. So all values found beyond it have their rank, and once it
    has converged, it has the next; its own copies too, as far as they were found. To rank a value beyond it, it
    need not have converged: a residual below a tenth of its own and a quarter of the distance will do.

    Args:
        run: A run of which at least one block closed.
        end: 1 for the largest values, -1 for the smallest.
        tolerance: Residual, as a share of the largest absolute value, below which the open block's outermost
            value has converged, if it is below a tenth of its own as well.
    """
    closed, opened, bounds = run.blocks()
    known = 0
    if len(opened):
        edge, bound = end * opened[::-end][0], bounds[::-end][0]
        beyond = (end * closed)[end * closed >= edge - run.noise]
        if bound <= max(abs(edge) / 10, 10 * run.noise):
            if bound <= tolerance * run.largest:
                # Values this close together may change places: none of them moves by more than that.
                slack = max(run.noise, tolerance * run.largest / 2)
                known = int((end * closed >= edge - slack).sum()) + 1
            else:
                known = int(numpy.sum(beyond - edge >= 4 * bound))
    if run.closed_ends is not None:
        last = end * run.closed_ends[0 if end < 0 else 1]
        if len(opened) == 0 or end * opened[::-end][0] <= last + run.noise:
            known = max(known, int((end * closed >= last - run.noise).sum()))
    return known
