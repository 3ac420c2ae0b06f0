"""Where branches are crossed, against networks in which branches are detached instead, one by one and together."""

from contextlib import ExitStack
from itertools import permutations, product

import pytest
import torch
from crossing_nets import NETS, Gated, Switch, build
from networks import NETWORKS, EncoderDecoder, stack
from torch import Tensor

from gradscope.instruments.junctions import Trace, junctions, trace


def gated(found: Trace, gates: tuple[int, ...], targets: tuple[Tensor, ...]) -> list[Tensor]:
    """Gradients with what crosses each branch multiplied by its gate, by a hook on each edge."""
    crossings = [edges for j in found.junctions if j.level == 0 for edges in found.crossings[j.index]]
    with ExitStack() as hooks:
        for factor, edges in zip(gates, crossings, strict=True):
            for node, slot in edges:

                def hook(inputs, outputs, factor=factor, slot=slot):
                    return tuple(
                        g * factor if place == slot and g is not None else g for place, g in enumerate(inputs)
                    )

                hooks.callback(node.register_hook(hook).remove)
        return torch.autograd.grad(found.output, targets, retain_graph=True, materialize_grads=True)


@pytest.mark.parametrize("name", NETS)
def test_a_gate_on_a_crossing_is_a_branch_without_gradient(name):
    model = build(name)
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    switches = [module for module in model.modules() if isinstance(module, Switch)]
    loss = lambda given: model(given).square().sum()  # noqa: E731
    found = trace(model, loss, x)
    weights = tuple(model.parameters())
    assert all(junction.counted for junction in found.junctions)
    for pattern in product([0, 1], repeat=len(switches)):
        for switch, on in zip(switches, pattern, strict=True):
            switch.on = bool(on)
        leaf = x.clone().requires_grad_()
        expected = torch.autograd.grad(loss(leaf), (leaf, *weights), materialize_grads=True)
        torch.testing.assert_close(gated(found, pattern, (found.source, *weights)), expected)


@pytest.mark.parametrize("name", ["T H + C h", "lerp to H", "addcmul of H", "uncoupled"])
def test_without_branches_a_highway_carries_the_gradient_by_its_carry_gates(name):
    model = build(name)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    kinds = [j.kind for j in junctions(model, x)]
    assert kinds == ["gated"] * 3
    start = state = model[1](model[0](x))
    gates = torch.ones_like(state)
    for block in model[2:-1]:
        transform = block.gate(state).sigmoid()
        gates = gates * (1 - transform if block.coupled else block.carry(state).sigmoid())
        state = block(state)
    last = state.detach().requires_grad_()
    (head,) = torch.autograd.grad(model[-1](last).square().sum(), last)
    (expected,) = torch.autograd.grad(start, x, head * gates)
    found = trace(model, lambda given: model(given).square().sum(), x.detach())
    torch.testing.assert_close(gated(found, (0, 0, 0), (found.source,))[0], expected)


@pytest.mark.parametrize("name", [*NETWORKS, "encoder and decoder", *NETS])
def test_no_way_through_the_graph_meets_a_branch_twice(name):
    if name == "encoder and decoder":
        model, x = (
            EncoderDecoder().double().eval(),
            (torch.randn(2, 3, 4).double(), torch.randn(2, 2, 4).double()),
        )
    elif name in NETS:
        model, x = build(name), torch.randn(3, 4, dtype=torch.float64)
    else:
        model, x = NETWORKS[name].build(), NETWORKS[name].inputs()
    found = trace(model, model, x)
    for crossings, carries, junction in zip(found.crossings, found.carries, found.junctions, strict=True):
        assert bool(crossings) is bool(carries) is junction.counted is (junction.kind != "branches")
        # Nor two branches of one junction, nor a branch and the skip.
        for one, other in permutations({edge for edges in (*crossings, carries) for edge in edges}, 2):
            assert other.node is one.node or other.node not in ancestors(one.node.next_functions[one.slot][0])


def ancestors(start) -> set:
    waiting, seen = [start], {start}
    for node in waiting:
        fresh = {operand for operand, _ in node.next_functions if operand is not None} - seen
        seen |= fresh
        waiting.extend(fresh)
    return seen


def test_a_gate_that_carries_two_operands_or_none_is_not_counted():
    class Both(Gated):
        def forward(self, x):
            return x * self.gate(x).sigmoid() + x * self.carry(x).sigmoid()

    class ReadElsewhere(Gated):
        def forward(self, x):
            gate = self.gate(x).sigmoid()
            carried = (1 - gate) * x
            return (gate * self.plain(x).tanh() + carried) * self.carry(carried)

    for block in (Both, ReadElsewhere):
        model = stack(lambda block=block: block(lambda *_: None), 1).double()
        found = trace(model, model, torch.randn(3, 4, dtype=torch.float64))
        (junction,) = found.junctions
        assert junction.kind == "gated" and not junction.counted
        assert found.crossings == ((),) and found.carries == ((),)
