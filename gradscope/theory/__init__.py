"""What the papers predict, to be drawn over what is measured: closed forms and recursions, numpy only."""

from gradscope.theory.arc_cosine import coactivation, k0, k1
from gradscope.theory.batch_norm_residual import (
    residual_batch_norm,
    residual_batch_norm_bounded,
    residual_batch_norm_covariance,
    residual_batch_norm_paper,
    residual_batch_norm_variance,
)
from gradscope.theory.block_polynomials import (
    BLOCKS,
    bigraded_block_polynomial,
    block_names,
    block_polynomial,
    encoder_path_counts,
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
    graded_path_counts,
    mass_between,
    path_counts,
    surviving_fraction,
    weighted_path_counts,
)
from gradscope.theory.path_deletion import (
    path_counts_after_deletion,
    paths_by_deleted_blocks,
    surviving_share,
)
from gradscope.theory.path_laws import (
    linear_survival,
    poisson_path_lengths,
    scaled_path_lengths,
    stirling_path_counts,
)
from gradscope.theory.path_lengths import batch_norm_gains, initialisation_path_lengths, mean_path_length
from gradscope.theory.path_weights import (
    incoherent_path_weights,
    log_elementary_symmetric,
    path_weights,
    peak_path_fraction,
)
from gradscope.theory.resnet_path_lengths import (
    post_activation_path_lengths,
    reflected_walk,
    resnet_batch_norm_gains,
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
    "BLOCKS",
    "DerivativeProcess",
    "MeanField",
    "batch_norm_gains",
    "bigraded_block_polynomial",
    "binomial_path_counts",
    "block_names",
    "block_polynomial",
    "coactivation",
    "encoder_path_counts",
    "expected_autocorrelation",
    "graded_path_counts",
    "higher_shortcut_spectrum",
    "highway",
    "incoherent_path_weights",
    "initialisation_path_lengths",
    "isotropic_one_shortcut_spectrum",
    "k0",
    "k1",
    "linear_survival",
    "log_elementary_symmetric",
    "mass_between",
    "mean_path_length",
    "one_shortcut_hessian",
    "path_counts",
    "path_counts_after_deletion",
    "path_weights",
    "paths_by_deleted_blocks",
    "peak_path_fraction",
    "plain_batch_norm_variance",
    "plain_centred",
    "plain_correlation",
    "plain_derivative_process",
    "poisson_path_lengths",
    "post_activation_path_lengths",
    "reflected_walk",
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
    "resnet_batch_norm_gains",
    "scaled_path_lengths",
    "stirling_path_counts",
    "surviving_fraction",
    "surviving_share",
    "two_shortcut_condition_number",
    "two_shortcut_spectrum",
    "weighted_path_counts",
]
