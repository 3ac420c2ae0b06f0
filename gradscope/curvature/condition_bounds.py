"""What a Lanczos run proves of a condition number, and what it saw of one."""

import numpy

from gradscope.curvature.condition_evidence import Evidence, Found, undefined
from gradscope.curvature.lanczos import Lanczos

RESOLVED = 0.1


def kappa_lower(evidence: Evidence) -> Found:
    """The lower bound of a run; the number itself, with its upper end, where the run left nothing out."""
    if evidence.run is None:
        return undefined("is read off a Lanczos run: pass the operator")
    bound, steps = lower_bound(evidence.run), evidence.run.steps
    if bound == 0:
        return undefined(f"no non-zero eigenvalue was found in {steps} products")
    if evidence.run.exhausted:
        sizes, noise = numpy.abs(evidence.run.ritz()[0]), evidence.run.noise
        smallest = float(sizes.min()) - noise
        high = (float(sizes.max()) + noise) / smallest if smallest > 0 else float("inf")
        return Found(bound, bound, high, reason=f"of all eigenvalues, from {steps} products")
    return Found(bound, bound, float("inf"), reason=f"a lower bound, from {steps} products")


def lower_bound(run: Lanczos) -> float:
    """max |theta| / sigma_min of the extended tridiagonal matrix, both moved by rounding to the safe side.

    For any unit u, |lambda|_min <= |A u|; the smallest such value over the Krylov space is sigma_min, and as much
    more as couplings that were dropped may add. It does not decrease as the run goes on, until a restart. Zero if
    nothing but zero was seen.
    """
    largest = max(0.0, float(numpy.abs(run.ritz()[0]).max()) - run.noise)
    smallest = run.image_length(numpy.linalg.svd(run.extended())[2][-1])
    return largest / smallest if largest > 0 else 0.0


def kappa_resolved(evidence: Evidence) -> Found:
    """max |theta| / min |theta| over the Ritz values whose residual is below a tenth of their own size.

    Each lies within its residual of an eigenvalue, and the interval holds the ratio of these two eigenvalues.
    """
    if evidence.run is None:
        return undefined("is read off a Lanczos run: pass the operator")
    values, residuals = evidence.run.ritz()
    sizes = numpy.abs(values)
    resolved = residuals < RESOLVED * sizes
    if not resolved.any():
        return undefined(f"no eigenvalue was resolved in {evidence.run.steps} products")
    sizes, residuals = sizes[resolved], residuals[resolved]
    top, bottom = sizes.argmax(), sizes.argmin()
    return Found(
        float(sizes[top] / sizes[bottom]),
        float((sizes[top] - residuals[top]) / (sizes[bottom] + residuals[bottom])),
        float((sizes[top] + residuals[top]) / (sizes[bottom] - residuals[bottom])),
        reason=f"{len(sizes)} of {len(values)} Ritz values resolved, from {evidence.run.steps} products",
    )
