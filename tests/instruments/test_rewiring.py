"""Reordered, repeated, parallel and skipped blocks against networks built that way by hand."""

import copy
from contextlib import ExitStack

import pytest
import torch
from networks import NETWORKS
from tuple_blocks import tuple_stack

from gradscope.instruments.gates import lesion
from gradscope.instruments.gates.rewiring import parallel, reorder, repeat, skipped
from gradscope.instruments.junctions import junctions
from gradscope.instruments.junctions.calls import additions

# Network, and the names of a group of blocks in the order in which they run.
GROUPS = {
    "post-activation": ["4", "5"],
    "pre-activation": ["4", "5"],
    "pre-norm transformer": ["0", "1", "2"],
    "parallel transformer": ["0", "1", "2"],
    "multi-residual": ["2", "3", "4"],
    "inside a module": ["2", "3", "4"],
    "highway": ["2", "3", "4", "5"],
    "encoder layers": ["0", "1"],
}


def permuted(model, order):
    """A copy of a Sequential whose blocks stand in another order."""
    twin = copy.deepcopy(model)
    blocks = list(twin)
    for position, source in zip(sorted(order), order, strict=True):
        twin[int(position)] = blocks[int(source)]
    return twin


def rotated(names):
    return [*names[1:], names[0]]


def by_hand(model, names, middle):
    """The forward of a Sequential with `middle(blocks, x)` in place of its named blocks."""

    def forward(x):
        for name, block in model.named_children():
            if name == names[0]:
                x = middle([model[int(n)] for n in names], x)
            elif name not in names:
                x = block(x)
        return x

    return forward


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", GROUPS)
def test_reordering_is_a_network_with_its_blocks_permuted(name, training):
    specimen = NETWORKS[name]
    model, order = specimen.build().train(training), rotated(GROUPS[name])
    twin = permuted(model, order)
    results = []
    for net in (model, twin):
        torch.manual_seed(5)  # of dropout
        x = specimen.inputs().requires_grad_()
        with reorder(net, order) if net is model else ExitStack():
            output = net(x)
        wanted = [p for _, p in sorted(model.named_parameters())] if net is model else None
        if net is twin:
            home = dict(zip(sorted(order), order, strict=True))
            named = {
                ".".join([home.get(n.partition(".")[0], n.partition(".")[0]), n.partition(".")[2]]): p
                for n, p in twin.named_parameters()
            }
            wanted = [p for _, p in sorted(named.items())]
        results.append(
            [output, *torch.autograd.grad(output.square().sum(), [x, *wanted], materialize_grads=True)]
        )
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert training or not torch.equal(results[0][0], model(specimen.inputs()))


@pytest.mark.parametrize("name", GROUPS)
def test_the_order_as_it_is_changes_nothing(name):
    specimen = NETWORKS[name]
    model, x = specimen.build(), specimen.inputs()
    with reorder(model, GROUPS[name]):
        inside = model(x)
    assert torch.equal(inside, model(x))


def test_statistics_of_batch_norm_move_with_their_block():
    specimen = NETWORKS["post-activation"]
    model = specimen.build().train()
    twin = permuted(model, ["5", "4"])
    with reorder(model, ["5", "4"]):
        model(specimen.inputs())
    twin(specimen.inputs())
    assert torch.equal(model[4].bn1.running_mean, twin[5].bn1.running_mean)
    assert torch.equal(model[5].bn1.running_mean, twin[4].bn1.running_mean)


def test_orders_compose():
    specimen = NETWORKS["highway"]
    model, x = specimen.build(), specimen.inputs()
    first, second = ["3", "4", "5", "2"], ["2", "3", "5", "4"]
    expected = permuted(permuted(model, first), second)(x)
    with reorder(model, first), reorder(model, second):
        assert torch.equal(model(x), expected)
    # The two in the other order are another network, so the test can tell them apart.
    assert not torch.equal(permuted(permuted(model, second), first)(x), expected)


def test_a_lesion_closes_the_position():
    specimen = NETWORKS["pre-norm transformer"]
    model, x, order = specimen.build(), specimen.inputs(), ["2", "0", "1"]
    twin = permuted(model, order)
    for junction, same in zip(junctions(model, x), junctions(twin, x), strict=True):
        with lesion(twin, same):
            expected = twin(x)
        with reorder(model, order), lesion(model, junction):
            assert torch.equal(model(x), expected)
        with lesion(model, junction), reorder(model, order):
            assert torch.equal(model(x), expected)


def test_names_and_numbers_of_junctions_stay_with_the_position():
    specimen = NETWORKS["pre-norm transformer"]
    model, x = specimen.build(), specimen.inputs()
    before = [(j.name, j.number, j.branches, j.skips) for j in junctions(model, x)]
    with reorder(model, ["2", "1", "0"]):
        assert [(j.name, j.number, j.branches, j.skips) for j in junctions(model, x)] == before
    with repeat(model, ["0", "1", "2"]):
        assert [(j.name, j.number, j.branches, j.skips) for j in junctions(model, x)] == before


def test_hooks_stay_with_the_position():
    specimen = NETWORKS["highway"]
    model, x = specimen.build(), specimen.inputs()
    fired = []
    for name in GROUPS["highway"]:
        model[int(name)].register_forward_hook(lambda m, a, out, name=name: fired.append((name, out)))
    order = rotated(GROUPS["highway"])
    with reorder(model, order):
        model(x)
    twin = permuted(model, order)
    expected = twin[:3](x)
    assert [name for name, _ in fired[:4]] == GROUPS["highway"]
    assert torch.equal(fired[0][1], expected)


@pytest.mark.parametrize("source", [None, "2"])
@pytest.mark.parametrize("name", ["multi-residual", "pre-norm transformer"])
def test_repeating_is_one_block_many_times(name, source):
    specimen = NETWORKS[name]
    model, x, names = specimen.build(), specimen.inputs(), GROUPS[name]
    block = model[int(source or names[1])]
    expected = by_hand(model, names, lambda blocks, h: block(block(block(h))))(x)
    with repeat(model, names, source):
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize("loops", [1, 3])
@pytest.mark.parametrize("name", ["multi-residual", "post-activation", "pre-norm transformer"])
def test_parallel_is_the_mean_over_blocks_of_one_input(name, loops):
    specimen = NETWORKS[name]
    model, names = specimen.build(), GROUPS[name]

    def side_by_side(blocks, h):
        for _ in range(loops):
            h = sum(block(h) for block in blocks) / len(blocks)
        return h

    x, twin = specimen.inputs().requires_grad_(), specimen.inputs().requires_grad_()
    expected = by_hand(model, names, side_by_side)(twin)
    with parallel(model, names, loops):
        output = model(x)
    torch.testing.assert_close(output, expected, rtol=1e-13, atol=1e-13)
    gradients = [
        torch.autograd.grad(o.square().sum(), [i, *model.parameters()])
        for o, i in ((output, x), (expected, twin))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)


def test_side_by_side_additions_keep_their_numbers():
    """So a junction of the network as it is can be lesioned: here all of them, which leaves the identity."""
    specimen = NETWORKS["multi-residual"]
    model, x, names = specimen.build(), specimen.inputs(), GROUPS["multi-residual"]
    found = list(junctions(model, x))
    with additions(model) as counter:
        model(x)
        before = counter.count
        with parallel(model, names):
            model(x)
        assert counter.count == before
    h = model[1](model[0](x))
    none, last = model[5](h), model[5]((h + h + model[4](h)) / 3)
    for closed, expected in ((found, none), (found[:2], last)):
        with parallel(model, names), lesion(model, closed):
            torch.testing.assert_close(model(x), expected, rtol=1e-14, atol=1e-14)


def test_gates_nest_in_one_another():
    specimen = NETWORKS["highway"]
    model, x = specimen.build(), specimen.inputs()
    two, three, four, five = (model[i] for i in range(2, 6))
    head, stem = model[6], model[:2]
    # Positions 2..5 run 5 4 3 2; the second and third of them side by side.
    h = five(stem(x))
    expected = head(two((four(h) + three(h)) / 2))
    with reorder(model, ["5", "4", "3", "2"]), parallel(model, ["3", "4"]):
        torch.testing.assert_close(model(x), expected, rtol=1e-14, atol=1e-14)
    # What runs at the last position of a reversed order is the first block.
    expected = head(two(three(two(two(stem(x))))))
    with reorder(model, ["5", "4", "3", "2"]), repeat(model, ["2", "3"], source="5"):
        assert torch.equal(model(x), expected)


@pytest.fixture
def tuples():
    return tuple_stack()


def test_blocks_with_keywords_and_tuples(tuples):
    model, names, x = tuples
    a, b, c, d = (layer.branch for layer in model.layers)

    def run(*branches):
        h, extras = x, []
        for branch in branches:
            extras.append(branch(h).mean())
            h = h + 0.5 * branch(h)
        return h, torch.stack(extras)

    with reorder(model, [names[i] for i in (2, 0, 3, 1)]):
        torch.testing.assert_close(model(x), run(c, a, d, b), rtol=1e-14, atol=1e-14)
    with repeat(model, names):
        torch.testing.assert_close(model(x), run(c, c, c, c), rtol=1e-14, atol=1e-14)
    with parallel(model, names):
        branches = [branch(x) for branch in (a, b, c, d)]
        expected = x + 0.5 * sum(branches) / 4, torch.stack([out.mean() for out in branches])
        torch.testing.assert_close(model(x), expected, rtol=1e-13, atol=1e-13)
    with skipped(model, names[1:3]):
        torch.testing.assert_close(model(x)[0], run(a, d)[0], rtol=1e-14, atol=1e-14)


def test_skipping_is_leaving_out():
    specimen = NETWORKS["post-activation"]
    model, x = specimen.build(), specimen.inputs()
    with skipped(model, ["4", "5"]):
        assert torch.equal(model(x), by_hand(model, ["4", "5"], lambda blocks, h: h)(x))
