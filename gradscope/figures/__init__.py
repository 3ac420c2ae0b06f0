"""Frame in, figure out. Knows neither networks nor tensors, so a figure can be redrawn from a CSV."""

from .autocorrelation import autocorrelation
from .conditioning import condition_against_depth
from .correlation import correlation_against_depth
from .density import spectral_density
from .eigenvalues import eigenvalue_stems
from .lesion_sets import lesion_sets
from .lesions import lesions
from .path_lengths import path_lengths
from .style import house_style
from .traces import traces

__all__ = [
    "autocorrelation",
    "condition_against_depth",
    "correlation_against_depth",
    "eigenvalue_stems",
    "house_style",
    "lesion_sets",
    "lesions",
    "path_lengths",
    "spectral_density",
    "traces",
]
