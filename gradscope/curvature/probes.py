"""Random sign vectors, and estimates of traces from what they give."""

from typing import Any

import numpy
import torch
from scipy.stats import t as student
from torch import Tensor

from gradscope.curvature.operators import Operator

PIECE = 2**15
SMALLEST = 1e-30


def sign_vectors(operator: Operator, count: int, generator: torch.Generator) -> Tensor:
    """Independent entries of +1 and -1, as rows of [count, P] in the operator's dtype on its device."""
    size = operator.shape[0]
    rows = torch.empty(count, size, device=operator.device, dtype=operator.dtype)
    # Eight signs at a time from a table: drawing each by itself takes several times as long.
    every = torch.arange(256, dtype=torch.uint8)[:, None].numpy()
    table = torch.from_numpy(numpy.unpackbits(every, axis=1)).to(rows).mul_(2).sub_(1)
    for row in rows:
        octets = torch.randint(0, 256, (-(-size // 8),), generator=generator, dtype=torch.uint8)
        row.copy_(table[octets.to(operator.device, torch.int32)].flatten()[:size])
    return rows


def inner_product(left: Tensor, right: Tensor) -> float:
    """Inner product of two vectors, [P] each, to better than the rounding of float32 entries.

    On a CPU by pieces: each is short enough for its own sum to lose nothing (some 1e-8 relative), and the sum over
    pieces is float64. Turning the entries into float64 first takes 4 to 10 times as long, and is done where
    products of entries leave the range of float32.
    """
    if left.dtype == torch.float32 and left.device.type == "cpu":
        pieces = zip(left.split(PIECE), right.split(PIECE), strict=True)
        total = torch.stack([torch.dot(one, other) for one, other in pieces]).double().sum().item()
        if len(left) * SMALLEST < abs(total) < float("inf"):
            return total
    return torch.dot(left.double(), right.double()).item()


def mean_of(samples: numpy.ndarray, floor: float = -numpy.inf, least_error: float = 0.0) -> dict[str, Any]:
    """Mean over probes, its standard error, and the 95 % Student-t interval, not below `floor`.

    Args:
        samples: One estimate per probe along the first axis, at least two.
        floor: The least that the mean can truly be.
        least_error: The least that the standard error can truly be.

    Returns:
        `value`, `low`, `high`, `standard_error`, each of the shape of one sample.
    """
    mean = samples.mean(axis=0)
    error = numpy.maximum(samples.std(axis=0, ddof=1) / len(samples) ** 0.5, least_error)
    reach = student.ppf(0.975, len(samples) - 1) * error
    low, high = numpy.maximum(mean - reach, floor), mean + reach
    return {"value": mean, "low": low, "high": high, "standard_error": error}


def mean_of_squares(samples: numpy.ndarray) -> dict[str, Any]:
    """As `mean_of`, of samples that are not negative: the interval is symmetric on a logarithmic scale.

    Where few eigenvalues hold the sum, its estimates are skewed, and an interval symmetric about the
    mean would end too low.
    """
    row = mean_of(samples)
    mean, error = max(0.0, float(row["value"])), float(row["standard_error"])
    factor = numpy.exp(student.ppf(0.975, len(samples) - 1) * error / mean) if mean > 0 else 1.0
    return {"value": mean, "low": mean / factor, "high": mean * factor, "standard_error": error}


def participation_ratio_of(
    traces: numpy.ndarray, squares: numpy.ndarray, least_error: float = 0.0
) -> dict[str, Any]:
    """(tr A)^2 / tr A^2 with its interval, from an estimate of both by each probe.

    The interval is that of tr A / |A|_F, by the delta method, squared: where the trace may be zero, it begins
    at zero. The square of an estimate is too large by its variance, which is taken off the value.

    Args:
        traces: Unbiased estimates of tr A, [n], n >= 2.
        squares: Unbiased estimates of tr A^2 by the same probes, [n].
        least_error: The least that the standard error of the mean trace can truly be: where the spread of
            `traces` gives a smaller one, the error of the ratio is raised by the same factor.

    Returns:
        `value`, `low`, `high`, `standard_error`, dimensionless, in [0, P]; `status` and `reason`: "undefined"
        for the zero operator.
    """
    trace, square = traces.mean(), squares.mean()
    if not square > 0:
        nothing = dict.fromkeys(("value", "low", "high", "standard_error"), float("nan"))
        return nothing | {"status": "undefined", "reason": "all eigenvalues are zero"}
    root = trace / square**0.5
    pulls = (traces - trace) / square**0.5 - root * (squares - square) / (2 * square)
    error = pulls.std(ddof=1) / len(pulls) ** 0.5
    seen = traces.std(ddof=1) / len(traces) ** 0.5
    error *= max(1.0, least_error / seen) if seen > 0 else 1.0
    reach = student.ppf(0.975, len(pulls) - 1) * error
    return {
        "value": max(0.0, root**2 - error**2),
        "low": max(0.0, abs(root) - reach) ** 2,
        "high": (abs(root) + reach) ** 2,
        "standard_error": 2 * abs(root) * error,
        "status": "ok",
        "reason": "",
    }
