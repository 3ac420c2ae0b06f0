"""Restart a Lanczos run whose basis is full, keeping the Ritz vectors that matter."""

import numpy

from gradscope.curvature.lanczos import Lanczos

KEPT = 0.3
"""Share of the room beyond the wanted vectors that is filled again: more saves products, less saves restarts."""

SPARE = 4
"""Vectors beyond the wanted ones without which a restarted run gets nowhere."""

FREE_BYTES = 2**26
"""A basis of 64 MiB is never restarted."""


def vectors_held(k: int, ends: tuple[int, ...], size: int, bytes_each: int, max_basis_bytes: int) -> int:
    """At how many vectors a run for k values at each end restarts; P where it need not.

    Beyond 20 more than twice the wanted ones a longer basis saved 0 to 17 % of the products on synthetic
    spectra with outliers and a bulk, and costs memory, and the time to touch that first.

    Raises:
        ValueError: Fewer vectors fit into `max_basis_bytes` than a restarted run needs.
    """
    wanted = k * len(ends)
    fitting, needed = max_basis_bytes // max(1, bytes_each), min(size, wanted + SPARE)
    if fitting < needed:
        fewer = (fitting - SPARE) // len(ends)
        remedy = f", or ask for k={fewer} or fewer" if fewer >= 1 else ""
        raise ValueError(
            f"k={k} eigenvalues at {len(ends)} end(s) need a Lanczos basis of {needed} vectors of {bytes_each} "
            f"bytes each, but max_basis_bytes={max_basis_bytes} holds {fitting}. Pass "
            f"max_basis_bytes={needed * bytes_each} or more{remedy}."
        )
    enough = max(2 * wanted + 20, FREE_BYTES // max(1, bytes_each))
    return int(min(size, fitting, enough))


def restart(run: Lanczos, k: int, ends: tuple[int, ...]) -> None:
    """Keep the k outermost Ritz vectors at each end, and of the open block the next ones.

    Source:
        Wu and Simon (2000), Thick-restart Lanczos method for large symmetric eigenvalue problems, SIAM J.
        Matrix Anal. Appl. 22.
    """
    closed, opened, _ = run.blocks()
    values = numpy.concatenate([closed, opened])
    keep = numpy.zeros(len(values), dtype=bool)
    inwards = {end: numpy.argsort(-end * values, kind="stable") for end in ends}
    for order in inwards.values():
        keep[order[:k]] = True
    # One for each end at least: while values are confirmed, the k outermost stand still, and this one does not.
    spare = max(int(KEPT * (len(values) - keep.sum())), len(ends))
    target = min(int(keep.sum()) + spare, len(values) - 2)
    queues = [iter(order[order >= len(closed)]) for order in inwards.values()]
    while keep.sum() < target and queues:
        for queue in list(queues):
            found = next((place for place in queue if not keep[place]), None)
            if found is None:
                queues.remove(queue)
            elif keep.sum() < target:
                keep[found] = True
    run.restart(keep[: len(closed)], keep[len(closed) :])
