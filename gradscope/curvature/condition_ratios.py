"""Condition numbers that are ratios of eigenvalues, and how well they are known."""

import numpy

from gradscope.curvature.condition_evidence import Eigenvalue, Evidence, Found, undefined

NEGLIGIBLE = 1e-6


def of_all(evidence: Evidence, percentile: float) -> Found:
    """Largest over a percentile of the absolute eigenvalues (0: the smallest of all)."""
    if evidence.spectrum is None:
        return undefined(evidence.why_not_all)
    sizes = numpy.abs(evidence.spectrum)
    largest, small = float(sizes.max()), float(numpy.percentile(sizes, percentile))
    if largest == 0:
        return undefined("all eigenvalues are zero")
    noise = (10 * evidence.eps + len(sizes) * numpy.finfo(float).eps) * largest
    low = (largest - noise) / (small + noise)
    if small <= noise:
        reason = f"the denominator, {small:.3g}, is zero to rounding ({noise:.3g})"
        return Found(float("inf"), low, float("inf"), reason=reason)
    return Found(largest / small, low, (largest + noise) / (small - noise))


def negative_ratio(evidence: Evidence) -> Found:
    """|lambda_min| / lambda_max."""
    found = _ranks(evidence, -1, 1)
    if isinstance(found, Found):
        return found
    bottom, top = found
    ends = sorted((abs(bottom.low), abs(bottom.high)))
    least = 0.0 if bottom.low <= 0 <= bottom.high else ends[0]
    size = Eigenvalue(abs(bottom.value), least, ends[1], bottom.converged)
    return _ratio(size, top, "largest")


def top_ratio(evidence: Evidence) -> Found:
    """lambda_1 / lambda_5."""
    found = _ranks(evidence, 1, 5)
    if isinstance(found, Found):
        return found
    top, fifth = found
    return _ratio(top, fifth, "fifth-largest")


def learning_rate_product(evidence: Evidence, learning_rate: float | None) -> Found:
    """Learning rate times lambda_max."""
    if learning_rate is None:
        return undefined("no learning rate was given: pass learning_rate=")
    found = _ranks(evidence, 1)
    if isinstance(found, Found):
        return found
    (top,) = found
    values = (learning_rate * top.value, learning_rate * top.low, learning_rate * top.high)
    return _marked(Found(*values), top)


def damped(evidence: Evidence, damping: float | None, *, semidefinite: bool) -> Found:
    """(lambda_max + damping) / (max(lambda_min, 0) + damping).

    lambda_min lies at or below the smallest Ritz value, and where it has not converged nothing but zero bounds
    it from below, which the interval says. `semidefinite` refuses an operator with a negative eigenvalue.
    """
    if damping is None:
        return undefined("no damping was given: pass damping=")
    found = _ranks(evidence, 1, -1)
    if isinstance(found, Found):
        return found
    top, bottom = found
    if semidefinite and bottom.value < -NEGLIGIBLE * abs(top.value):
        reason = f"the smallest eigenvalue, {bottom.value:.6g}, is negative: pass a Gauss-Newton operator"
        return undefined(reason)
    if top.value + damping <= 0:
        return undefined(f"the largest eigenvalue, {top.value:.6g}, is negative beyond the damping")
    floor = max(0.0, bottom.value)
    surely = max(0.0, bottom.low) if bottom.converged else 0.0
    result = Found(
        (top.value + damping) / (floor + damping),
        max(0.0, top.low + damping) / (max(0.0, bottom.high if bottom.converged else floor) + damping),
        (top.high + damping) / (surely + damping),
    )
    if not top.converged:
        return _marked(result, top)
    if not bottom.converged and result.high > 1.1 * result.low:
        result.status = "unconverged"
        result.reason = f"lambda_min is only known to be below {bottom.value:.3g}"
    return result


def _ranks(evidence: Evidence, *ranks: int) -> list[Eigenvalue] | Found:
    found = [evidence.ranked(rank) for rank in ranks]
    missing = [rank for rank, value in zip(ranks, found, strict=True) if value is None]
    if missing:
        return undefined(f"the eigenvalue of rank {missing[0]} is not among those given")
    return [value for value in found if value is not None]


def _ratio(above: Eigenvalue, below: Eigenvalue, which: str) -> Found:
    if not below.value > 0:
        return undefined(f"the {which} eigenvalue, {below.value:.6g}, is not positive")
    if not below.low > 0:
        ends = f"[{below.low:.3g}, {below.high:.3g}]"
        return undefined(f"the {which} eigenvalue, {below.value:.6g} in {ends}, may be zero")
    ratio = Found(above.value / below.value, above.low / below.high, above.high / below.low)
    return _marked(ratio, above, below)


def _marked(found: Found, *used: Eigenvalue) -> Found:
    if not all(value.converged for value in used):
        found.status, found.reason = "unconverged", "an eigenvalue it uses has not converged"
    return found
