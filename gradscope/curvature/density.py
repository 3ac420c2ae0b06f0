"""The density of an operator's eigenvalues, by stochastic Lanczos quadrature."""

import numpy
import pandas
import torch
from scipy.stats import t as student

from gradscope.curvature.operators import Operator
from gradscope.curvature.quadrature import recurrences


def spectral_density(
    operator: Operator,
    *,
    probes: int = 10,
    steps: int = 80,
    points: int = 1000,
    resolution: float | None = None,
    seed: int = 0,
) -> pandas.DataFrame:
    """The eigenvalue density, smoothed to what the Lanczos steps resolve, and two traces.

    Each random sign vector z gives, after m steps without reorthogonalisation (ghost copies only
    split weights), the m nodes and weights of a Gauss quadrature of z's spectral measure; their mean
    over probes is the density. Three vectors a probe are kept, and all probes go through each batch
    together.

    Args:
        operator: Symmetric, [P, P].
        probes: Number of random vectors, at least 2.
        steps: Lanczos steps m, at least 2: at most probes * steps products.
        points: Grid points on the eigenvalue axis.
        resolution: Full width at half maximum of the Gaussian each node is smoothed with; by default
            pi * range / m, finer than which nothing in the picture is real.
        seed: Of the probes.

    Returns:
        Rows of `quantity` "spectral_density" (unit 1/loss, integrates to 1 over `eigenvalue`), then
        one row each of "trace", "trace_of_square" and "zero_row_fraction" (rows whose product with
        every probe is exactly 0: weights that do not matter, such as those of a constant pixel).
        `value` is the mean over probes, `standard_error` its standard error, `low` and `high` the 95 %
        Student-t interval (not below 0 for densities and the trace of the square), `n` the probes.
        Traces are unbiased for any m; the zero fraction is a count.

    Raises:
        ValueError: Too few probes, steps or points (fewer than two per Gaussian), or not symmetric.
        FloatingPointError: A product is not finite.

    Source:
        Ubaru, Chen, Saad (2017); Ghorbani, Krishnan, Xiao (2019), arXiv:1901.10159; Lin, Saad, Yang
        (2016), arXiv:1308.5467.
    """
    if probes < 2 or steps < 2:
        raise ValueError(f"spectral_density needs probes >= 2 and steps >= 2, got {probes} and {steps}.")
    if not operator.symmetric:
        raise ValueError("spectral_density needs a symmetric operator; this one says symmetric=False.")
    size = operator.shape[0]
    runs, zero_rows = recurrences(operator, probes, min(steps, size), seed)
    products = sum(len(run.alphas) for run in runs)
    quadratures = [run.quadrature() for run in runs]
    traces = numpy.array([size * run.alphas[0] for run in runs])
    squares = numpy.array([size * (run.alphas[0] ** 2 + run.first_beta**2) for run in runs])
    low = min(float(nodes.min()) for nodes, _ in quadratures)
    high = max(float(nodes.max()) for nodes, _ in quadratures)
    if resolution is None:
        resolution = numpy.pi * (high - low) / min(steps, size)
    if resolution > 64 * torch.finfo(operator.dtype).eps * max(abs(low), abs(high)):
        curve = _curve(quadratures, low, high, resolution, points)
    else:
        reason = f"all eigenvalues equal {low:.6g}: a point mass has no density"
        undefined = {"value": float("nan"), "eigenvalue": low, "status": "undefined", "reason": reason}
        curve = pandas.DataFrame([{"quantity": "spectral_density", "unit": "1/loss"} | undefined])
    totals = pandas.DataFrame(
        [
            {"quantity": "trace", "unit": "loss"} | _estimate(traces),
            {"quantity": "trace_of_square", "unit": "loss^2"} | _estimate(squares, floor=0.0),
            {"quantity": "zero_row_fraction", "unit": "1", "value": zero_rows / size},
        ]
    )
    totals = totals.assign(status="ok", reason="")
    frame = pandas.concat([curve, totals], ignore_index=True)
    frame = frame.assign(n=probes, steps=min(steps, size), products=products)
    columns = ["quantity", "unit", "eigenvalue", "resolution", "value", "low", "high", "standard_error"]
    frame = frame.reindex(columns=[*columns, "n", "steps", "products", "status", "reason"])
    return frame.assign(**operator.conditions)[[*operator.conditions, *frame.columns]]


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
    labels = {"quantity": "spectral_density", "unit": "1/loss", "eigenvalue": grid, "resolution": resolution}
    labels |= {"status": "ok", "reason": ""}
    return pandas.DataFrame(labels | _estimate(densities, floor=0.0))


def _smoothed(
    grid: numpy.ndarray, nodes: numpy.ndarray, weights: numpy.ndarray, deviation: float
) -> numpy.ndarray:
    distances = (grid[:, None] - nodes[None, :]) / deviation
    return numpy.exp(-(distances**2) / 2) @ weights / (deviation * numpy.sqrt(2 * numpy.pi))


def _estimate(samples: numpy.ndarray, floor: float = -numpy.inf) -> dict[str, numpy.ndarray]:
    """Mean over probes (the first axis), its standard error and 95 % Student-t interval."""
    mean = samples.mean(axis=0)
    error = samples.std(axis=0, ddof=1) / len(samples) ** 0.5
    reach = student.ppf(0.975, len(samples) - 1) * error
    return {
        "value": mean,
        "low": numpy.maximum(mean - reach, floor),
        "high": mean + reach,
        "standard_error": error,
    }
