"""What a few long gradients do to the interval of R, and not to that of the mean cosine."""

import math

import pytest
import torch
from torch import Tensor

from gradscope.measures.correlation import correlation_R_interval
from gradscope.measures.gram_cosines import cosines
from gradscope.measures.gram_jackknife import jackknife_of_pairs

COMMON, BATCHES = 0.3, 200


def gradients(examples: int, spread: float, generator: torch.Generator) -> Tensor:
    """Directions whose expected cosine is COMMON, and log-normal lengths of that sigma."""
    own = torch.randn(examples, 40, generator=generator, dtype=torch.float64)
    own[:, 0] = 0
    rows = math.sqrt(1 - COMMON) * own / own.norm(dim=1, keepdim=True)
    rows[:, 0] = math.sqrt(COMMON)
    return rows * (spread * torch.randn(examples, 1, generator=generator, dtype=torch.float64)).exp()


@pytest.mark.parametrize("examples", [6, 32])
def test_unequal_lengths_narrow_the_interval_of_R_and_not_that_of_cosines(examples):
    """R is E[l]^2 / E[l^2] = exp(-sigma^2) times the cosine: its true value is known for any lengths."""
    held = {}
    for spread in (0.0, 1.0):
        generator = torch.Generator().manual_seed(0)
        truth = COMMON * math.exp(-(spread**2))
        of_R = of_cosines = 0
        for _ in range(BATCHES):
            rows = gradients(examples, spread, generator)
            R = correlation_R_interval(rows)
            cosine = jackknife_of_pairs(cosines(rows @ rows.T))
            of_R += R.low <= truth <= R.high
            of_cosines += cosine.low <= COMMON <= cosine.high
        held[spread] = of_R / BATCHES, of_cosines / BATCHES
    assert min(held[0.0]) > 0.93 and held[1.0][1] > 0.93
    assert 0.55 < held[1.0][0] < 0.87
