"""Dominators and ways of autograd graphs against brute force over all ways."""

import pytest
import torch
from networks import NETWORKS

from gradscope.instruments.graph import Graph, gradient_node


def graph_of(name: str) -> tuple[Graph, list[list]]:
    """The graph of a network, and all ways from its source to its output."""
    specimen = NETWORKS[name]
    x = specimen.inputs().requires_grad_()
    output = specimen.build()[:3](x) if name != "dense" else specimen.build()(x)
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


def test_constants_and_parameters_are_not_live():
    x, weight = torch.ones(2, requires_grad=True), torch.nn.Parameter(torch.ones(2))
    hidden = weight * 2
    output = x * hidden
    graph = Graph([output], [gradient_node(x)])
    assert [node.name() for node in graph.order] == ["torch::autograd::AccumulateGrad", "MulBackward0"]
