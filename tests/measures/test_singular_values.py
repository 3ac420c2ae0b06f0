"""Moments of singular values against loops, and probe estimates against what they estimate."""

import math

import pytest
import torch

from gradscope.measures.singular_values import isometry_share, probed_moments, squared_moments


def test_moments_are_the_loops():
    values = [2.0, 1.0, 0.5, 0.25]
    squares = [s * s for s in values]
    mean = sum(squares) / 4
    variance = sum((s - mean) ** 2 for s in squares) / 4
    moments = squared_moments(torch.tensor(values))
    expected = (mean, sum(s * s for s in squares) / 4, variance, variance / mean**2)
    assert tuple(moments) == pytest.approx(expected, abs=1e-15)
    assert isometry_share(torch.tensor(values)) == 0.75
    assert isometry_share(torch.tensor(values), within=(0.9, 1.1)) == 0.25


def test_an_isometry_has_no_variance_and_a_zero_matrix_no_relative_one():
    assert tuple(squared_moments(torch.ones(5))) == (1, 1, 0, 0)
    assert math.isnan(squared_moments(torch.zeros(3)).relative_variance)
    for measure in (squared_moments, isometry_share):
        with pytest.raises(ValueError, match="needs a vector of singular values"):
            measure(torch.ones(0))


def test_probes_are_unbiased_and_their_standard_errors_are_right():
    """Over many sets of probes: the mean is the truth, the scatter is what the standard error says."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    truth = torch.tensor(squared_moments(torch.linalg.svdvals(matrix)))
    found, errors = [], []
    for _ in range(800):
        signs = torch.randint(0, 2, (12, 6), generator=generator).double() * 2 - 1
        pulled = signs @ matrix
        values, error = probed_moments(pulled @ pulled.T, 6)
        found.append(torch.tensor(values))
        errors.append(torch.tensor(error))
    scatter = torch.stack(found).std(dim=0)
    bias = (torch.stack(found).mean(dim=0) - truth) / (scatter / math.sqrt(800))
    assert bias[:3].abs().max() < 3.5
    ratio = torch.stack(errors).square().mean(dim=0).sqrt() / scatter
    assert ratio[:3].min() > 0.85 and ratio[:3].max() < 1.3
    with pytest.raises(ValueError, match="three probes or more"):
        probed_moments(torch.ones(2, 2), 2)
