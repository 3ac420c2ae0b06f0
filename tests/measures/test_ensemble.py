"""Sizes of branches and streams against explicit loops."""

import math

import pytest
import torch

from gradscope.measures.ensemble import ChannelVariance, open_share, relative_size, root_mean_square


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


def variance_of(*batches):
    merged = ChannelVariance()
    for batch in batches:
        merged.add(batch)
    return merged.variance()


@pytest.mark.parametrize("sizes", [(6,), (1, 2, 3), (1,) * 6])
@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4), (6, 3, 2, 2)])
def test_channel_variance_is_that_of_a_batch_normalisation_of_all_batches(shape, sizes):
    values = random(*shape) * 2 + 5
    variances = []
    for channel in range(3):
        entries = [float(v) for row in values for v in row[channel].flatten()]
        mean = sum(entries) / len(entries)
        variances.append(sum((v - mean) ** 2 for v in entries) / len(entries))
    assert variance_of(*values.split(sizes)) == pytest.approx(sum(variances) / 3)


def test_channel_variance_forgets_the_mean_of_a_channel_and_is_undefined_for_one_entry():
    assert variance_of(torch.tensor([[1.0, 5.0]] * 4)) == 0
    assert math.isnan(variance_of(torch.ones(1, 3))) and math.isnan(variance_of())
    assert variance_of(torch.ones(1, 3), torch.ones(1, 3)) == 0


def test_batches_of_longer_examples_count_by_their_entries():
    """Two channels; 4 and 10 entries in each."""
    short, long = random(2, 2, 2), random(2, 2, 5) + 3
    together = torch.cat([short, long], dim=2)
    wanted = sum(float(together[:, c].flatten().var(correction=0)) for c in (0, 1)) / 2
    assert variance_of(short, long) == pytest.approx(wanted)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match="got 4 channels after 3"):
        variance_of(torch.ones(2, 3), torch.ones(2, 4))


def test_open_share_counts_what_is_not_zero():
    assert float(open_share(torch.tensor([[0.0, -1.0], [2.0, 0.0]]))) == 0.5


@pytest.mark.parametrize("values", [torch.ones(()), torch.ones(3, 0), torch.ones(0, 3)])
def test_nothing_has_no_size(values):
    with pytest.raises(ValueError, match="needs one row per example"):
        root_mean_square(values)
    with pytest.raises(ValueError, match=r"needs values of shape \[N, C"):
        variance_of(values)
