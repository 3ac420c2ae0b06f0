"""After a Krylov space closed: how many of the outermost values no unseen copy can displace."""


from gradscope.curvature.lanczos import Lanczos


def ranks_known(run: Lanczos, end: int, tolerance: float) -> int:
    """Number of values, from the outermost inwards, whose rank is certain.

    Each block sees the operator on the complement of the blocks before it, and from a random start its
    outermost value is the outermost one there. So all values found beyond it have their rank, and it has
    the next; its own copies too, as far as they were found.

    Args:
        run: A run of which at least one block closed.
        end: 1 for the largest values, -1 for the smallest.
        tolerance: Residual, as a share of the largest absolute value, below which the open block's outermost
            value is taken as known, if it is below a tenth of its own as well.
    """
    closed, opened, bounds = run.blocks()
    known = 0
    if len(opened):
        edge, bound = end * opened[::-end][0], bounds[::-end][0]
        if bound <= tolerance * run.largest and bound <= max(abs(edge) / 10, 10 * run.noise):
            known = int((end * closed >= edge - run.noise).sum()) + 1
    if run.closed_ends is not None:
        last = end * run.closed_ends[0 if end < 0 else 1]
        if len(opened) == 0 or end * opened[::-end][0] <= last + run.noise:
            known = max(known, int((end * closed >= last - run.noise).sum()))
    return known
