"""How well is it conditioned? Operators known by their products, and what their spectra say."""

from gradscope.curvature.condition import condition_number
from gradscope.curvature.condition_table import condition_numbers
from gradscope.curvature.coupling import CouplingOperator
from gradscope.curvature.density import spectral_density
from gradscope.curvature.eigenpairs import Eigenpairs, extreme_eigenpairs
from gradscope.curvature.eigenvalues import extreme_eigenvalues
from gradscope.curvature.empirical_fisher import empirical_fisher
from gradscope.curvature.fisher_operator import FisherOperator
from gradscope.curvature.gauss_newton import gauss_newton
from gradscope.curvature.gauss_newton_operator import GaussNewtonOperator
from gradscope.curvature.hessian import hessian
from gradscope.curvature.hessian_operator import HessianOperator
from gradscope.curvature.lanczos import Lanczos
from gradscope.curvature.operators import MatrixOperator, Operator
from gradscope.curvature.preconditioning import adam_diagonal
from gradscope.curvature.problem_operator import ProblemOperator

__all__ = [
    "CouplingOperator",
    "FisherOperator",
    "GaussNewtonOperator",
    "HessianOperator",
    "Lanczos",
    "MatrixOperator",
    "Operator",
    "ProblemOperator",
    "adam_diagonal",
    "condition_number",
    "condition_numbers",
    "empirical_fisher",
    "Eigenpairs",
    "extreme_eigenpairs",
    "extreme_eigenvalues",
    "gauss_newton",
    "hessian",
    "spectral_density",
]
