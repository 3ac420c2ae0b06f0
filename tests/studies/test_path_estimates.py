"""Mean path norms against all paths, and how honest their intervals are."""

import itertools
import math
import random
from collections import Counter

import pytest
import torch
from networks import Residual
from path_enumeration import sizes, through_each_set
from path_networks import PATH_NETWORKS
from torch import Tensor, nn

from gradscope.gradients.live import open_paths
from gradscope.problem import Problem
from gradscope.studies.path_spectrum import path_spectrum
from gradscope.studies.paths.counts import Link, as_float, counts_of, square_root
from gradscope.studies.paths.estimates import heavy_tailed_mean
from gradscope.studies.paths.norms import Parts
from gradscope.studies.paths.sampled import chosen, drawn_paths, path_norms, ways_on

NAMES = ["projection", "parallel transformer", "multi-residual", "highway", "post-norm transformer"]


def values(frame, quantity: str, column: str = "value") -> list[float]:
    return frame[frame["quantity"] == quantity].sort_values("path_length")[column].tolist()


def norms_of_all_paths(name: str) -> list[Tensor]:
    """Norms of the gradients of all single paths, length by length: of all sets of branches that one path crosses."""
    network = PATH_NETWORKS[name]
    branches = len(network.branches)
    norms = through_each_set(network.problem(), network.branches)["input"].flatten(1).norm(dim=1)
    together = len(network.counts) - 1
    blocks = [place * together // branches for place in range(branches)]
    patterns = list(itertools.product([0, 1], repeat=branches))
    single = torch.tensor(
        [
            max(Counter(b for b, on in zip(blocks, p, strict=True) if on).values(), default=0) < 2
            for p in patterns
        ]
    )
    return [norms[single & (sizes(branches) == length)] for length in range(together + 1)]


@pytest.mark.parametrize("name", NAMES)
def test_all_sampled_paths_are_all_paths(name):
    every = norms_of_all_paths(name)
    frame = path_spectrum(PATH_NETWORKS[name].problem(), draws=0, sampled=100)
    counts = [len(norms) for norms in every]
    assert (
        values(frame, "path_count")
        == counts
        == values(frame[frame["estimator"] == "all paths"], "mean_path_norm", "n")
    )
    assert values(frame, "mean_path_norm") == pytest.approx([float(n.mean()) for n in every], rel=1e-9)
    assert values(frame, "sampled_veit_product") == pytest.approx([float(n.sum()) for n in every], rel=1e-9)
    shares = [float(n.max() / n.sum()) for n in every]
    assert values(frame, "largest_draw_share") == pytest.approx(shares, rel=1e-9)


@pytest.mark.parametrize("name", ["post-activation", "highway", "multi-residual", "DenseNet"])
def test_masks_leave_one_path_each_and_together_these_are_the_gradient(name, monkeypatch):
    with open_paths(PATH_NETWORKS[name].problem()) as paths:
        split = paths.graded().gradients
        counts = counts_of(paths)
        crossed = drawn_paths(counts, range(len(split)), 1000, random.Random(0))
        gated = []
        monkeypatch.setattr(type(paths), "gated", spied(type(paths).gated, gated))
        monkeypatch.setattr("gradscope.studies.paths.sampled._HELD", 7 * split[0].numel())
        every = [path for some in crossed for path in some]
        norms = path_norms(paths, Parts(1, 1.0), every, [0] * len(every))
    gradients = torch.cat(gated)
    assert max(len(part) for part in gated) == 7, "as many at once as may be held"
    torch.testing.assert_close(norms[:, 0], gradients.flatten(1).norm(dim=1), rtol=1e-12, atol=0)
    lengths = torch.tensor([len(path) for path in every])
    for length, part in enumerate(split):
        torch.testing.assert_close(gradients[lengths == length].sum(dim=0), part, rtol=1e-9, atol=1e-15)


def spied(method, kept: list[Tensor]):
    def spy(*arguments, **options):
        kept.append(method(*arguments, **options))
        return kept[-1]

    return spy


@pytest.mark.parametrize(("paths", "gain"), [(16, 0.1), (64, 0.02)])
def test_intervals_of_heavy_tailed_means_are_wider_than_quantiles_of_means(paths, gain):
    """Log-normal norms as in a trained network (one path spreads 2.9 times its mean)."""
    generator = torch.Generator().manual_seed(0)
    true, hits, plain, repeats = math.exp(1.5**2 / 2), 0, 0, 300
    for _ in range(repeats):
        norms = (1.5 * torch.randn(paths, 1, generator=generator, dtype=torch.float64)).exp()
        found = heavy_tailed_mean(norms, generator, resamples=300)
        hits += found.low <= true <= found.high
        means = norms[torch.randint(paths, (300, paths), generator=generator), 0].mean(dim=1)
        plain += bool(means.quantile(0.025) <= true <= means.quantile(0.975))
    assert hits / repeats > 0.86 and hits >= plain + gain * repeats, (hits, plain)


def test_means_over_paths_and_examples_are_resampled_in_both():
    generator = torch.Generator().manual_seed(0)
    hits, repeats = 0, 150
    for _ in range(repeats):
        paths, examples = (0.5 * torch.randn(2, 12, generator=generator, dtype=torch.float64)).exp()
        found = heavy_tailed_mean(paths[:, None] * examples[None], generator, resamples=200)
        hits += found.low <= math.exp(0.25) <= found.high
    assert hits / repeats > 0.88


def test_few_paths_and_equal_ones():
    few = heavy_tailed_mean(torch.rand(7, 1), torch.Generator().manual_seed(0))
    assert math.isnan(few.low) and math.isnan(few.high)
    assert heavy_tailed_mean(torch.full((9, 1), 2.0), torch.Generator()) == (2, 2, 2)


WAYS = [[0, 1, 3, 2], [0, 1, 2], [0, 1], [1], [1]]


@pytest.mark.parametrize("length", range(4))
def test_numbers_of_paths_name_each_path_once(length):
    links = [Link(True, (0,)), Link(True, (1, 2)), Link(False, (3,)), Link(True, ())]
    ways = ways_on(links)
    assert [numbers[: len(one)] for numbers, one in zip(ways, WAYS, strict=True)] == WAYS
    found = [
        tuple(chosen(links, ways, length, place)) for place in range(ways[0][length] if length < 4 else 0)
    ]
    every = [(3,), (0, 3), (1, 3), (2, 3), (0, 1, 3), (0, 2, 3)]
    assert sorted(found) == sorted(path for path in every if len(path) == length)


def total(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.sum(dim=1)


def test_sampled_paths_are_those_of_that_length():
    """54 identical blocks that halve: every path of length k has norm 2^-k, and there are C(54, k)."""
    layer = nn.Linear(3, 3, bias=False).double()
    layer.weight.data = 0.5 * torch.eye(3, dtype=torch.float64)
    model = nn.Sequential(*[Residual(layer) for _ in range(54)]).float()
    problem = Problem(model, (torch.randn(1, 3), torch.zeros(1)), loss=total)
    frame = path_spectrum(problem, draws=0, sampled=2)
    halves = [math.sqrt(3) * 0.5**k for k in range(55)]
    assert values(frame, "mean_path_norm") == pytest.approx(halves, rel=1e-5)
    assert values(frame, "sampled_veit_product")[27] == pytest.approx(
        math.comb(54, 27) * halves[27], rel=1e-5
    )


def test_large_counts():
    assert as_float(2**2000) == math.inf and as_float(6) == 6
    assert square_root(2**1500) == 2.0**750 and square_root(2) == math.sqrt(2)
