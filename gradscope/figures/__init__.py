"""Frame in, figure out. Knows neither networks nor tensors, so a figure can be redrawn from a CSV."""

from .agreement import agreement
from .angular_distance import angular_distance
from .autocorrelation import autocorrelation
from .bigraded_spectrum import bigraded_spectrum
from .block_curvature import block_curvature
from .block_participation import block_participation
from .branch_norms import branch_norms
from .condition_numbers import condition_numbers
from .conditioning import condition_against_depth
from .correlation import correlation_against_depth
from .covariance_picture import covariance_picture, mean_covariance_picture
from .curvature_along_training import curvature_along_training
from .deletion_survival import deletion_survival
from .density import spectral_density
from .effective_ensemble import effective_ensemble
from .eigenvalue_convergence import eigenvalue_convergence
from .eigenvalues import eigenvalue_stems
from .ensemble_depth import ensemble_depth
from .estimation_error import estimation_error
from .gradient_flow import gradient_flow
from .gradient_predictiveness import gradient_predictiveness
from .gram import cosine_matrix
from .greedy_removal import greedy_removal
from .initialisations import initialisations
from .jacobian_spectrum import jacobian_spectrum
from .learning_rate_grid import learning_rate_grid
from .lesion_groups import lesion_groups
from .lesion_sets import lesion_sets
from .lesions import lesions
from .minibatch_curvature import minibatch_curvature
from .path_cost import path_cost
from .path_length_law import path_length_law
from .path_lengths import path_lengths
from .path_triptych import path_triptych
from .raster import raster
from .refinement import refinement
from .reordering import reordering
from .run_lengths import run_lengths
from .spectrum_over_training import spectrum_over_training
from .structure import structure
from .style import house_style
from .top_subspace import top_subspace
from .traces import traces

__all__ = [
    "agreement",
    "angular_distance",
    "autocorrelation",
    "bigraded_spectrum",
    "block_curvature",
    "block_participation",
    "branch_norms",
    "condition_against_depth",
    "condition_numbers",
    "correlation_against_depth",
    "cosine_matrix",
    "covariance_picture",
    "curvature_along_training",
    "deletion_survival",
    "effective_ensemble",
    "eigenvalue_convergence",
    "eigenvalue_stems",
    "ensemble_depth",
    "estimation_error",
    "gradient_flow",
    "gradient_predictiveness",
    "greedy_removal",
    "house_style",
    "initialisations",
    "jacobian_spectrum",
    "learning_rate_grid",
    "lesion_groups",
    "lesion_sets",
    "lesions",
    "mean_covariance_picture",
    "minibatch_curvature",
    "path_cost",
    "path_length_law",
    "path_lengths",
    "path_triptych",
    "raster",
    "refinement",
    "reordering",
    "run_lengths",
    "spectral_density",
    "spectrum_over_training",
    "structure",
    "top_subspace",
    "traces",
]
