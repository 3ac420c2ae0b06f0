"""The density of an operator's eigenvalues, by stochastic Lanczos quadrature."""

from typing import Any

import numpy
import pandas
import torch

from gradscope.curvature.operators import Operator, require_operator
from gradscope.curvature.probes import mean_of, mean_of_squares, participation_ratio_of
from gradscope.curvature.quadrature import Recurrence, recurrences
from gradscope.curvature.shares import absolute_trace_row, share_row
from gradscope.curvature.units import DENSITY, EIGENVALUE, SQUARE

COLUMNS = [
    *("quantity", "unit", "eigenvalue", "resolution", "threshold", "value", "low", "high"),
    *("standard_error", "n", "steps", "products", "status", "reason"),
]


def spectral_density(
    operator: Operator,
    *,
    probes: int = 10,
    steps: int = 80,
    points: int = 1000,
    resolution: float | None = None,
    threshold: float | None = None,
    seed: int = 0,
) -> pandas.DataFrame:
    """The eigenvalue density, smoothed to what the Lanczos steps resolve, and what integrates it.

    Each random sign vector z gives, after m steps without reorthogonalisation (ghost copies only
    split weights), the m nodes and weights of a Gauss quadrature of z's spectral measure; their mean
    over probes is the density. Three vectors a probe are kept, and all probes go through each batch
    together.

    Args:
        operator: Symmetric, [P, P].
        probes: Number of random vectors, at least 2.
        steps: Lanczos steps m, at least 2: at most probes * steps products (and one to count zero rows).
        points: Grid points on the eigenvalue axis.
        resolution: Full width at half maximum of the Gaussian each node is smoothed with; by default
            pi * range / m, finer than which nothing in the picture is real.
        threshold: Beyond which eigenvalues are counted, positive; by default pi * range / m. Counts nearer to
            zero, where the eigenvalues of networks crowd, are fiction, and undefined (unless the
            Krylov space is exhausted, which leaves nothing unseen).
        seed: Of the probes.

    Returns:
        Rows of `quantity` "spectral_density" (integrates to 1 over `eigenvalue`), then one row each of

        - "trace", "trace_of_square": unbiased for any m;
        - "participation_ratio", (tr H)^2 / tr H^2, in [0, P]: how many eigenvalues carry the trace;
        - "absolute_trace": the sum of |lambda|. "unconverged" while fewer steps change it by over 5 %;
        - "negative_share", "share_above": shares of the eigenvalues with lambda < -threshold, and
          |lambda| > threshold. Their intervals bracket what the quadrature leaves open, too;
        - "zero_rows", "zero_row_fraction": rows without an entry, weights that do not matter, such as those
          of a constant pixel. An exact count, and so many eigenvalues are 0; `reason` says how it was made.

        `value` is the mean over probes, `standard_error` its standard error, `low` and `high` the 95 %
        Student-t interval (not below 0 for what cannot be), `n` the probes. With 10 probes they held the truth
        in 86 to 100 of 100 draws (eight spectra, 400 draws each); least where a few eigenvalues decide.

    Raises:
        ValueError: Too few probes, steps or points (fewer than two per Gaussian), a threshold that is not
            positive, or not symmetric.
        FloatingPointError: A product is not finite.

    Source:
        Ubaru, Chen, Saad (2017); Ghorbani, Krishnan, Xiao (2019), arXiv:1901.10159; Lin, Saad, Yang
        (2016), arXiv:1308.5467.
    """
    if probes < 2 or steps < 2:
        raise ValueError(f"spectral_density needs probes >= 2 and steps >= 2, got {probes} and {steps}.")
    if threshold is not None and not threshold > 0:
        raise ValueError(f"threshold is a positive eigenvalue or None for the resolution, got {threshold}.")
    require_operator(operator, "spectral_density")
    if not operator.symmetric:
        raise ValueError("spectral_density needs a symmetric operator; this one says symmetric=False.")
    size = operator.shape[0]
    before = operator.products
    runs, zero_rows = recurrences(operator, probes, min(steps, size), seed)
    quadratures = [run.quadrature() for run in runs]
    low = min(float(nodes.min()) for nodes, _ in quadratures)
    high = max(float(nodes.max()) for nodes, _ in quadratures)
    limit = float(numpy.pi) * (high - low) / min(steps, size)
    width = limit if resolution is None else resolution
    if width > 64 * torch.finfo(operator.dtype).eps * max(abs(low), abs(high)):
        curve = _curve(quadratures, low, high, width, points)
    else:
        reason = f"all eigenvalues equal {low:.6g}: a point mass has no density"
        undefined = {"value": float("nan"), "eigenvalue": low, "status": "undefined", "reason": reason}
        curve = pandas.DataFrame([{"quantity": "spectral_density", "unit": DENSITY} | undefined])
    rows = [*_traces(runs, size), *_shares(runs, limit, threshold), *_zeros(zero_rows, size, probes)]
    frame = pandas.concat([curve, pandas.DataFrame(rows)], ignore_index=True)
    frame = frame.assign(n=probes, steps=min(steps, size), products=operator.products - before)
    frame = frame.reindex(columns=COLUMNS)
    return frame.assign(**operator.conditions)[[*operator.conditions, *COLUMNS]]


def _traces(runs: list[Recurrence], size: int) -> list[dict[str, Any]]:
    traces = numpy.array([size * run.alphas[0] for run in runs])
    squares = numpy.array([size * (run.alphas[0] ** 2 + run.first_beta**2) for run in runs])
    fine = {"status": "ok", "reason": ""}
    return [
        {"quantity": "trace", "unit": EIGENVALUE} | mean_of(traces) | fine,
        {"quantity": "trace_of_square", "unit": SQUARE} | mean_of_squares(squares) | fine,
        {"quantity": "participation_ratio", "unit": "1"} | participation_ratio_of(traces, squares),
        {"quantity": "absolute_trace", "unit": EIGENVALUE} | absolute_trace_row(runs, size),
    ]


def _shares(runs: list[Recurrence], limit: float, threshold: float | None) -> list[dict[str, Any]]:
    beyond = limit if threshold is None else threshold
    names = {"negative_share": (-beyond, None), "share_above": (-beyond, beyond)}
    if beyond < limit and not all(run.closed for run in runs):
        reason = (
            f"the threshold {beyond:.3g} is below the resolution of {len(runs[0].alphas)} steps, {limit:.3g}"
        )
        found = {name: {"value": float("nan"), "status": "undefined", "reason": reason} for name in names}
    else:
        found = {name: share_row(runs, *ends) for name, ends in names.items()}
    return [{"quantity": name, "unit": "1", "threshold": beyond} | row for name, row in found.items()]


def _zeros(zero_rows: int, size: int, probes: int) -> list[dict[str, Any]]:
    reason = f"each row has a product with one of {probes} sign vectors that is not 0"
    if zero_rows:
        reason = f"rows whose products with {probes} sign vectors and a normal one are exactly 0"
    counts = {"zero_rows": zero_rows, "zero_row_fraction": zero_rows / size}
    exact = {"unit": "1", "standard_error": 0.0, "status": "ok", "reason": reason}
    return [
        {"quantity": name, "value": value, "low": value, "high": value} | exact
        for name, value in counts.items()
    ]


def _curve(
    quadratures: list[tuple[numpy.ndarray, numpy.ndarray]],
    low: float,
    high: float,
    resolution: float,
    points: int,
) -> pandas.DataFrame:
    """The smoothed density on a grid that holds all of its mass."""
    deviation = resolution / (2 * numpy.sqrt(2 * numpy.log(2)))
    needed = int((high - low) / deviation) + 12
    if points < needed:
        raise ValueError(
            f"{points} points are too few for a resolution of {resolution:.3g} over a range of "
            f"{high - low:.3g}: pass points={needed} or more, or a coarser resolution."
        )
    grid = numpy.linspace(low - 5 * deviation, high + 5 * deviation, points)
    densities = numpy.stack([_smoothed(grid, nodes, weights, deviation) for nodes, weights in quadratures])
    labels = {"quantity": "spectral_density", "unit": DENSITY, "eigenvalue": grid, "resolution": resolution}
    labels |= {"status": "ok", "reason": ""}
    return pandas.DataFrame(labels | mean_of(densities, floor=0.0))


def _smoothed(
    grid: numpy.ndarray, nodes: numpy.ndarray, weights: numpy.ndarray, deviation: float
) -> numpy.ndarray:
    distances = (grid[:, None] - nodes[None, :]) / deviation
    return numpy.exp(-(distances**2) / 2) @ weights / (deviation * numpy.sqrt(2 * numpy.pi))
