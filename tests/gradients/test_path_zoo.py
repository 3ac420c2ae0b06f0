"""Gradients by path length in every block of the literature, against the sets of branches one by one."""

import itertools

import pytest
import torch
from path_enumeration import (
    assert_alike,
    by_length,
    gate_patterns,
    sizes,
    through_each_set,
)
from path_networks import COUNTED, PATH_NETWORKS, sets_of
from torch import Tensor

from gradscope.gradients.engines.choice import ENGINES
from gradscope.gradients.live import open_paths
from gradscope.gradients.paths import path_gradients
from gradscope.problem import Problem

REFUSED = [name for name in PATH_NETWORKS if name not in COUNTED]
NORMALISED = ["pre-activation", "post-activation", "ResNeXt, grouped", "squeeze and excitation", "wide"]
# Ways lead around junctions in these, so no path is told by the junctions that it crosses and those that it skips.
AROUND = ["encoder-decoder", "U-Net", "DenseNet, lists", "DenseNet, transition"]
# Of each length's own norm, for networks and cotangents in float32.
FLOAT32 = 1e-5


@pytest.fixture(scope="module")
def lengths(paths):
    return paths.graded(engine="passes").gradients


def lengths_of(name: str, problem: Problem) -> Tensor:
    branches = PATH_NETWORKS[name].branches
    (exactly,) = through_each_set(problem, branches).values()
    return by_length(exactly, len(branches))


@pytest.mark.parametrize("any_name", PATH_NETWORKS)
def test_the_polynomial_counts_the_sets_that_carry_gradient(any_name):
    """T13, of the reference itself: as many sets of branches as the block's polynomial tells, and no others."""
    branches, counts = PATH_NETWORKS[any_name].branches, PATH_NETWORKS[any_name].counts
    norms = sets_of(any_name).flatten(1).norm(dim=1)
    carrying, number = norms > 1e-10 * norms.max(), sizes(len(branches))
    found = [int(carrying[number == k].sum()) for k in range(len(branches) + 1)]
    assert found == [*counts, *[0] * (len(found) - len(counts))]


def test_lengths_are_sums_over_the_sets_of_that_size(name, lengths):
    """T1 and T2."""
    assert_alike(lengths, by_length(sets_of(name), len(PATH_NETWORKS[name].branches)))
    (whole,) = gate_patterns(PATH_NETWORKS[name].problem(), (), patterns=[[]]).values()
    assert_alike(lengths.sum(dim=0)[None], whole, 1e-12)


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
@pytest.mark.parametrize("normalised", NORMALISED)
def test_lengths_are_exact_in_other_modes_of_batch_norm(normalised, batch_norm):
    problem = PATH_NETWORKS[normalised].problem(batch_norm)
    assert_alike(path_gradients(problem), lengths_of(normalised, problem))


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "passes"])
def test_engines_agree(name, paths, lengths, engine):
    """T3."""
    if (name, engine) == ("checkpointed", "walk"):
        with pytest.raises(RuntimeError, match="recomputes what it saved"):
            paths.graded(engine=engine)
        return
    assert_alike(paths.graded(engine=engine).gradients, lengths, 1e-11)


def test_branches_are_those_that_the_author_names(name, paths):
    """Closed and open in all patterns: their number and their order are right."""
    branches = PATH_NETWORKS[name].branches
    patterns = patterns_of([0.0, 1.0], len(branches))
    (expected,) = gate_patterns(PATH_NETWORKS[name].problem(), branches, patterns=patterns.tolist()).values()
    assert len(paths.branches) == len(branches)
    assert_alike(paths.gated(patterns), expected)


def patterns_of(values: list[float], branches: int) -> Tensor:
    """All patterns, or some of them where there are many; those with one value throughout among them."""
    patterns = torch.tensor(list(itertools.product(values, repeat=branches)), dtype=torch.float64)
    inner = torch.randperm(len(patterns) - 2, generator=torch.Generator().manual_seed(5))[:30] + 1
    return patterns[[0, *inner.tolist(), len(patterns) - 1]]


def test_one_path_at_a_time(name, paths):
    """T2 with the package's own gates: branches of one set open, and the skips of the junctions beside them closed."""
    if name in AROUND:
        assert not paths.is_chain
        return
    places = [paths.junctions.index(branch.junction) for branch in paths.branches]
    masks = torch.tensor(list(itertools.product([0.0, 1.0], repeat=len(places))), dtype=torch.float64)
    crossed = torch.zeros(len(masks), len(paths.junctions), dtype=torch.float64)
    crossed.index_add_(1, torch.tensor(places), masks)
    # Two branches of one junction are no path.
    kept = (crossed.amax(dim=1) <= 1).nonzero().flatten()
    kept = kept[torch.randperm(len(kept), generator=torch.Generator().manual_seed(6))[:40]]
    assert_alike(paths.gated(masks[kept], 1 - crossed[kept]), sets_of(name)[kept])


def test_the_mean_over_all_signs_is_the_sum_of_squared_norms(name, paths):
    """Parseval (T7), with a sign for each branch: for each length, or for all together where signs are many."""
    branches = len(PATH_NETWORKS[name].branches)
    squares = by_length(sets_of(name).flatten(1).square().sum(dim=1), branches)
    # Turning all signs changes only the sign of odd lengths, so half of the patterns have the same mean.
    rest = itertools.product([-1.0, 1.0], repeat=branches - 1)
    signs = torch.tensor([(1.0, *others) for others in rest], dtype=torch.float64)
    total = torch.zeros_like(squares)
    for row in signs if branches <= 4 else []:
        signed = paths.graded(signs=row).gradients
        total[: len(signed)] += signed.flatten(1).square().sum(dim=1)
    if branches <= 4:
        assert_alike(total[:, None] / len(signs), squares[:, None])
    both = paths.gated(torch.cat([signs, -signs])).flatten(1).square().sum(dim=1)
    torch.testing.assert_close(both.mean(), squares.sum(), rtol=1e-9, atol=0.0)


def test_single_precision(name, lengths):
    problem = PATH_NETWORKS[name].problem()
    problem.model.float()
    rounded = path_gradients(problem)
    assert rounded.dtype is torch.float64
    assert_alike(rounded, lengths, FLOAT32)


@pytest.mark.parametrize("refused", REFUSED)
def test_without_a_skip_there_is_one_path_and_that_is_said(refused):
    with pytest.raises(ValueError, match=PATH_NETWORKS[refused].refused):
        path_gradients(PATH_NETWORKS[refused].problem())


def test_residual_networks_of_residual_networks_at_their_innermost_level():
    """Each shortcut around a group is one more route of the lengths that it leaves out: 1 + (1 + (1 + t)^2)^2."""
    problem = PATH_NETWORKS["residual of residual"].problem()
    leaves = tuple(
        (f"{block}.branch.{group}.branch.{place}.branch",)
        for block, group, place in itertools.product((2, 3), (0, 1), (0, 1))
    )
    (exactly,) = through_each_set(problem, leaves).values()
    with open_paths(problem, junctions=lambda junction: junction.level == 2) as paths:
        assert [branch.junction.level for branch in paths.branches] == [2] * 8
        assert_alike(paths.graded().gradients, by_length(exactly, 8))


def test_all_levels_of_a_u_net():
    """1 + t (1 + t (1 + t)): past both halves, past the inner one, past the block at the bottom, past nothing."""
    problem = PATH_NETWORKS["U-Net"].problem()
    (exactly,) = through_each_set(problem, (("bottom.branch",), ("up.0",), ("up.1",))).values()
    carrying = exactly.flatten(1).norm(dim=1) > 0
    assert [int(carrying[sizes(3) == k].sum()) for k in range(4)] == [1, 1, 1, 1]
    with open_paths(problem, junctions=lambda junction: True) as paths:
        assert_alike(paths.graded().gradients, by_length(exactly, 3))


def test_identical_linear_branches_give_the_number_of_paths():
    """With F the identity and a linear head, the gradient of length k is the head's times the number of paths."""
    network = PATH_NETWORKS["residual of residual"]
    model = network.build()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Tanh):
                module.forward = lambda x: x
            elif isinstance(module, torch.nn.Linear):
                module.bias.zero_()
                torch.nn.init.eye_(module.weight)
    # Of the four units three pass the narrow layers of the branches; the loss looks at one of these.
    problem = Problem(
        model, (network.inputs(), network.targets()), loss=lambda output, _: output[:, 0], reduction="sum"
    )
    leaf = (5, 8, 8, 4, 1)
    with open_paths(problem, junctions=lambda junction: junction.level == 2) as paths:
        found = paths.graded().gradients[:, 0, 0]
    expected = [sum(leaf[i] * leaf[k - i] for i in range(5) if 0 <= k - i < 5) for k in range(9)]
    assert found.tolist() == expected
