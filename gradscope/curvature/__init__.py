"""How well is it conditioned? Operators known by their products, and what their spectra say."""

from gradscope.curvature.condition import condition_number
from gradscope.curvature.density import spectral_density
from gradscope.curvature.eigenvalues import extreme_eigenvalues
from gradscope.curvature.hessian import hessian
from gradscope.curvature.hessian_operator import HessianOperator
from gradscope.curvature.lanczos import Lanczos
from gradscope.curvature.operators import MatrixOperator, Operator

__all__ = [
    "HessianOperator",
    "Lanczos",
    "MatrixOperator",
    "Operator",
    "condition_number",
    "extreme_eigenvalues",
    "hessian",
    "spectral_density",
]
