"""Gradients by path length against all paths, one by one."""

import itertools
from math import comb

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from every_path import EXACT, by_length, every_path, problem_of, summed, whole_gradient
from networks import NETWORKS, RESIDUAL, Repeated, Residual, mlp
from torch import Tensor, nn

from gradscope.gradients.live import open_paths
from gradscope.gradients.paths import path_gradients
from gradscope.instruments.gates.delay import delays
from gradscope.instruments.gates.polynomial import Gate
from gradscope.problem import Problem


@pytest.mark.parametrize("name", RESIDUAL)
def test_lengths_are_the_sums_over_all_paths(name):
    """2^n or (1 + k)^n of them (T2), and all together they are the gradient (T1)."""
    problem = problem_of(name)
    graded = path_gradients(problem)
    paths = every_path(problem)
    expected_number = 1
    for branches in NETWORKS[name].branches:
        expected_number *= 1 + branches
    assert len(paths) == expected_number
    torch.testing.assert_close(graded, by_length(paths), **EXACT)
    torch.testing.assert_close(graded.sum(dim=0), whole_gradient(problem), **EXACT)


@pytest.mark.parametrize("batch_norm", ["frozen", "running", "train"])
@pytest.mark.parametrize("name", ["post-activation", "pre-activation"])
def test_lengths_are_exact_in_every_mode_of_batch_norm(name, batch_norm):
    problem = problem_of(name, batch_norm)
    graded = path_gradients(problem)
    torch.testing.assert_close(graded, by_length(every_path(problem)), **EXACT)
    torch.testing.assert_close(graded.sum(dim=0), whole_gradient(problem), **EXACT)


def jacobian_products(blocks, head, x: Tensor) -> list[Tensor]:
    """Products of transposed Jacobians, S or F_1, F_2, ... at each block, from the loss down to x."""
    states = [x]
    for skip, branches, after in blocks:
        states.append(after(skip(states[-1]) + sum(branch(states[-1]) for branch in branches)))
    cotangents = {0: torch.autograd.functional.vjp(head, states[-1])[1]}
    for (skip, branches, after), state in zip(reversed(blocks), reversed(states[:-1]), strict=True):
        total = skip(state) + sum(branch(state) for branch in branches)
        arrived = {k: torch.autograd.functional.vjp(after, total, c)[1] for k, c in cotangents.items()}
        cotangents = {}
        for k, c in arrived.items():
            for function, length in [(skip, k), *[(branch, k + 1) for branch in branches]]:
                term = torch.autograd.functional.vjp(function, state, c)[1]
                cotangents[length] = cotangents.get(length, 0) + term
    return [cotangents[k] for k in sorted(cotangents)]


def same(x: Tensor) -> Tensor:
    return x


def blocks_of(name: str, model: nn.Module):
    """(skip, branches, what follows the addition) of each block in the code, and all that follows the blocks."""
    if name == "pre-norm transformer":
        blocks = []
        for layer in model[:3]:
            blocks.append((same, [lambda x, la=layer: la.attention(la.norm1(x))], same))
            blocks.append((same, [lambda x, la=layer: la.mlp(la.norm2(x))], same))
        return same, blocks, model[3]
    if name == "parallel transformer":
        return (
            same,
            [
                (
                    same,
                    [lambda x, la=la: la.attention(la.norm1(x)), lambda x, la=la: la.mlp(la.norm1(x))],
                    same,
                )
                for la in model[:3]
            ],
            model[3],
        )
    if name == "multi-residual":
        return model[:2], [(same, [block.first, block.second], same) for block in model[2:5]], model[5]
    blocks = [
        (
            same if block.down is None else block.down,
            [lambda x, b=block: b.bn2(b.conv2(b.bn1(b.conv1(x)).relu()))],
            torch.relu,
        )
        for block in model[2:8]
    ]
    return model[:2], blocks, model[8:]


@pytest.mark.parametrize(
    "name", ["pre-norm transformer", "parallel transformer", "multi-residual", "post-activation"]
)
def test_lengths_are_products_of_jacobians(name):
    """The blocks are taken from the code here, so discovery is checked as well."""
    problem = problem_of(name)
    x, targets = problem.first_batch()
    stem, blocks, head = blocks_of(name, problem.model)
    below = stem(x)
    graded = jacobian_products(
        blocks, lambda state: problem.loss(head(state), targets).mean(), below.detach()
    )
    expected = [torch.autograd.functional.vjp(stem, x, c)[1] for c in graded]
    torch.testing.assert_close(path_gradients(problem), torch.stack(expected), **EXACT)


def test_the_shortest_path_of_identity_skips_is_the_gradient_at_the_last_state():
    """T4."""
    problem = problem_of("pre-norm transformer")
    x, targets = problem.first_batch()
    state = problem.model[:3](x).detach().requires_grad_()
    loss = problem.loss(problem.model[3](state), targets).mean()
    torch.testing.assert_close(path_gradients(problem)[0], torch.autograd.grad(loss, state)[0], **EXACT)


def linear_chain(scale: float, times: int = 5) -> Problem:
    layer = nn.Linear(4, 4, bias=False).double()
    nn.init.eye_(layer.weight)
    layer.weight.data *= scale
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Problem(Repeated(Residual(layer), times), (x, torch.zeros(3)), loss=summed)


def test_a_shared_multiple_of_the_identity_gives_binomial_coefficients():
    """g_k = C(n, k) a^k g_head, with one gate for each use of the layer (T6)."""
    problem = linear_chain(0.7)
    x, _ = problem.first_batch()
    head = x * 1.7**5 / 3
    expected = torch.stack([comb(5, k) * 0.7**k * head for k in range(6)])
    torch.testing.assert_close(path_gradients(problem), expected, **EXACT)


@pytest.mark.parametrize("name", ["post-activation", "pre-norm transformer", "multi-residual"])
def test_the_mean_over_all_signs_is_the_sum_of_squared_path_norms(name):
    """Parseval (T7), with a sign for each branch, parallel ones too."""
    problem = problem_of(name)
    expected = torch.zeros(len(NETWORKS[name].branches) + 1, dtype=torch.float64)
    for path, gradient in every_path(problem).items():
        expected[sum(choice > 0 for choice in path)] += gradient.square().sum()
    with open_paths(problem) as paths:
        assert len(paths.branches) == sum(NETWORKS[name].branches)
        squares = [
            paths.graded(signs=list(signs)).gradients.flatten(1).square().sum(dim=1)
            for signs in itertools.product([-1, 1], repeat=len(paths.branches))
        ]
    torch.testing.assert_close(torch.stack(squares).mean(dim=0), expected, rtol=1e-9, atol=1e-18)


def test_scaling_branch_cotangents_scales_by_the_power_of_the_length():
    """T8."""
    problem = problem_of("pre-norm transformer")
    with open_paths(problem) as paths:
        plain = paths.graded().gradients
        scaled = paths.graded(signs=torch.full((6,), 3.0)).gradients
    powers = 3.0 ** torch.arange(7, dtype=torch.float64)
    torch.testing.assert_close(scaled, plain * powers[:, None, None, None], **EXACT)


def test_scaling_linear_branches_scales_by_the_power_of_the_length():
    """T8, for a head whose gradient does not depend on the state."""

    def chain(scale: float) -> Problem:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(*[Residual(nn.Linear(4, 4, bias=False)) for _ in range(4)]).double()
        for parameter in model.parameters():
            parameter.data *= scale
        x = torch.ones(2, 4, dtype=torch.float64)
        return Problem(model, (x, torch.zeros(2)), loss=lambda output, target: output.sum(dim=1))

    powers = 2.5 ** torch.arange(5, dtype=torch.float64)
    torch.testing.assert_close(
        path_gradients(chain(2.5)), path_gradients(chain(1.0)) * powers[:, None, None], **EXACT
    )


@pytest.mark.parametrize("name", ["post-activation", "parallel transformer"])
def test_truncation_changes_nothing_and_skips_count_from_the_other_end(name):
    """T9."""
    problem = problem_of(name)
    everything = path_gradients(problem)
    for longest in range(len(everything)):
        torch.testing.assert_close(path_gradients(problem, longest), everything[: longest + 1], **EXACT)
        last = path_gradients(problem, longest, longest=True)
        torch.testing.assert_close(last, everything[len(everything) - 1 - longest :], **EXACT)


def test_backward_lesions_count_each_path_as_often_as_it_is_long():
    """The sum over blocks of what closing one block in the backward pass takes away is sum_k k g_k (T19)."""
    problem = problem_of("post-activation")
    graded = path_gradients(problem)
    paths = every_path(problem)
    taken = sum(sum(gradient for path, gradient in paths.items() if path[block] > 0) for block in range(6))
    lengths = torch.arange(7, dtype=torch.float64)[:, None, None, None, None]
    torch.testing.assert_close((lengths * graded).sum(dim=0), taken, **EXACT)


@pytest.mark.parametrize("name", ["post-activation", "pre-norm transformer", "shared weights"])
def test_norms_obey_their_bounds(name):
    """T11: |g_k| <= C(n, k) mean |g_p| and |g_k|^2 <= C(n, k) sum |g_p|^2."""
    problem = problem_of(name)
    graded, paths = path_gradients(problem), every_path(problem)
    n = len(graded) - 1
    for k in range(n + 1):
        norms = torch.stack([g.norm() for path, g in paths.items() if sum(path) == k])
        assert graded[k].norm() <= norms.sum() * (1 + 1e-12)
        assert graded[k].norm().square() <= comb(n, k) * norms.square().sum() * (1 + 1e-12)


@pytest.mark.parametrize("name", ["post-activation", "pre-norm transformer"])
def test_zero_branches_leave_the_shortest_path_only(name):
    """T12: exactly zero, not merely small."""
    problem = problem_of(name)
    model = problem.model
    layers = (
        [block.bn2 for block in model[2:8]]
        if name == "post-activation"
        else [layer for block in model[:3] for layer in (block.attention.out, block.mlp[-1])]
    )
    with torch.no_grad():
        for parameter in (p for layer in layers for p in layer.parameters()):
            parameter.zero_()
    graded = path_gradients(problem)
    assert graded[1:].abs().max() == 0
    assert graded[0].abs().max() > 0
    torch.testing.assert_close(graded[0], whole_gradient(problem), **EXACT)


def gates_of(paths):
    return {edge: Gate(0) for branch in paths.branches for edge in branch.edges}


def test_a_batched_backward_raises_instead_of_ignoring_the_delay():
    """T21."""
    with open_paths(problem_of("pre-norm transformer")) as paths, delays(gates_of(paths)):
        with pytest.raises(
            RuntimeError, match=r"cannot run inside a batched backward.*once for each path length"
        ):
            seeds = torch.ones(2, dtype=torch.float64)
            torch.autograd.grad(
                paths.loss, paths.found.source, seeds, retain_graph=True, is_grads_batched=True
            )
        with pytest.raises(RuntimeError, match="cannot run inside a batched backward"):
            torch.vmap(
                lambda v: torch.autograd.grad(paths.loss, paths.found.source, v, retain_graph=True)[0]
            )(torch.ones(2, dtype=torch.float64))


def test_hooks_are_gone_afterwards_and_a_second_run_is_identical():
    """T21."""
    problem = problem_of("post-activation")
    with open_paths(problem) as paths:
        first = paths.graded()
        second = paths.graded()
        torch.testing.assert_close(paths.backward(), first.gradient, rtol=0, atol=0)
    assert torch.equal(first.gradients, second.gradients)
    assert torch.equal(path_gradients(problem), first.gradients)


@pytest.mark.parametrize("name", ["post-activation", "tokens"])
def test_the_model_is_as_found(name):
    problem = problem_of(name)
    used(problem.model).train()
    before = snapshot(problem.model)
    path_gradients(problem)
    assert_as_found(problem.model, before)


def test_frozen_and_trainable_models_split_alike():
    assert torch.equal(path_gradients(problem_of("post-activation")), path_gradients(problem_of("frozen")))


def test_in_place_and_out_of_place_additions_split_alike():
    torch.testing.assert_close(
        path_gradients(problem_of("post-activation")), path_gradients(problem_of("out-of-place")), **EXACT
    )


def test_deep_networks_in_float32_are_scaled_clear_of_underflow():
    """45 branches of gain 0.01: the longest paths are near 1e-90, far below what float32 holds."""

    def deep(dtype: torch.dtype) -> Problem:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(*[Residual(mlp(4, 4)) for _ in range(45)])
            x = torch.randn(3, 4)
        for parameter in model.parameters():
            parameter.data *= 0.2
        return Problem(model.to(dtype), (x, torch.zeros(3)), loss=lambda out, _: out.sum(dim=1))

    narrow, wide = path_gradients(deep(torch.float32)), path_gradients(deep(torch.float64))
    norms = wide.flatten(1).norm(dim=1)
    error = (narrow - wide).flatten(1).norm(dim=1)
    assert norms[-1] < 1e-45
    assert (error <= 1e-4 * norms).all()
    torch.testing.assert_close(wide.sum(dim=0), whole_gradient(deep(torch.float64)), **EXACT)


def test_networks_without_graded_additions_are_refused():
    with pytest.raises(ValueError, match="No residual addition with a branch was found"):
        path_gradients(problem_of("plain"))


@pytest.mark.parametrize("lengths", [-1, 7])
def test_lengths_out_of_range_are_refused(lengths):
    with pytest.raises(ValueError, match=f"between 0 and 6, the longest path here, got {lengths}"):
        path_gradients(problem_of("post-activation"), lengths)


def test_own_statistics_are_refused():
    with pytest.raises(ValueError, match=r"batch_norm='own' .* Use batch_norm='train'"):
        path_gradients(problem_of("post-activation", "own"))


def test_a_bare_pair_will_do():
    specimen = NETWORKS["padding"]
    pair = (specimen.build(), (specimen.inputs(), specimen.targets()))
    assert torch.equal(path_gradients(pair), path_gradients(Problem(*pair)))
