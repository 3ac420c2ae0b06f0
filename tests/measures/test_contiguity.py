"""Run lengths against a walk along each row, one entry at a time."""

from itertools import pairwise

import pytest
import torch

from gradscope.measures.contiguity import contiguity


def slow_runs(row: list[bool]) -> list[int]:
    lengths = [1]
    for before, after in pairwise(row):
        if before == after:
            lengths[-1] += 1
        else:
            lengths.append(1)
    return lengths


def raster(inputs: int, units: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(inputs, units, generator=torch.Generator().manual_seed(seed)) < 0.5


def test_runs_are_those_of_a_walk_along_each_row():
    active = raster(23, 7)
    active[:, 2], active[:, 5] = True, False
    runs = [slow_runs(active[:, unit].tolist()) for unit in range(7)]
    found = contiguity(active)
    every = [length for row in runs for length in row]
    assert float(found.mean) == pytest.approx(sum(every) / len(every), abs=1e-12)
    assert found.unit_means.tolist() == pytest.approx([sum(row) / len(row) for row in runs], abs=1e-12)
    assert found.histogram.tolist() == [every.count(length) for length in range(24)]
    assert float(found.constant) == pytest.approx(2 / 7)


def test_coins_run_for_two_and_constant_units_for_ever():
    assert float(contiguity(raster(1000, 300)).mean) == pytest.approx(2, abs=0.02)
    always = contiguity(torch.ones(9, 3, dtype=torch.bool))
    assert (
        float(always.mean) == 9 and float(always.constant) == 1 and always.histogram.tolist() == [0] * 9 + [3]
    )
    single = contiguity(torch.zeros(1, 2, dtype=torch.bool))
    assert float(single.mean) == 1 and single.histogram.tolist() == [0, 2]


def test_alternating_units_have_runs_of_one():
    active = (torch.arange(8) % 2 == 0)[:, None].expand(8, 4)
    found = contiguity(active)
    assert float(found.mean) == 1 and found.histogram.tolist() == [0, 32, *[0] * 7]


@pytest.mark.parametrize("active", [torch.ones(3, 2), torch.ones(3).bool(), torch.ones(0, 2).bool()])
def test_what_is_no_raster_is_refused(active):
    with pytest.raises(ValueError, match="a boolean raster"):
        contiguity(active)
