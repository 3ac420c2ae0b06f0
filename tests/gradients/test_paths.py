"""Gradients by path length against all paths, one by one."""

import itertools
from dataclasses import replace
from math import comb

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS, RESIDUAL, Repeated, Residual, mlp
from torch import Tensor, nn

from gradscope.gradients.live import open_paths
from gradscope.gradients.paths import path_gradients
from gradscope.instruments.gates.delay import delays
from gradscope.instruments.gates.polynomial import Gate
from gradscope.instruments.junctions import junctions, trace
from gradscope.problem import Problem

EXACT = {"rtol": 1e-11, "atol": 1e-14}


def problem_of(name: str, batch_norm: str = "auto") -> Problem:
    specimen = NETWORKS[name]
    return Problem(specimen.build(), (specimen.inputs(), specimen.targets()), batch_norm=batch_norm)


def every_path(problem: Problem) -> dict[tuple[int, ...], Tensor]:
    """The gradient through each choice of one operand at each addition: 0 for the skip, b for branch b.

    By closing all other operands with hooks on the additions' nodes, in one backward pass for each path.
    """
    with problem.prepared():
        inputs, targets = problem.first_batch()
        found = trace(problem.model, lambda placed: problem.value(placed, targets), inputs)
        level_0 = [place for place, junction in enumerate(found.junctions) if junction.level == 0]
        operands = [[*found.skip_edges[place], *found.branch_edges[place]] for place in level_0]
        gradients = {}
        for path in itertools.product(*(range(len(edges)) for edges in operands)):
            handles = []
            for choice, edges in zip(path, operands, strict=True):
                for place, edge in enumerate(edges):
                    if place != choice:
                        handles.append(edge.node.register_hook(closing(edge.slot)))
            gradients[path] = torch.autograd.grad(found.output, found.source, retain_graph=True)[0]
            for handle in handles:
                handle.remove()
    return gradients


def closing(slot: int):
    def hook(inputs, outputs):
        return tuple(g * 0 if place == slot else g for place, g in enumerate(inputs))

    return hook


def by_length(paths: dict[tuple[int, ...], Tensor]) -> Tensor:
    longest = len(next(iter(paths)))
    sums = [torch.zeros_like(next(iter(paths.values()))) for _ in range(longest + 1)]
    for path, gradient in paths.items():
        sums[sum(choice > 0 for choice in path)] += gradient
    return torch.stack(sums)


def whole_gradient(problem: Problem) -> Tensor:
    with problem.prepared():
        inputs, targets = problem.first_batch()
        if inputs.is_floating_point():
            inputs = inputs.clone().requires_grad_()
            return torch.autograd.grad(problem.value(inputs, targets), inputs)[0]
        kept = []
        handle = problem.model.token.register_forward_hook(lambda m, a, output: kept.append(output))
        value = problem.value(inputs, targets)
        handle.remove()
        return torch.autograd.grad(value, kept)[0]


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


def summed(output: Tensor, target: Tensor) -> Tensor:
    return (output * output.detach()).sum(dim=1)


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


@pytest.mark.parametrize("name", ["post-activation", "multi-residual", "shared weights", "tokens"])
def test_gradients_at_parameters_split_too(name):
    """A block's own branch counts as one crossing, so nothing of the lengths' sum is lost."""
    problem = problem_of(name)
    split = path_gradients(problem, at="parameters")
    with problem.prepared():
        loss = problem.value(*problem.first_batch())
        whole = torch.autograd.grad(loss, list(problem.parameters.values()))
    for (name, parts), gradient in zip(split.items(), whole, strict=True):
        assert parts.shape == (len(next(iter(split.values()))), *problem.parameters[name].shape)
        torch.testing.assert_close(parts.sum(dim=0), gradient, **EXACT)


def test_what_lies_in_a_branch_has_crossed_it():
    problem = problem_of("post-activation")
    split = path_gradients(problem, at="parameters")
    assert split["2.conv1.weight"][0].abs().max() == 0
    assert split["0.weight"][0].abs().max() > 0


def test_gradients_at_a_site_split_by_what_lies_above_it():
    problem = problem_of("post-activation")
    below, above = path_gradients(problem, at="1"), path_gradients(problem, at="6")
    assert len(below) == len(above) == 7
    assert above[2:].abs().max() == 0 and above[1].abs().max() > 0
    kept = []
    with problem.prepared():
        handle = problem.model[6].register_forward_hook(lambda m, a, output: kept.append(output))
        loss = problem.value(*problem.first_batch())
        handle.remove()
        torch.testing.assert_close(above.sum(dim=0), torch.autograd.grad(loss, kept)[0], **EXACT)


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("2.nowhere", "No site of Sequential matches"),
        ("2.*", "matches 5 sites"),
        ("2.relu", "it ran 2 times"),
    ],
)
def test_sites_that_will_not_do_are_named(site, message):
    with pytest.raises(ValueError, match=message):
        path_gradients(problem_of("post-activation"), at=site)


def test_moments_take_three_cotangents():
    """T10."""
    problem = problem_of("parallel transformer")
    graded = path_gradients(problem)
    lengths = torch.arange(len(graded), dtype=torch.float64)[:, None, None, None]
    with open_paths(problem) as paths:
        moments = paths.moments(2)
    expected = [graded.sum(0), (lengths * graded).sum(0), (lengths * (lengths - 1) / 2 * graded).sum(0)]
    torch.testing.assert_close(moments, torch.stack(expected), **EXACT)


def test_several_variables_split_the_split():
    """Attention against the rest: marginals, and each coefficient from all paths."""
    problem = problem_of("pre-norm transformer")
    expected = torch.zeros(4, 4, *problem.first_batch()[0].shape, dtype=torch.float64)
    for path, gradient in every_path(problem).items():
        expected[sum(path[::2]), sum(path[1::2])] += gradient
    with open_paths(problem) as paths:
        split = paths.by_variable([0, 1] * 3)
        marginal = paths.by_variable([0, None] * 3)
        cut = paths.by_variable([0, 1] * 3, [1, 2])
    torch.testing.assert_close(split, expected, **EXACT)
    torch.testing.assert_close(marginal, expected.sum(dim=1), **EXACT)
    torch.testing.assert_close(cut, expected[:2, :3], **EXACT)


def test_masks_leave_single_paths():
    problem = problem_of("multi-residual")
    paths_one_by_one = every_path(problem)
    with open_paths(problem) as paths:
        branches = torch.zeros(len(paths_one_by_one), len(paths.branches))
        carries = torch.zeros(len(paths_one_by_one), len(paths.junctions))
        for row, choice in enumerate(paths_one_by_one):
            for junction, operand in enumerate(choice):
                if operand == 0:
                    carries[row, junction] = 1
                else:
                    branches[row, 2 * junction + operand - 1] = 1
        found = paths.gated(branches, carries)
    torch.testing.assert_close(found, torch.stack(list(paths_one_by_one.values())), **EXACT)


@pytest.mark.parametrize("source", ["logit", "margin", lambda outputs, targets: outputs.square().sum(dim=1)])
def test_other_sources_than_the_loss(source):
    problem = problem_of("post-activation")
    split = path_gradients(problem, source=source)
    with problem.prepared():
        x, targets = problem.first_batch()
        x = x.clone().requires_grad_()
        outputs = problem.outputs(x)
        own = outputs[torch.arange(len(x)), targets]
        if source == "logit":
            values = own
        elif source == "margin":
            rest = [
                max(o for c, o in enumerate(row) if c != t) for row, t in zip(outputs, targets, strict=True)
            ]
            values = own - torch.stack(rest)
        else:
            values = outputs.square().sum(dim=1)
        torch.testing.assert_close(split.sum(dim=0), torch.autograd.grad(values.mean(), x)[0], **EXACT)


def test_a_network_that_changes_between_passes_is_refused():
    class Counting(torch.autograd.Function):
        calls = 0

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            Counting.calls += 1
            return gradient * Counting.calls

    class Moody(nn.Module):
        def forward(self, x):
            return Counting.apply(x)

    model = nn.Sequential(Residual(mlp(3, 3)), Moody(), Residual(mlp(3, 3))).double()
    x = torch.ones(2, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="changes between backward passes"):
        path_gradients(Problem(model, (x, torch.zeros(2)), loss=summed), engine="passes")


def test_a_source_that_does_not_depend_on_the_place_is_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = Residual(mlp(3, 3)), Residual(mlp(3, 3))

        def forward(self, x):
            self.unused(x)
            return self.used(x)

    x = torch.ones(2, 3, dtype=torch.float64)
    problem = Problem(Two().double(), (x, torch.zeros(2)), loss=summed)
    with pytest.raises(ValueError, match="does not depend on site unused"):
        path_gradients(problem, at="unused")


def test_junctions_are_chosen_by_pattern_by_name_or_by_a_rule():
    problem = problem_of("pre-norm transformer")
    x, _ = problem.first_batch()
    found = junctions(problem.model, x)
    attention = path_gradients(problem, junctions="*:0")
    assert len(attention) == 4
    assert torch.equal(attention, path_gradients(problem, junctions=found.matching("*:0")))
    assert torch.equal(attention, path_gradients(problem, junctions=lambda j: j.name.endswith(":0")))
    with pytest.raises(ValueError, match="No junction matches 'layer9"):
        path_gradients(problem, junctions="layer9*")
    with pytest.raises(ValueError, match="cannot be counted at elsewhere:0"):
        path_gradients(problem, junctions=replace(found[0], name="elsewhere:0"))


def test_the_longest_paths_are_counted_at_the_input_of_chains_only():
    with pytest.raises(ValueError, match="not at site 1"):
        path_gradients(problem_of("post-activation"), 2, at="1", longest=True)


def test_behind_the_last_junction_there_is_one_path():
    problem = problem_of("post-activation")
    split = path_gradients(problem, at="9")
    assert split[1:].abs().max() == 0
    with open_paths(problem, at="9") as paths:
        torch.testing.assert_close(split[0], paths.backward(), rtol=0, atol=0)
        moments = paths.moments(1)
    assert torch.equal(moments[0], split[0]) and moments[1].abs().max() == 0


def test_a_source_without_the_outputs_is_named():
    with pytest.raises(ValueError, match="The source does not depend on the outputs"):
        path_gradients(problem_of("post-activation"), source=lambda outputs, _: outputs.detach().sum(dim=1))


def test_what_does_not_fit_says_how_much_it_is_and_leaves_no_hook():
    """A million million coefficients of 3 x 1 x 6 x 6 numbers."""
    problem = problem_of("post-activation")
    with open_paths(problem) as paths:
        before = paths.backward()
        with pytest.raises(
            MemoryError, match=r"result alone takes \d.*GiB \(1000000000001 coefficients.*path_moments"
        ):
            paths.moments(10**12)
        torch.testing.assert_close(paths.graded().gradients.sum(dim=0), before, **EXACT)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("not enough memory: you tried")]
)
def test_running_out_of_memory_on_the_way_is_one_clear_error(error, monkeypatch):
    problem = problem_of("post-activation")
    before = snapshot(problem.model)

    def full(*_, **__):
        raise error

    monkeypatch.setattr("gradscope.gradients.split.run", full)
    with pytest.raises(MemoryError, match=r"Out of memory: the result alone takes .* GiB"):
        path_gradients(problem)
    assert_as_found(problem.model, before)
