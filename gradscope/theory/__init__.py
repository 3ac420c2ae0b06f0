"""What the papers predict, to be drawn over what is measured: closed forms and recursions, numpy only."""

from gradscope.theory.arc_cosine import coactivation, k0, k1
from gradscope.theory.batch_norm_residual import (
    residual_batch_norm,
    residual_batch_norm_bounded,
    residual_batch_norm_covariance,
    residual_batch_norm_paper,
    residual_batch_norm_variance,
)
from gradscope.theory.derivative_process import (
    DerivativeProcess,
    expected_autocorrelation,
    plain_derivative_process,
    residual_derivative_process,
)
from gradscope.theory.mean_field import MeanField, plain_correlation, residual_correlation
from gradscope.theory.path_counts import (
    binomial_path_counts,
    mass_between,
    path_counts,
    surviving_fraction,
)
from gradscope.theory.path_lengths import batch_norm_gains, initialisation_path_lengths, mean_path_length
from gradscope.theory.path_weights import (
    incoherent_path_weights,
    log_elementary_symmetric,
    path_weights,
    peak_path_fraction,
)
from gradscope.theory.shattering import (
    highway,
    plain_batch_norm_variance,
    plain_centred,
    residual_centred,
    residual_centred_variance,
)
from gradscope.theory.shortcut_hessian import (
    higher_shortcut_spectrum,
    isotropic_one_shortcut_spectrum,
    one_shortcut_hessian,
    residual_correlation_matrix,
    two_shortcut_condition_number,
    two_shortcut_spectrum,
)

__all__ = [
    "DerivativeProcess",
    "MeanField",
    "batch_norm_gains",
    "binomial_path_counts",
    "coactivation",
    "expected_autocorrelation",
    "higher_shortcut_spectrum",
    "highway",
    "incoherent_path_weights",
    "initialisation_path_lengths",
    "isotropic_one_shortcut_spectrum",
    "k0",
    "k1",
    "log_elementary_symmetric",
    "mass_between",
    "mean_path_length",
    "one_shortcut_hessian",
    "path_counts",
    "path_weights",
    "peak_path_fraction",
    "plain_batch_norm_variance",
    "plain_centred",
    "plain_correlation",
    "plain_derivative_process",
    "residual_batch_norm",
    "residual_batch_norm_bounded",
    "residual_batch_norm_covariance",
    "residual_batch_norm_paper",
    "residual_batch_norm_variance",
    "residual_centred",
    "residual_centred_variance",
    "residual_correlation",
    "residual_correlation_matrix",
    "residual_derivative_process",
    "surviving_fraction",
    "two_shortcut_condition_number",
    "two_shortcut_spectrum",
]
