"""What the papers predict, to be drawn over what is measured: closed forms and recursions, numpy only."""

from gradscope.theory.activation_correlation import activation_correlation, residual_activation_correlation
from gradscope.theory.activation_patterns import (
    always_off_fraction,
    biased_run_length,
    expected_run_length,
    plain_coactivation,
)
from gradscope.theory.arc_cosine import coactivation, k0, k1
from gradscope.theory.batch_kernel import BatchMeanField, batch_kernel_correlation
from gradscope.theory.batch_norm_branches import (
    residual_batch_norm_branches,
    residual_batch_norm_branches_variance,
)
from gradscope.theory.batch_norm_residual import (
    residual_batch_norm,
    residual_batch_norm_bounded,
    residual_batch_norm_covariance,
    residual_batch_norm_covariance_paper,
    residual_batch_norm_paper,
    residual_batch_norm_variance,
    residual_batch_norm_variance_paper,
)
from gradscope.theory.block_polynomials import (
    BLOCKS,
    bigraded_block_polynomial,
    block_names,
    block_polynomial,
    encoder_path_counts,
)
from gradscope.theory.closed_form_conditioning import conditioning_overlay, percentile_condition_number
from gradscope.theory.cubic_law import asymptotic_correlation_gap, asymptotic_layer_factor, local_exponent
from gradscope.theory.deep_linear import (
    deep_linear_gauss_newton_bound,
    deep_linear_gauss_newton_spectrum,
    orthogonal_gauss_newton_spectrum,
    orthogonal_hessian,
)
from gradscope.theory.derivative_process import (
    DerivativeProcess,
    expected_autocorrelation,
    plain_derivative_process,
    residual_derivative_process,
)
from gradscope.theory.effective_rank import white_stable_rank, white_stable_rank_finite
from gradscope.theory.gaussian_products import (
    gaussian_condition_growth,
    gaussian_gauss_newton_mean_trace,
    gaussian_log_singular_value_deviations,
    gaussian_lyapunov_exponents,
)
from gradscope.theory.highway_uncentred import highway_uncentred, highway_uncentred_limit
from gradscope.theory.jacobian_moments import (
    derivative_moments,
    jacobian_mean_square,
    jacobian_relative_variance,
    looks_linear_singular_values,
    residual_jacobian_relative_variance,
)
from gradscope.theory.law import Law
from gradscope.theory.leaky_relu import leaky_relu_correlation
from gradscope.theory.mean_field import MeanField, plain_correlation, residual_correlation
from gradscope.theory.noise_traces import (
    NoiseBand,
    expected_von_neumann_ratio,
    noise_autocorrelation,
    noise_band,
    noise_covariance,
    noise_traces,
)
from gradscope.theory.norm_fluctuations import (
    log_norm_variance,
    log_norm_variance_exact,
    norm_moment_ratio,
    residual_log_norm_variance,
)
from gradscope.theory.order_to_chaos import Phase, critical_line, critical_weight_variance, order_to_chaos
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
from gradscope.theory.recognition import law_for
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
from gradscope.theory.shortcut_breaks import (
    biased_higher_shortcut_spectrum,
    biased_two_shortcut_spectrum,
    one_shortcut_block_norms,
    two_shortcut_block_norms,
    vanishing_spectrum,
)
from gradscope.theory.shortcut_convolution import convolution_correlation_matrix
from gradscope.theory.shortcut_couplings import branch_correlation_matrix, cross_entropy_gradients
from gradscope.theory.shortcut_growth import one_shortcut_largest_eigenvalue
from gradscope.theory.shortcut_hessian import (
    higher_shortcut_spectrum,
    isotropic_one_shortcut_spectrum,
    one_shortcut_hessian,
    residual_correlation_matrix,
    two_shortcut_condition_number,
    two_shortcut_spectrum,
)
from gradscope.theory.shortcut_minimiser import minimiser_near_zero, minimiser_norm, minimiser_norm_limit
from gradscope.theory.shortcut_order import (
    small_weight_gradient,
    small_weight_loss_change,
    small_weight_spectrum,
)
from gradscope.theory.shortcut_rectified import (
    post_rectified_correlation_matrices,
    post_rectified_spectrum,
    rectified_branch_spectrum,
    symmetric_rectified_branch_spectrum,
)
from gradscope.theory.theorem_table import theorem_table
from gradscope.theory.train_batch_norm import train_batch_norm_correlation

__all__ = [
    "BLOCKS",
    "BatchMeanField",
    "DerivativeProcess",
    "Law",
    "MeanField",
    "NoiseBand",
    "Phase",
    "activation_correlation",
    "always_off_fraction",
    "asymptotic_correlation_gap",
    "asymptotic_layer_factor",
    "batch_kernel_correlation",
    "batch_norm_gains",
    "biased_run_length",
    "biased_higher_shortcut_spectrum",
    "biased_two_shortcut_spectrum",
    "bigraded_block_polynomial",
    "binomial_path_counts",
    "block_names",
    "block_polynomial",
    "branch_correlation_matrix",
    "coactivation",
    "conditioning_overlay",
    "convolution_correlation_matrix",
    "critical_line",
    "critical_weight_variance",
    "cross_entropy_gradients",
    "deep_linear_gauss_newton_bound",
    "deep_linear_gauss_newton_spectrum",
    "derivative_moments",
    "encoder_path_counts",
    "expected_autocorrelation",
    "expected_run_length",
    "expected_von_neumann_ratio",
    "gaussian_condition_growth",
    "gaussian_gauss_newton_mean_trace",
    "gaussian_log_singular_value_deviations",
    "gaussian_lyapunov_exponents",
    "graded_path_counts",
    "higher_shortcut_spectrum",
    "highway",
    "highway_uncentred",
    "highway_uncentred_limit",
    "incoherent_path_weights",
    "initialisation_path_lengths",
    "isotropic_one_shortcut_spectrum",
    "jacobian_mean_square",
    "jacobian_relative_variance",
    "k0",
    "k1",
    "law_for",
    "leaky_relu_correlation",
    "linear_survival",
    "local_exponent",
    "log_elementary_symmetric",
    "log_norm_variance",
    "log_norm_variance_exact",
    "looks_linear_singular_values",
    "mass_between",
    "mean_path_length",
    "minimiser_near_zero",
    "minimiser_norm",
    "minimiser_norm_limit",
    "noise_autocorrelation",
    "noise_band",
    "noise_covariance",
    "noise_traces",
    "norm_moment_ratio",
    "one_shortcut_block_norms",
    "one_shortcut_hessian",
    "one_shortcut_largest_eigenvalue",
    "order_to_chaos",
    "orthogonal_gauss_newton_spectrum",
    "orthogonal_hessian",
    "path_counts",
    "path_counts_after_deletion",
    "path_weights",
    "paths_by_deleted_blocks",
    "peak_path_fraction",
    "percentile_condition_number",
    "plain_batch_norm_variance",
    "plain_centred",
    "plain_coactivation",
    "plain_correlation",
    "plain_derivative_process",
    "poisson_path_lengths",
    "post_activation_path_lengths",
    "post_rectified_correlation_matrices",
    "post_rectified_spectrum",
    "rectified_branch_spectrum",
    "reflected_walk",
    "residual_activation_correlation",
    "residual_batch_norm",
    "residual_batch_norm_bounded",
    "residual_batch_norm_branches",
    "residual_batch_norm_branches_variance",
    "residual_batch_norm_covariance",
    "residual_batch_norm_covariance_paper",
    "residual_batch_norm_paper",
    "residual_batch_norm_variance",
    "residual_batch_norm_variance_paper",
    "residual_centred",
    "residual_centred_variance",
    "residual_correlation",
    "residual_correlation_matrix",
    "residual_derivative_process",
    "residual_jacobian_relative_variance",
    "residual_log_norm_variance",
    "resnet_batch_norm_gains",
    "scaled_path_lengths",
    "small_weight_gradient",
    "small_weight_loss_change",
    "small_weight_spectrum",
    "stirling_path_counts",
    "surviving_fraction",
    "surviving_share",
    "symmetric_rectified_branch_spectrum",
    "theorem_table",
    "train_batch_norm_correlation",
    "two_shortcut_block_norms",
    "two_shortcut_condition_number",
    "two_shortcut_spectrum",
    "vanishing_spectrum",
    "weighted_path_counts",
    "white_stable_rank",
    "white_stable_rank_finite",
]
