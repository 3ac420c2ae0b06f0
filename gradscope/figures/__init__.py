"""Frame in, figure out. Knows neither networks nor tensors, so a figure can be redrawn from a CSV."""

from .angular_distance import angular_distance
from .autocorrelation import autocorrelation
from .branch_norms import branch_norms
from .conditioning import condition_against_depth
from .correlation import correlation_against_depth
from .density import spectral_density
from .effective_ensemble import effective_ensemble
from .eigenvalues import eigenvalue_stems
from .estimation_error import estimation_error
from .greedy_removal import greedy_removal
from .lesion_groups import lesion_groups
from .lesion_sets import lesion_sets
from .lesions import lesions
from .path_lengths import path_lengths
from .refinement import refinement
from .reordering import reordering
from .structure import structure
from .style import house_style
from .traces import traces

__all__ = [
    "angular_distance",
    "autocorrelation",
    "branch_norms",
    "condition_against_depth",
    "correlation_against_depth",
    "effective_ensemble",
    "eigenvalue_stems",
    "estimation_error",
    "greedy_removal",
    "house_style",
    "lesion_groups",
    "lesion_sets",
    "lesions",
    "path_lengths",
    "refinement",
    "reordering",
    "spectral_density",
    "structure",
    "traces",
]
