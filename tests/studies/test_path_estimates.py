"""Sums of squared path norms and mean path norms against all paths, and how honest their intervals are."""

import itertools
import math
import random
from collections import Counter

import pytest
import torch
from networks import NETWORKS, Residual
from path_enumeration import sizes, through_each_set
from path_networks import PATH_NETWORKS
from torch import Tensor, nn

from gradscope.gradients.live import open_paths
from gradscope.problem import Problem
from gradscope.studies.path_spectrum import path_spectrum
from gradscope.studies.paths.control_variate import sums_of_squares
from gradscope.studies.paths.counts import Link, as_float, counts_of, signed_number, square_root
from gradscope.studies.paths.estimates import few_draws, heavy_tailed_mean, over_draws
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


def table(problem: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor, list[float]]:
    """Of every pattern of signs what the estimator is made of: squares, inner products, |g_k|^2, e_k / N, N."""
    with open_paths(problem) as paths:
        blocks = len(paths.branches)
        split = paths.graded().gradients.flatten(1)
        patterns = list(itertools.product([-1, 1], repeat=blocks))
        turned = torch.stack([paths.graded(signs=signs).gradients.flatten(1) for signs in patterns])
    numbers = [math.comb(blocks, length) for length in range(blocks + 1)]
    signed = torch.tensor(
        [signed_number([Link(True, (b,)) for b in range(blocks)], signs) for signs in patterns]
    )
    coherent = split.square().sum(dim=1)[:, None]
    inner = (turned * split).sum(dim=2)
    return (
        turned.square().sum(dim=2)[:, :, None],
        inner[:, :, None],
        coherent,
        signed.double() / torch.tensor(numbers),
        numbers,
    )


def test_the_control_variate_has_the_right_mean_over_all_signs():
    """Over all pairs of sign patterns, of which each chooses how much the other is corrected."""
    problem = Problem(coherent_chain(4), (torch.randn(2, 4, dtype=torch.float64), torch.zeros(2)), loss=total)
    squares, inner, coherent, signed, numbers = table(problem)
    exact = squares.mean(dim=(0, 2))
    estimates, uncorrected, used = [], [], torch.zeros(len(numbers), dtype=torch.bool)
    for pair in itertools.product(range(len(squares)), repeat=2):
        some = list(pair)
        found, corrected = sums_of_squares(squares[some], inner[some], coherent, signed[some], numbers)
        estimates.append(found.mean(dim=(0, 2)))
        uncorrected.append(squares[some].mean(dim=(0, 2)))
        used |= corrected
    assert used.tolist() == [False, True, True, True, False]
    torch.testing.assert_close(torch.stack(estimates).mean(dim=0), exact, rtol=1e-10, atol=0)
    better = torch.stack(estimates).var(dim=0) / torch.stack(uncorrected).var(dim=0)
    assert better[1] < 0.3 and better[2] < 0.6, "although a single draw chooses"


def coherent_chain(blocks: int, width: int = 4, noise: float = 0.1) -> nn.Module:
    """Branches 0.3 I + noise: nearly parallel paths."""
    torch.manual_seed(0)
    layers = [nn.Linear(width, width, bias=False).double() for _ in range(blocks)]
    for layer in layers:
        random = torch.randn(width, width, dtype=torch.float64) / math.sqrt(width)
        layer.weight.data = 0.3 * torch.eye(width, dtype=torch.float64) + noise * random
    return nn.Sequential(*[Residual(layer) for layer in layers])


def total(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.sum(dim=1)


def sums_by_recursion(model: nn.Module, inputs: Tensor) -> Tensor:
    """tr M_k with M_k = sum of g_p g_p^T over the paths of length k (T7): each block adds F^T M_{k-1} F."""
    width = inputs.shape[1]
    moments = [torch.ones(width, width, dtype=torch.float64)]
    for block in reversed(model):
        weight = block.branch.weight.detach()
        crossed = [weight.T @ moment @ weight for moment in moments]
        moments = [
            (moments[k] if k < len(moments) else 0) + (crossed[k - 1] if k else 0)
            for k in range(len(moments) + 1)
        ]
    return torch.stack([moment.trace() for moment in moments]) * len(inputs)


def test_parallel_paths_take_few_draws():
    """The sheet: one draw spreads .93-1.05 at k = 1 without control variate, .07-.09 with it."""
    blocks, draws = 12, 40
    model, inputs = coherent_chain(blocks, 8), torch.randn(2, 8, dtype=torch.float64)
    problem = Problem(model, (inputs, torch.zeros(2)), loss=total, reduction="sum")
    exact = sums_by_recursion(model, inputs)
    with open_paths(problem) as paths:
        split = paths.graded(1).gradients.flatten(1)
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (draws, blocks), generator=generator) * 2 - 1
        turned = torch.stack([paths.graded(1, signs=row.tolist()).gradients.flatten(1) for row in signs])
    squares = turned.square().sum(dim=2)[:, :, None]
    signed = torch.stack([torch.ones(draws), signs.sum(dim=1) / blocks], dim=1).double()
    coherent = split.square().sum(dim=1)[:, None]
    found, used = sums_of_squares(
        squares, (turned * split).sum(dim=2)[:, :, None], coherent, signed, [1, blocks]
    )
    assert used.tolist() == [False, True]
    spread, without = (float(e[:, 1, 0].std() / exact[1]) for e in (found, squares))
    assert spread < 0.12 and without > 0.8
    assert float(found[:, 1].mean()) == pytest.approx(float(exact[1]), rel=4 * spread / math.sqrt(draws))
    frame = path_spectrum(problem, draws=4)
    estimators = values(frame, "squared_path_norms", "estimator")
    assert estimators[0] == "random signs" and estimators[1] == "random signs, control variate"
    assert values(frame, "squared_path_norms")[1] == pytest.approx(float(exact[1]), rel=0.15)


def test_identical_paths_need_no_more_than_two_draws():
    layer = nn.Linear(4, 4, bias=False).double()
    layer.weight.data = 0.8 * torch.eye(4, dtype=torch.float64)
    model = nn.Sequential(*[Residual(layer) for _ in range(5)])
    problem = Problem(model, (torch.randn(3, 4, dtype=torch.float64), torch.zeros(3)), loss=total)
    exact = [math.comb(5, k) for k in range(6)]
    # Signs of one pattern may leave nothing at all, or all of it, so that the other one is not corrected in full.
    frame = path_spectrum(problem, draws=30, seed=1)
    assert values(frame, "coherence")[1] == pytest.approx(exact[1], rel=1e-6)


def test_orthogonal_paths_are_scarcely_corrected():
    """Where nothing is in common, the estimate is the plain mean over the draws; to the last bit where no a is above 0."""
    specimen = NETWORKS["post-activation"]
    problem = Problem(specimen.build(), (specimen.inputs(), specimen.targets()))
    with open_paths(problem) as paths:
        generator = torch.Generator().manual_seed(0)
        plain = []
        for _ in range(4):
            signs = torch.randint(0, 2, (6,), generator=generator) * 2 - 1
            plain.append(paths.graded(signs=signs.tolist()).gradients.flatten(1).square().sum(dim=1))
    found = values(path_spectrum(problem, draws=4), "squared_path_norms")
    used = values(path_spectrum(problem, draws=4), "squared_path_norms", "estimator")
    for value, mean, estimator in zip(found, torch.stack(plain).mean(dim=0).tolist(), used, strict=True):
        assert value == pytest.approx(mean, rel=1e-14 if estimator == "random signs" else 0.1)
    assert used.count("random signs") >= 2


def test_intervals_over_signs_hold_the_truth_about_as_often_as_they_say():
    network = PATH_NETWORKS["post-norm transformer"]
    squares, inner, coherent, signed, numbers = table(network.problem())
    exact = squares.mean(dim=(0, 2))
    generator = torch.Generator().manual_seed(0)
    hits = torch.zeros(len(numbers))
    repeats = 300
    for _ in range(repeats):
        some = torch.randint(0, len(squares), (8,), generator=generator)
        found, _ = sums_of_squares(squares[some], inner[some], coherent, signed[some], numbers)
        _, low, high = over_draws(found)
        hits += (low <= exact * (1 + 1e-9)) & (exact <= high * (1 + 1e-9))
    assert (hits / repeats).min() > 0.88, hits / repeats


def coverage(problem: Problem, draws: int, repeats: int = 300) -> tuple[Tensor, Tensor]:
    """How often intervals hold the truth, and the relative error (root mean square) of the estimates, by length."""
    squares, inner, coherent, signed, numbers = table(problem)
    exact = squares.mean(dim=(0, 2))
    generator = torch.Generator().manual_seed(0)
    hits, errors = torch.zeros(len(numbers)), []
    for _ in range(repeats):
        some = torch.randint(0, len(squares), (draws,), generator=generator)
        found, used = sums_of_squares(squares[some], inner[some], coherent, signed[some], numbers)
        mean, low, high = over_draws(
            found, torch.where(used, coherent.sum(dim=1) / torch.tensor(numbers), 0.0)
        )
        hits += (low <= exact * (1 + 1e-9)) & (exact <= high * (1 + 1e-9))
        errors.append((mean / exact - 1).square())
    return hits / repeats, torch.stack(errors).mean(dim=0).sqrt()


@pytest.mark.parametrize("draws", [8, 16, 64])
def test_intervals_of_nearly_parallel_paths_are_narrow_and_hold_the_truth(draws):
    """With an a from plain squares, as noisy as these, 16 draws were off by 0.1 to 0.2 and held the truth 64 times."""
    problem = Problem(
        coherent_chain(6, noise=0.02), (torch.randn(2, 4, dtype=torch.float64), torch.zeros(2)), loss=total
    )
    held, error = coverage(problem, draws)
    assert held.min() > 0.84, held
    assert error.max() < 0.05, error


def test_no_interval_begins_below_what_the_sum_of_all_paths_allows():
    """|g_k|^2 / N is least, so that no coherence is above the number of paths."""
    problem = Problem(
        coherent_chain(5, noise=0.01), (torch.randn(2, 4, dtype=torch.float64), torch.zeros(2)), loss=total
    )
    frame = path_spectrum(problem, draws=3)
    for high, number in zip(values(frame, "coherence", "high"), values(frame, "path_count"), strict=True):
        assert high <= number * (1 + 1e-9)


def test_draws_too_few_for_the_coherence_are_told():
    problem = Problem(coherent_chain(6), (torch.randn(2, 4, dtype=torch.float64), torch.zeros(2)), loss=total)
    frame = path_spectrum(problem, draws=4).query("quantity == 'squared_path_norms'").set_index("path_length")
    assert frame["reason"][3].startswith("paths pull together") and "sampled=" in frame["reason"][3]
    assert frame["reason"][0] == frame["reason"][6] == ""
    assert few_draws(16, 3.0) and not few_draws(24, 3.0) and not few_draws(2, 1.5)


def test_intervals_over_examples_and_signs_hold_the_truth():
    """Effects of draws, of examples and of both, of equal size."""
    generator = torch.Generator().manual_seed(0)
    hits, repeats = 0, 400
    for _ in range(repeats):
        draws, examples = torch.randn(6, 1, 1, generator=generator), torch.randn(1, 1, 9, generator=generator)
        both = torch.randn(6, 1, 9, generator=generator)
        _, low, high = over_draws((5 + draws + examples + both).double())
        hits += bool(low[0] <= 5 <= high[0])
    assert hits / repeats > 0.93


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
