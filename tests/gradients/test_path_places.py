"""Gradients by path length at sites and parameters, of other sources, and by several groups of branches."""

import itertools

import pytest
import torch
from path_enumeration import assert_alike, by_length, gate_patterns, through_each_set
from path_networks import COUNTED, PATH_NETWORKS, sets_of
from torch import nn

from gradscope.gradients.live import open_paths
from gradscope.gradients.paths import path_gradients

VARIED = ["wide", "parallel transformer", "highway", "DenseNet, lists", "U-Net"]
SITES = {"projection": "0", "parallel transformer": "1", "highway": "1", "DenseNet, lists": "layers.0"}
SITES |= {"encoder-decoder": "encoder", "U-Net": "down.1", "shared weights": "1"}
# Inside a branch, so that it is crossed on every way: the shortest length is 1.
SITES |= {"scaled": "3.branch.0", "wide": "2.conv1", "highway by lerp": "4.gate", "tokens": "token"}


@pytest.mark.parametrize("name", SITES)
def test_gradients_at_a_site(name):
    network, site = PATH_NETWORKS[name], SITES[name]
    problem = network.problem()
    exactly = through_each_set(problem, network.branches, at=site)[site]
    whole = gate_patterns(problem, (), at=site, patterns=[[]])[site]
    split = path_gradients(problem, at=site)
    assert_alike(split, by_length(exactly, len(network.branches)))
    assert_alike(split.sum(dim=0)[None], whole, 1e-12)
    if any(site.startswith(path) for (path, *_) in network.branches):
        assert not split[0].any()


@pytest.mark.parametrize("name", [*VARIED, "shared weights", "multi-residual", "tokens"])
def test_gradients_at_the_parameters(name):
    """A block's own branch counts as crossed for what lies inside it."""
    network = PATH_NETWORKS[name]
    problem = network.problem()
    exactly = through_each_set(problem, network.branches, at="parameters")
    split = path_gradients(problem, at="parameters")
    assert set(split) == set(exactly) == set(problem.parameters)
    inputs, targets = problem.first_batch()
    problem.value(inputs, targets).backward()
    largest = max(float(gradients.norm()) for gradients in exactly.values())
    for path, parameter in problem.parameters.items():
        # A bias that a softmax ignores has rounding for a gradient; what is small beside all others may be that.
        close = {"rtol": 1e-9, "atol": 1e-13 * largest}
        whole = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        expected = by_length(exactly[path], len(network.branches))
        lengths = min(len(expected), len(split[path]))
        torch.testing.assert_close(split[path][:lengths], expected[:lengths], **close)
        torch.testing.assert_close(split[path].sum(dim=0), whole, **close)


@pytest.mark.parametrize("name", [name for name in COUNTED if len(PATH_NETWORKS[name].branches) > 2])
def test_two_formal_variables_tell_two_groups_apart(name):
    """Every other branch belongs to one group: coefficient (i, j) is the sum over sets of i and j of these."""
    exactly, number = sets_of(name), len(PATH_NETWORKS[name].branches)
    members = torch.tensor(list(itertools.product([0, 1], repeat=number)))
    first, second = members[:, 0::2].sum(dim=1), members[:, 1::2].sum(dim=1)
    with open_paths(PATH_NETWORKS[name].problem()) as paths:
        found = paths.by_variable([place % 2 for place in range(number)])
    degrees = list(itertools.product(range(found.shape[0]), range(found.shape[1])))
    expected = torch.stack([exactly[(first == i) & (second == j)].sum(dim=0) for i, j in degrees])
    assert_alike(found.flatten(0, 1), expected)


@pytest.mark.parametrize("name", ["highway", "pre-norm transformer"])
def test_branches_outside_all_groups_are_not_counted(name):
    """They stay open, so that the lengths of the others add up to the gradient."""
    exactly, number = sets_of(name), len(PATH_NETWORKS[name].branches)
    counted = torch.tensor(list(itertools.product([0, 1], repeat=number)))[:, :2].sum(dim=1)
    with open_paths(PATH_NETWORKS[name].problem()) as paths:
        found = paths.by_variable([0, 0, *[None] * (number - 2)])
    assert_alike(found, torch.stack([exactly[counted == k].sum(dim=0) for k in range(3)]))


@pytest.mark.parametrize("name", VARIED)
@pytest.mark.parametrize("source", ["logit", "margin"])
def test_other_sources_are_split_alike(name, source):
    problem = PATH_NETWORKS[name].problem()
    x, targets = problem.first_batch()
    inputs = x if isinstance(x, dict) else {"": x}
    first = next(iter(inputs.values())).requires_grad_()
    logits = problem.model(**x) if isinstance(x, dict) else problem.model(x)
    own = logits[range(3), targets]
    others = logits.masked_fill(nn.functional.one_hot(targets, 3).bool(), -torch.inf).amax(dim=1)
    value = (own if source == "logit" else own - others).mean()
    expected = torch.autograd.grad(value, first)[0]
    first.requires_grad_(False)
    assert_alike(path_gradients(problem, source=source).sum(dim=0)[None], expected[None])
