"""Which of a Lanczos run's values have converged, and have their rank for certain?"""

import numpy

from gradscope.curvature.lanczos import Lanczos
from gradscope.curvature.multiplicity import ranks_known


def small_residuals(run: Lanczos, end: int, tolerance: float) -> numpy.ndarray:
    """For each Ritz value, from the outermost inwards: is its residual small?

    Below half of `tolerance` times the largest absolute value seen, and below a tenth of its own: within the
    dense bulk around zero any value has some eigenvalue near it, which says nothing of its rank. The other half
    is for values so close together that they may change places.
    """
    values, residuals = run.ritz()
    resolved = residuals <= numpy.maximum(numpy.abs(values) / 10, 10 * run.noise)
    return (resolved & (residuals <= tolerance * run.largest / 2))[::-end]


def settled(run: Lanczos, end: int, tolerance: float) -> numpy.ndarray:
    """For each Ritz value, from the outermost inwards: has it converged, and is its rank certain?"""
    small = numpy.logical_and.accumulate(small_residuals(run, end, tolerance))
    if not run.exhausted and run.block_start > 0:
        small[ranks_known(run, end, tolerance) :] = False
    return small
