"""How many eigenvalues lie beyond a threshold, as far as a Gauss quadrature can tell."""

from typing import Any

import numpy
from scipy.linalg import eigh_tridiagonal, solve_banded
from scipy.stats import t as student

from gradscope.curvature.quadrature import Recurrence


def share_below(
    run: Recurrence, threshold: float, *, with_threshold: bool = False
) -> tuple[float, float, float]:
    """Weight of one probe's spectral measure below `threshold`: the quadrature's own, and bounds on the true one.

    An eigenvalue at the threshold, to within rounding, counts with `with_threshold` alone.

    Of all measures with the moments that the quadrature knows, the share below x lies between the weights of
    the nodes below x and those up to x, in the quadrature that has a node at x (Gauss-Radau). The bounds meet
    where the Krylov space is exhausted.

    Returns:
        Value, low, high, each in [0, 1].

    Source:
        Chebyshev, Markov, Stieltjes; Golub and Meurant (2010), Matrices, Moments and Quadrature, chapter 6.
    """
    nodes, weights = run.quadrature()
    if with_threshold:
        value = float(weights[nodes <= threshold + run.rounding].sum())
    else:
        value = float(weights[nodes < threshold - run.rounding].sum())
    if run.closed:
        return value, value, value
    nodes, weights = _with_node(run, threshold)
    index = int(numpy.abs(nodes - threshold).argmin())
    low = float(weights[:index].sum())
    high = low + float(weights[index])
    return min(max(value, low), high), low, high


def share_row(runs: list[Recurrence], below: float | None, above: float | None) -> dict[str, Any]:
    """Share of eigenvalues below `below` or above `above`, with an interval that holds it.

    Probes differ, and each leaves its share uncertain; the interval has both parts. It reaches from the lower
    Student-t limit of the low bounds to the upper one of the high bounds.
    """
    bounds = numpy.zeros((len(runs), 3))
    if below is not None:
        bounds += [share_below(run, below) for run in runs]
    if above is not None:
        beneath = numpy.array([share_below(run, above, with_threshold=True) for run in runs])
        bounds += 1 - beneath[:, [0, 2, 1]]
    value, least, most = bounds.mean(axis=0)
    error, error_low, error_high = bounds.std(axis=0, ddof=1) / len(runs) ** 0.5
    reach = student.ppf(0.975, len(runs) - 1)
    row: dict[str, Any] = {
        "value": min(1.0, max(0.0, value)),
        "low": min(1.0, max(0.0, least - reach * error_low)),
        "high": min(1.0, max(0.0, most + reach * error_high)),
        "standard_error": error,
    }
    if most - least > max(0.01, value / 10):
        reason = f"{len(runs[0].alphas)} steps leave the share between {least:.3g} and {most:.3g}: take more"
        return row | {"status": "unconverged", "reason": reason}
    return row | {"status": "ok", "reason": ""}


def absolute_trace_row(runs: list[Recurrence], size: int) -> dict[str, Any]:
    """Sum of |lambda|: its interval holds the spread over probes and what fewer steps would change."""
    samples = _absolute(runs, 0, size)
    row: dict[str, Any] = {"status": "ok", "reason": ""}
    error = samples.std(ddof=1) / len(samples) ** 0.5
    most = max(len(run.alphas) for run in runs)
    open_runs = [run for run in runs if not run.closed]
    drift = 0.0
    if open_runs:
        fewer = [_absolute(runs, less, size) for less in (1, 2, -(-most // 4))]
        drift = max(abs(float((samples - other).mean())) for other in fewer)
    reach = student.ppf(0.975, len(samples) - 1) * error + drift
    value = float(samples.mean())
    row |= {"value": value, "low": max(0.0, value - reach), "high": value + reach, "standard_error": error}
    if drift > 0.05 * value:
        row |= {"status": "unconverged", "reason": f"it still moves by {drift:.2g} with the steps: take more"}
    return row


def _absolute(runs: list[Recurrence], less: int, size: int) -> numpy.ndarray:
    """Estimates by each probe, after `less` steps fewer (a probe that is exhausted keeps all of its steps)."""
    rules = [run.quadrature(None if run.closed else max(1, len(run.alphas) - less)) for run in runs]
    return numpy.array([size * float(weights @ numpy.abs(nodes)) for nodes, weights in rules])


def _with_node(run: Recurrence, place: float) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Nodes and weights of the quadrature with one node more than the run has steps, which is at `place`."""
    alphas, betas = numpy.array(run.alphas), numpy.array(run.betas)
    bands = numpy.zeros((3, len(alphas)))
    bands[0, 1:], bands[2, :-1] = betas[:-1], betas[:-1]
    bands[1] = alphas - place
    right = numpy.zeros(len(alphas))
    right[-1] = betas[-1] ** 2
    try:
        last = place + solve_banded((1, 1), bands, right)[-1]
    except numpy.linalg.LinAlgError:  # a node is there already
        return run.quadrature()
    nodes, vectors = eigh_tridiagonal(numpy.append(alphas, last), betas)
    return nodes, vectors[0] ** 2
