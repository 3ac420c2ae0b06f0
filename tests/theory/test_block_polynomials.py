"""Polynomials of blocks against all routes of an explicit graph, walked one by one."""

import numpy as np
import pytest

from gradscope.theory import (
    BLOCKS,
    bigraded_block_polynomial,
    block_names,
    block_polynomial,
    encoder_path_counts,
    graded_path_counts,
    path_counts,
)


def routes(edges, start, end):
    """Lengths of all routes of a graph of (from, to, functions crossed), depth first."""
    if start == end:
        return [0]
    return [crossed + rest for here, to, crossed in edges if here == start for rest in routes(edges, to, end)]


def counted(edges, start=0, end="end"):
    lengths = routes(edges, start, end)
    return [lengths.count(k) for k in range(max(lengths) + 1)]


def chain(*branches):
    """Sums one after the other; the i-th adds branches[i] functions to its skip."""
    names = [*range(len(branches)), "end"]
    edges = []
    for i, number in enumerate(branches):
        edges += [(names[i], names[i + 1], 0)] + [(names[i], names[i + 1], 1)] * number
    return edges


def dense(layers):
    """Each layer reads all features made so far; what leaves the block is all of them."""
    edges = [(j, i, 1) for i in range(1, layers + 1) for j in range(i)]
    return edges + [(i, "end", 0) for i in range(layers + 1)]


def residual_of_residual(groups, blocks):
    edges, places = [(0, "end", 0)], groups * blocks
    name = [*range(places), "end"]
    for place in range(places):
        edges += [(name[place], name[place + 1], 0), (name[place], name[place + 1], 1)]
    return edges + [(name[g * blocks], name[(g + 1) * blocks], 0) for g in range(groups)]


def fractal(columns, start=0, end="end", name="m"):
    edges = [(start, end, 1)]
    if columns > 1:
        edges += fractal(columns - 1, start, name, name + "l") + fractal(columns - 1, name, end, name + "r")
    return edges


def u_net(levels):
    down = [(("in", d - 1) if d > 1 else 0, ("in", d), 0) for d in range(1, levels + 1)]
    bottom = [(("in", levels), ("out", levels), 0)]
    up = [(("out", d), ("out", d - 1) if d > 1 else "end", 1) for d in range(1, levels + 1)]
    across = [(("in", d), ("out", d), 0) for d in range(1, levels)]
    return down + bottom + up + [*across, (0, "end", 0)]


ONE_BRANCH = [
    "pre_activation",
    "post_activation",
    "projection",
    "scaled",
    "wide",
    "squeeze_excitation",
    "highway",
    "coupled_gate",
    "ode_step",
    "transformer_post_norm",
    "resnext",
    "stochastic_depth",
]
CASES = [
    ("plain", {}, [(0, "end", 1)]),
    *[(name, {}, chain(1)) for name in ONE_BRANCH],
    ("stochastic_depth", {"kept": 0}, [(0, "end", 0)]),
    ("multi_residual", {"branches": 3}, chain(3)),
    ("resnext", {"cardinality": 32}, chain(32)),
    ("dense", {"layers": 1}, dense(1)),
    ("dense", {"layers": 5}, dense(5)),
    ("transformer_sequential", {}, chain(1, 1)),
    ("transformer_sequential", {"heads": 4}, chain(4, 1)),
    ("transformer_parallel", {}, chain(2)),
    ("transformer_parallel", {"heads": 4}, chain(5)),
    ("transformer_decoder", {"heads": 2}, chain(2, 2, 1)),
    ("weight_shared", {"steps": 4}, chain(1, 1, 1, 1)),
    ("residual_of_residual", {"groups": 1, "blocks": 1}, residual_of_residual(1, 1)),
    ("residual_of_residual", {"groups": 3, "blocks": 2}, residual_of_residual(3, 2)),
    *[("fractal", {"columns": c}, fractal(c)) for c in (1, 2, 3, 4)],
    *[("u_net", {"levels": d}, u_net(d)) for d in (1, 2, 4)],
]


@pytest.mark.parametrize(
    ("name", "sizes", "edges"), CASES, ids=lambda x: str(x) if not isinstance(x, list) else ""
)
def test_coefficients_count_the_routes_of_the_graph(name, sizes, edges):
    expected = counted(edges)
    given = block_polynomial(name, **sizes)
    assert given[: len(expected)] == expected and not any(given[len(expected) :])


def test_every_block_of_the_table_is_walked_and_names_its_source():
    assert {name for name, _, _ in CASES} == set(block_names()) == set(BLOCKS)
    assert all(block.equation and block.polynomial and block.source for block in BLOCKS.values())


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("name", ["transformer_sequential", "transformer_parallel"])
def test_attention_and_mlp_together_are_the_length(name, heads):
    graded = graded_path_counts([bigraded_block_polynomial(name, heads=heads)] * 4)
    assert graded.shape == (5, 5)
    lengths = [sum(graded[i, k - i] for i in range(5) if 0 <= k - i < 5) for k in range(9)]
    plain = path_counts([block_polynomial(name, heads=heads)] * 4)
    assert lengths == plain + [0] * (9 - len(plain))


def test_graded_counts_are_those_of_enumerated_routes():
    layer = [(0, 0)] + [(1, 0)] * 2 + [(0, 1)]
    found = {}
    for one in layer:
        for other in layer:
            key = (one[0] + other[0], one[1] + other[1])
            found[key] = found.get(key, 0) + 1
    graded = graded_path_counts([bigraded_block_polynomial("transformer_parallel", heads=2)] * 2)
    assert {tuple(i): graded[tuple(i)] for i in np.argwhere(graded)} == found


def test_graded_counts_stay_exact_beyond_floating_point():
    graded = graded_path_counts([np.array([[1, 1], [3, 3]])] * 60)
    assert graded.sum() == 8**60


@pytest.mark.parametrize(("encoder", "decoder"), [(1, 1), (2, 3)])
def test_paths_into_the_encoder_are_those_of_the_graph(encoder, decoder):
    edges, place = [], 0
    for _ in range(2 * encoder):
        edges += [(place, place + 1, 0), (place, place + 1, 1)]
        place += 1
    memory, place = place, 1000
    for _ in range(decoder):
        edges += [(place, place + 1, 0), (place, place + 1, 1)]
        edges += [(place + 1, place + 2, 0), (place + 1, place + 2, 1), (memory, place + 2, 1)]
        edges += [(place + 2, place + 3, 0), (place + 2, place + 3, 1)]
        place += 3
    assert encoder_path_counts(encoder, decoder) == counted(edges, 0, place)
    assert path_counts([block_polynomial("transformer_decoder")] * decoder) == counted(edges, 1000, place)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: block_polynomial("resnet"), "No block is called 'resnet'. There are: coupled_gate, dense"),
        (lambda: block_polynomial("dense"), "'dense' takes layers; got"),
        (lambda: block_polynomial("plain", layers=2), "'plain' takes no size; got"),
        (lambda: block_polynomial("dense", layers=0), "layers is a whole number of at least 1"),
        (lambda: block_polynomial("stochastic_depth", kept=2), "kept is 1 for a block that is run"),
        (lambda: bigraded_block_polynomial("dense"), "'dense' has no attention and MLP"),
        (lambda: graded_path_counts([]), "at least one block"),
        (
            lambda: graded_path_counts([[[1, 1]], [1, 1]]),
            "Block 1 needs an array of whole numbers >= 0 with 2",
        ),
        (lambda: graded_path_counts([[[1, 0.5]]]), "Block 0 needs an array of whole numbers"),
        (lambda: encoder_path_counts(0, 1), "encoder_layers is a whole number"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
