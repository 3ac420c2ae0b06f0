"""Routes counted on the graph, against all of them written down one by one."""

from collections import Counter

import pytest
import torch
from crossing_nets import NETS, build
from networks import NETWORKS, EncoderDecoder, Nested, Residual, mlp, stack
from torch import Tensor, nn

from gradscope.instruments.junctions import junctions, trace
from gradscope.instruments.junctions.routes import Routes, Step


class Ladder(nn.Module):
    """Dense blocks with a transition between them, as in DenseNet; the second reads two concatenations."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([mlp(width, 2) for width in (4, 6, 3, 5)])
        self.transition, self.out = mlp(8, 3), nn.Linear(15, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = [x, self.layers[0](x).tanh()]
        first.append(self.layers[1](torch.cat(first, 1)).tanh())
        moved = self.transition(torch.cat(first, 1)).tanh()
        second = [moved, self.layers[2](moved).tanh()]
        second.append(self.layers[3](torch.cat(second, 1)).tanh())
        return self.out(torch.cat([torch.cat(first, 1), torch.cat(second, 1)], 1))


class CrossStage(nn.Module):
    """Half of the units pass two residual blocks; each block's result is kept, as in the C2f of detectors."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.out = nn.ModuleList([Residual(mlp(2, 3, 2)) for _ in range(2)]), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        kept = [*x.chunk(2, dim=1)]
        for block in self.blocks:
            kept.append(block(kept[-1]))
        return self.out(torch.cat(kept, dim=1))


class ReadEverywhere(nn.Module):
    """A head that reads the stream after every block."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.heads = (
            nn.ModuleList([Residual(mlp(4, 3, 4)) for _ in range(4)]),
            nn.ModuleList([nn.Linear(4, 3) for _ in range(4)]),
        )

    def forward(self, x: Tensor) -> Tensor:
        total = 0.0
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = block(x)
            total = total + head(x).tanh()
        return total


class Regular(nn.Module):
    """A long skip around two long skips around two blocks each."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = nn.Sequential(Nested(), Nested())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.groups(x)


OWN = {
    "ladder": Ladder,
    "cross-stage": lambda: stack(CrossStage, 2),
    "read everywhere": ReadEverywhere,
    "regular": lambda: stack(Regular, 1),
}
ALL = [*NETWORKS, "encoder and decoder", *NETS, *OWN]


def traced(name):
    if name == "encoder and decoder":
        model = EncoderDecoder().double().eval()
        pair = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 2, 4, dtype=torch.float64)
        return trace(model, model, pair)
    if name in NETWORKS:
        model, x = NETWORKS[name].build(), NETWORKS[name].inputs()
    else:
        model, x = (
            (OWN[name]().double() if name in OWN else build(name)),
            torch.randn(3, 4, dtype=torch.float64),
        )
    return trace(model, model, x)


def written_down(found, counted) -> set[tuple]:
    """Every route as the junctions it meets and the branches it crosses, from the output to the source."""
    crossings = [(j, edges) for j in counted for edges in found.crossings[j.index]]
    number = {edge: place for place, (_, edges) in enumerate(crossings) for edge in edges}
    met = {found.found[j.index].node for j in counted}
    met |= {edge.node for j, edges in crossings if j.kind == "concat" for edge in edges}
    known = {torch.autograd.graph.get_gradient_edge(found.source).node: {()}}

    def below(node) -> set[tuple]:
        if node not in known:
            here = ((id(node), None),) if node in met else ()
            known[node] = {
                (*here, *(((None, number[node, slot]),) if (node, slot) in number else ()), *rest)
                for slot, (operand, _) in enumerate(node.next_functions)
                if operand is not None
                for rest in below(operand)
            }
        return known[node]

    return below(found.output.grad_fn)


def crossed(route: tuple) -> frozenset:
    return frozenset(branch for node, branch in route if node is None)


@pytest.mark.parametrize("chosen", ["outermost", "all", "innermost"])
@pytest.mark.parametrize("name", ALL)
def test_counts_are_those_of_all_routes(name, chosen):
    found = traced(name)
    deepest = max((j.level for j in found.junctions), default=0)
    wanted = {"all": set(range(deepest + 1)), "innermost": {deepest}}.get(chosen, set())
    counted = [
        j
        for j in found.junctions
        if (j.outermost if chosen == "outermost" else j.level in wanted and j.counted)
    ]
    routes = found.routes(None if chosen == "outermost" else counted)
    every = written_down(found, counted)
    lengths = Counter(len([1 for node, _ in route if node is None]) for route in every)
    assert routes.counts() == [lengths[k] for k in range(max(lengths) + 1)]
    assert routes.total() == len(every)
    # No route crosses a branch twice, and whether crossings tell routes apart is decided rightly in all of these.
    assert all(len(crossed(route)) == len([1 for node, _ in route if node is None]) for route in every)
    assert routes.one_to_one() is (len({crossed(route) for route in every}) == len(every))


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        # Two layers each, (1 + t)^2; the first block is read directly as well as by the second.
        ("ladder", [2, 6, 7, 4, 1]),
        # Two blocks 1 + (1 + t) + (1 + t)^2, where both halves that pass make one route.
        ("cross-stage", [9, 18, 15, 6, 1]),
        # Written as two branches beside each other, of which one is added and one kept: 2 + 2 t.
        ("dual path", [4, 8, 4]),
    ],
)
def test_counts_known_by_hand(name, counts):
    assert traced(name).routes().counts() == counts


def test_two_routes_that_cross_the_same_are_not_told_apart():
    """a -> b by the branch 0 or by nothing, then c from a or b: both the routes a, c and a, b, c may cross nothing."""
    steps = {"b": (Step(0, ("a",)), Step(None, ("a",))), "c": (Step(1, ("a", "b")),)}
    routes = Routes(("b", "c"), steps, ("c",), frozenset("a"))
    assert routes.counts() == [0, 2, 1] and not routes.one_to_one()
    # With a branch of its own before b, what comes from there has crossed it.
    steps["b"] = (Step(0, ("a",)), Step(2, ("a",)))
    assert Routes(("b", "c"), steps, ("c",), frozenset("a")).one_to_one()


def test_a_search_that_would_take_too_long_ends_in_doubt(monkeypatch):
    monkeypatch.setattr("gradscope.instruments.junctions.routes._LONGEST_SEARCH", 3)
    assert traced("encoder and decoder").routes().one_to_one() is False


def test_there_are_no_routes_to_an_input_that_is_not_read():
    routes = Routes(("b",), {"b": (Step(0, ("a",)),)}, ("b",), frozenset("x"))
    assert routes.counts() == [0] and routes.total() == 0


def test_listing_tells_which_junctions_count():
    specimen = NETWORKS["U-Net"]
    assert all(j.counted for j in junctions(specimen.build(), specimen.inputs()))
