"""What must hold of gradients by path length in any network, and what theory says of some."""

import itertools
from math import comb

import pytest
import torch
from networks import Repeated, Residual, mlp
from path_enumeration import assert_alike, by_length, sizes, through_each_set
from path_networks import PATH_NETWORKS, sets_of
from torch import Tensor, nn

from gradscope.gradients.live import open_paths
from gradscope.gradients.paths import path_gradients
from gradscope.problem import Problem
from gradscope.theory.path_counts import path_counts

# Ways lead around junctions: into the second layer of a decoder, past the lower half of a U-Net, and past several
# layers at once where the list of all results is concatenated anew for each.
AROUND = ["encoder-decoder", "U-Net", "DenseNet, lists", "DenseNet, transition"]
# Sums, gates and concatenations; attention, batch normalisation, ways around blocks, integers.
VARIED = ["wide", "parallel transformer", "highway", "DenseNet, lists", "encoder-decoder", "U-Net", "tokens"]
# A stem of two modules, four blocks whose skip is the identity, and a linear head.
STEMMED = ["scaled", "multi-residual", "ODE step", "stochastic depth, a coin an example"]
# The state that leaves a block's last affine layer is its branch, and nothing else reads that layer.
ENDS_IN_AFFINE = [
    *("pre-activation", "post-activation", "projection", "padding", "scaled", "multi-residual", "wide"),
    *("ResNeXt, grouped", "ResNeXt, split", "DenseNet", "DenseNet, lists", "DenseNet, transition", "U-Net"),
    *("pre-norm transformer", "parallel transformer", "tokens", "ODE step"),
]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13 * float(expected.abs().max()))


@pytest.fixture(scope="module")
def split(paths):
    return paths.graded().gradients


def weighted(gradients: Tensor, weights: list[int]) -> Tensor:
    return torch.tensordot(torch.tensor(weights, dtype=torch.float64), gradients, dims=1)


@pytest.mark.parametrize("chosen", ["pre-norm transformer", "parallel transformer"])
def test_without_branches_the_gradient_is_that_at_the_last_state(chosen):
    """T4, bit for bit: nothing but sums lies between."""
    problem = PATH_NETWORKS[chosen].problem()
    x, targets = problem.first_batch()
    state = problem.model[:-1](x).detach().requires_grad_()
    loss = problem.loss(problem.model[-1](state), targets).mean()
    close(path_gradients(problem)[0], torch.autograd.grad(loss, state)[0])


@pytest.mark.parametrize("chosen", STEMMED)
def test_behind_the_stem_too(chosen):
    """T4, at the site where the blocks begin."""
    problem = PATH_NETWORKS[chosen].problem()
    x, targets = problem.first_batch()
    state = problem.model[:-1](x).detach().requires_grad_()
    loss = problem.loss(problem.model[-1](state), targets).mean()
    close(path_gradients(problem, at="1")[0], torch.autograd.grad(loss, state)[0])


@pytest.mark.parametrize("chosen", ["highway", "highway by lerp", "uncoupled gates"])
def test_highways_carry_the_product_of_their_gates(chosen):
    """T5."""
    problem = PATH_NETWORKS[chosen].problem()
    x, targets = problem.first_batch()
    state = problem.model[:2](x)
    carried = torch.ones_like(state)
    for block in problem.model[2:-1]:
        carry = block.carry(state).sigmoid() if hasattr(block, "carry") else 1 - block.gate(state).sigmoid()
        carried, state = carried * carry, block(state)
    state = state.detach().requires_grad_()
    head = torch.autograd.grad(problem.loss(problem.model[-1](state), targets).mean(), state)[0]
    close(path_gradients(problem, at="1")[0], (head * carried).detach())


def test_one_linear_layer_used_again_and_again():
    """g_k = C(n, k) (A^T)^k g, coherence C(n, k) for a multiple of the identity; one gate a use (T6)."""
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(1, 4, generator=generator, dtype=torch.float64)
    for matrix in (
        0.6 * torch.eye(4, dtype=torch.float64),
        0.4 * torch.randn(4, 4, generator=generator, dtype=torch.float64),
    ):
        layer = nn.Linear(4, 4, bias=False).double()
        layer.weight.data = matrix
        problem = Problem(
            Repeated(Residual(layer), 6),
            (torch.ones(1, 4, dtype=torch.float64), torch.zeros(1)),
            loss=lambda output, _: output @ head[0],
        )
        expected = torch.stack([comb(6, k) * head @ torch.linalg.matrix_power(matrix, k) for k in range(7)])
        close(path_gradients(problem), expected)
        with open_paths(problem) as paths:
            signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=6)), dtype=torch.float64)
            norms = [paths.graded(signs=s).gradients.flatten(1).square().sum(dim=1) for s in signs]
        coherence = expected.flatten(1).square().sum(dim=1) / torch.stack(norms).mean(dim=0)
        close(coherence, torch.tensor([float(comb(6, k)) for k in range(7)], dtype=torch.float64))


def test_second_moments_of_paths_obey_their_recursion():
    """M_k <- S^T M_k S + F^T M_(k-1) F, whose trace is the sum of squared norms of all paths of length k (T7)."""
    network = PATH_NETWORKS["projection"]
    problem = Problem(network.build(), (network.inputs(1), network.targets(1)))
    model = problem.model
    state, targets = problem.first_batch()
    jacobians = []
    for block in model[:-1]:
        parts = [
            torch.autograd.functional.jacobian(part, state[0]) for part in (block.shortcut, block.branch)
        ]
        jacobians.append(parts)
        state = block(state)
    state = state.detach().requires_grad_()
    head = torch.autograd.grad(problem.loss(model[-1](state), targets).mean(), state)[0][0]
    moments = [torch.outer(head, head)]
    for skip, branch in reversed(jacobians):
        stayed = [skip.T @ moment @ skip for moment in moments] + [torch.tensor(0.0)]
        crossed = [torch.tensor(0.0)] + [branch.T @ moment @ branch for moment in moments]
        moments = [s + c for s, c in zip(stayed, crossed, strict=True)]
    traces = torch.stack([moment.trace() for moment in moments])
    (exactly,) = through_each_set(problem, network.branches).values()
    close(by_length(exactly.flatten(1).square().sum(dim=1), 3), traces)
    with open_paths(problem) as paths:
        signed = [
            paths.graded(signs=signs).gradients.flatten(1).square().sum(dim=1)
            for signs in itertools.product([-1.0, 1.0], repeat=3)
        ]
    close(torch.stack(signed).mean(dim=0), traces)


def test_what_crosses_a_branch_scaled_scales_by_the_power_of_the_length(paths, split):
    """T8."""
    tripled = paths.graded(signs=[3.0] * len(paths.branches)).gradients
    assert_alike(tripled, split * 3.0 ** torch.arange(len(split)).view(-1, *[1] * (split.ndim - 1)))


def test_shorter_splits_are_the_beginning_of_longer_ones(paths, split):
    """T9: what is left out is what is missing in the gradient."""
    for highest in {0, 1, paths.longest - 1}:
        some = paths.graded(highest)
        assert_alike(some.gradients, split[: highest + 1], 1e-12)
        assert some.lengths == range(highest + 1)
        close(some.gradients.sum(dim=0) + split[highest + 1 :].sum(dim=0), some.gradient)


def test_longest_paths_are_counted_from_the_other_end(name, paths, split):
    """T9, by the skips that paths do not take; refused where these do not tell one path from another."""
    if name in AROUND:
        with pytest.raises(ValueError, match=r"lengths='all'"):
            paths.graded(1, longest=True)
        return
    for number in {0, 1, paths.longest}:
        ends = paths.graded(number, longest=True)
        assert ends.lengths == range(paths.longest - number, paths.longest + 1)
        assert_alike(ends.gradients, split[-number - 1 :])


def test_moments_are_sums_over_lengths(paths, split):
    """T10: sum C(k, j) g_k for j = 0, 1, 2, 3."""
    binomials = [[comb(k, order) for k in range(len(split))] for order in range(4)]
    expected = torch.stack([weighted(split, weights) for weights in binomials])
    assert_alike(paths.moments(3), expected)


def test_norms_obey_their_bounds_and_shares_add_up(name, split):
    """T11, with the number of paths that there are."""
    network = PATH_NETWORKS[name]
    norms, number = sets_of(name).flatten(1).norm(dim=1), sizes(len(network.branches))
    for k, count in enumerate(network.counts):
        own = norms[number == k]
        assert split[k].norm() <= own.sum() * (1 + 1e-9)
        assert split[k].norm().square() <= count * own.square().sum() * (1 + 1e-9)
    whole = split.sum(dim=0)
    shares = split.flatten(1) @ whole.flatten() / whole.square().sum()
    torch.testing.assert_close(shares.sum(), torch.tensor(1.0, dtype=torch.float64), rtol=1e-12, atol=0)


def test_chains_have_as_many_paths_as_the_product_of_their_blocks(name, paths):
    """T13."""
    blocks = [[1, sum(b.junction is junction for b in paths.branches)] for junction in paths.junctions]
    assert paths.is_chain == (name not in AROUND)
    if name not in AROUND:
        assert tuple(path_counts(blocks)) == PATH_NETWORKS[name].counts


def test_backward_lesions_count_each_path_as_often_as_it_is_long(paths, split):
    """T19: closing one branch after the other in the backward pass takes away sum_k k g_k in all."""
    closed = paths.gated(1 - torch.eye(len(paths.branches), dtype=torch.float64))
    close((split.sum(dim=0) - closed).sum(dim=0), weighted(split, list(range(len(split)))))


@pytest.mark.parametrize("chosen", VARIED)
def test_the_order_of_examples_does_not_matter(chosen):
    network = PATH_NETWORKS[chosen]
    order, inputs = [2, 0, 1], network.inputs()
    turned = {k: v[order] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[order]
    problem = Problem(network.build(), (turned, network.targets()[order]))
    assert_alike(path_gradients(problem), path_gradients(network.problem())[:, order])


@pytest.mark.parametrize("chosen", VARIED)
def test_a_sum_over_examples_is_their_number_times_the_mean(chosen):
    network = PATH_NETWORKS[chosen]
    assert_alike(path_gradients(network.problem(reduction="sum")), 3 * path_gradients(network.problem()))


def test_scaling_linear_branches_scales_by_the_power_of_the_length():
    """T8, for a head whose gradient does not depend on the state."""

    def gradients(scale: float) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(*[Residual(mlp(4, 4, bias=False)) for _ in range(4)]).double()
        for parameter in model.parameters():
            parameter.data *= scale
        x = torch.ones(2, 4, dtype=torch.float64)
        return path_gradients(Problem(model, (x, torch.zeros(2)), loss=lambda output, _: output.sum(dim=1)))

    close(gradients(2.5), gradients(1.0) * 2.5 ** torch.arange(5, dtype=torch.float64)[:, None, None])
