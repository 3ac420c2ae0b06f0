"""Run Lanczos until the wanted values at both ends have converged."""

from collections.abc import Callable

from torch import Tensor

from gradscope.curvature.lanczos import Lanczos
from gradscope.curvature.operators import Operator
from gradscope.curvature.settled import settled
from gradscope.curvature.thick_restart import restart, vectors_held
from gradscope.curvature.warm_start import warm_start

ENDS = {"both": (1, -1), "largest": (1,), "smallest": (-1,)}


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
) -> Lanczos:
    """The run behind `extreme_eigenvalues`, which says what the arguments mean and what is raised."""
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
    check_at = 1
    while not run.exhausted and run.steps < max_products:
        if run.full:
            restart(run, k, wanted)
        run.step()
        if callback is not None:
            callback(run)
        if run.steps >= check_at:
            check_at = run.steps + _pause(run.size, size)
            if all(settled(run, end, tolerance)[:k].sum() == k for end in wanted):
                break
    return run


def _pause(vectors: int, size: int) -> int:
    """Products until the next look at T, whose solution should cost less than they do."""
    return max(1, min(vectors**3 // (100 * size), vectors // 10))
