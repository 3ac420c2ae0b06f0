"""Sizes of branches and streams against explicit loops."""

import math

import pytest
import torch

from gradscope.measures.ensemble import channel_variance, open_share, relative_size, root_mean_square


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_root_mean_square_of_each_example():
    values = random(3, 2, 4)
    by_hand = [math.sqrt(sum(float(v) ** 2 for v in row.flatten()) / 8) for row in values]
    torch.testing.assert_close(root_mean_square(values), torch.tensor(by_hand, dtype=torch.float64))
    assert root_mean_square(torch.zeros(2, 3)).tolist() == [0, 0]


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_a_size_has_the_scale_of_its_values(scale):
    values = random(3, 4)
    torch.testing.assert_close(root_mean_square(values * scale) / scale, root_mean_square(values))


def test_relative_size_is_undefined_beside_nothing():
    ratio = relative_size(torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([2.0, 4.0, 0.0, 0.0]))
    assert ratio[:2].tolist() == [0, 0.25] and ratio[2:].isnan().all()


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4), (6, 3, 2, 2)])
def test_channel_variance_is_that_of_a_batch_normalisation(shape):
    values = random(*shape) * 2 + 5
    variances = []
    for channel in range(3):
        entries = [float(v) for row in values for v in row[channel].flatten()]
        mean = sum(entries) / len(entries)
        variances.append(sum((v - mean) ** 2 for v in entries) / len(entries))
    assert float(channel_variance(values)) == pytest.approx(sum(variances) / 3)


def test_channel_variance_forgets_the_mean_of_a_channel_and_is_undefined_for_one_entry():
    assert float(channel_variance(torch.tensor([[1.0, 5.0]] * 4))) == 0
    assert math.isnan(channel_variance(torch.ones(1, 3)))


def test_open_share_counts_what_is_not_zero():
    assert float(open_share(torch.tensor([[0.0, -1.0], [2.0, 0.0]]))) == 0.5


@pytest.mark.parametrize("values", [torch.ones(()), torch.ones(3, 0), torch.ones(0, 3)])
def test_nothing_has_no_size(values):
    with pytest.raises(ValueError, match="needs one row per example"):
        root_mean_square(values)
    with pytest.raises(ValueError, match=r"needs values of shape \[N, C"):
        channel_variance(values)
