"""Dominators and ways of autograd graphs against brute force over all ways."""

import random

import pytest
import torch
from networks import NETWORKS

from gradscope.instruments.junctions.calls import additions
from gradscope.instruments.junctions.concatenations import concatenations
from gradscope.instruments.junctions.dominators import Dominators
from gradscope.instruments.junctions.finder import Finder
from gradscope.instruments.junctions.graph import Graph, gradient_node
from gradscope.instruments.junctions.levels import levels

WHOLE = ("dense", "dense list", "U-Net")


def graph_of(name: str) -> tuple[Graph, list[list]]:
    """The graph of a network, and all ways from its source to its output."""
    specimen = NETWORKS[name]
    x = specimen.inputs().requires_grad_()
    output = specimen.build()(x) if name in WHOLE else specimen.build()[:3](x)
    source = gradient_node(x)
    graph = Graph([output], [source])

    def ways(node):
        if node is source:
            return [[source]]
        return [[*way, node] for o, _ in node.next_functions if o in graph.position for way in ways(o)]

    return graph, ways(gradient_node(output))


@pytest.mark.parametrize("name", ["plain", "multi-residual", "highway", "long skip", "padding", "dense"])
def test_dominators_are_what_all_ways_share(name):
    graph, ways = graph_of(name)
    assert {node for way in ways for node in way} == set(graph.order)
    for node in graph.order:
        upto = [way[: way.index(node)] for way in ways if node in way]
        shared = set.intersection(*map(set, upto))
        nearest = max(shared, key=graph.position.__getitem__) if shared else None
        assert graph.dominator[node] is nearest
    output = graph.order[-1]
    assert graph.on_every_way([output]) == set.intersection(*map(set, ways))


@pytest.mark.parametrize("name", ["multi-residual", "highway", "padding"])
def test_between_is_what_lies_on_some_way(name):
    graph, ways = graph_of(name)
    for fork in graph.order:
        for node in graph.order:
            parts = [w[w.index(fork) + 1 : w.index(node) + 1] for w in ways if fork in w and node in w]
            expected = set().union(*parts) if any(parts) else set() if fork is node else None
            assert graph.between(fork, node) == expected
            assert graph.feeds(fork, node) == (expected is not None)


NAMES = ["multi-residual", "highway", "padding", "dense list", "U-Net", "shuffle"]


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_bends_are_looked_for_on_all_ways(name):
    """The counts along dominators against a look at every node in between."""
    graph, _ = graph_of(name)
    for fork in [None, *graph.order]:
        for node in graph.order:
            inside = graph.between(fork, node)
            if inside is None:
                continue
            weighted = any("Addmm" in n.name() for n in inside)
            bent = any("Tanh" in n.name() or "Sigmoid" in n.name() for n in inside)
            products = any(n.name() == "MulBackward0" and len(graph.operands(n)) == 2 for n in inside)
            assert graph.has_weights(fork, node) == weighted
            assert graph.is_linear(fork, node) == (not bent and not products)


def test_dominators_of_a_long_chain_and_of_many_joins():
    """Against the set of ancestors that all operands share, on a graph of numbers."""
    generator = random.Random(0)
    operands = {0: []} | {
        n: generator.sample(range(max(0, n - 6), n), min(n, 1 + n % 3)) for n in range(1, 60)
    }
    tree = Dominators(operands, lambda node: operands[node])
    above: dict[int, list[int]] = {}
    for node, given in operands.items():
        above[node] = [*sorted(set.intersection(*(set(above[o]) for o in given)) if given else []), node]
    for one in operands:
        assert tree.parent[one] == (above[one][-2] if len(above[one]) > 1 else None)
        for other in operands:
            shared = [n for n in above[one] if n in above[other]]
            assert tree.common(one, other) == shared[-1]
            assert tree.dominates(one, other) == (one in above[other])
            if one in above[other][:-1]:
                assert tree.towards(one, other) == above[other][above[other].index(one) + 1]


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "tokens"])
def test_levels_are_the_numbers_of_branches_around(name):
    """By the set of nodes between the fork and the end of each branch."""
    specimen = NETWORKS[name]
    model, x = specimen.build(), specimen.inputs().requires_grad_()
    calls = []
    with additions(model, report=calls.append):
        output = model(x)
    graph = Graph([output], [gradient_node(x)])
    sums = Finder(graph, {call.node: call for call in calls}).found()
    found = [*sums, *concatenations(graph, sums)]
    regions = [set().union(*(graph.between(j.fork, end) for end in j.ends)) for j in found]
    expected = [
        sum(
            inner.node in region
            for outer, region in zip(found, regions, strict=True)
            if outer is not inner and (inner.kind == "concat" or outer.kind != "concat")
        )
        for inner in found
    ]
    assert levels(graph, found, {}) == expected


def test_sums_of_thousands_of_terms_and_blocks_are_gone_through_once():
    """No recursion, and as many questions to the graph as there are terms."""
    x = torch.randn(2, requires_grad=True)
    total = x
    for _ in range(3000):
        total = total + x.tanh()
    graph, asked = Graph([total], [gradient_node(x)]), []
    feeds = graph.feeds
    graph.feeds = lambda one, other: asked.append(one) or feeds(one, other)
    assert Finder(graph, {}).found() == []
    assert len(asked) < 5 * 3000


def test_constants_and_parameters_are_not_live():
    x, weight = torch.ones(2, requires_grad=True), torch.nn.Parameter(torch.ones(2))
    hidden = weight * 2
    output = x * hidden
    graph = Graph([output], [gradient_node(x)])
    assert [node.name() for node in graph.order] == ["torch::autograd::AccumulateGrad", "MulBackward0"]
