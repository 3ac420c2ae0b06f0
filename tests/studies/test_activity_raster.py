"""The raster of a rectifier against the signs of its pre-activations, and its runs against counting."""

import itertools

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from torch import nn
from torch.nn import functional as F

import gradscope as gs
from gradscope import figures
from gradscope.data import line
from gradscope.nets import build
from gradscope.studies.activity_raster import activity_raster


def counted_runs(states: list[bool]) -> list[int]:
    lengths = [1]
    for before, after in itertools.pairwise(states):
        if before == after:
            lengths[-1] += 1
        else:
            lengths.append(1)
    return lengths


def test_states_are_signs_of_preactivations_and_runs_are_counted():
    network = used(build("plain_mlp", depth=3, width=7, inputs=1, normalise="batch", seed=0).double())
    grid, before = line(33, dtype=torch.float64), snapshot(network)
    frame = activity_raster(network, grid)
    assert_as_found(network, before)
    assert set(frame["site"]) == {"blocks.2.activation"} and set(frame["batch_norm"]) == {"frozen"}
    state = grid
    with torch.no_grad():
        for block in network.blocks:
            state = block.linear(state)
            state = (state - state.mean(dim=0)) / (state.var(dim=0, correction=0) + 1e-5).sqrt()
            states, state = state > 0, state.relu()
    raster = frame[frame["quantity"] == "active"].pivot(index="x", columns="neuron", values="value")
    assert torch.equal(torch.tensor(raster.to_numpy()) > 0, states)
    assert raster.index.tolist() == grid.flatten().tolist()
    lengths = [length for row in states.T.tolist() for length in counted_runs(row)]
    runs = frame[frame["quantity"] == "runs"].set_index("length")["value"]
    assert runs.to_dict() == {length: lengths.count(length) for length in sorted(set(lengths))}
    single = frame.set_index("quantity")["value"]
    assert single["mean_run_length"] == pytest.approx(sum(lengths) / len(lengths))
    assert single["constant_share"] == sum(len(counted_runs(row)) == 1 for row in states.T.tolist()) / 7


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3)

    def forward(self, x):
        return F.relu(self.second(F.relu(self.first(x)))).flatten(1)


def test_any_network_along_any_path_and_units_evenly_spread():
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = Functional()
    frame = activity_raster((model, images), units=5)
    active = frame[frame["quantity"] == "active"]
    assert active["x"].unique().tolist() == [0, 1, 2, 3, 4, 5]
    assert active["neuron"].unique().tolist() == [0, 8, 16, 23, 31]
    with torch.no_grad():
        states = (model(images) > 0)[:, [0, 8, 16, 23, 31]]
    assert active["value"].tolist() == states.T.flatten().double().tolist()
    assert (frame["call"] == 1).all() and (frame["depth"] == 2).all()
    given = activity_raster(gs.Problem(model, images[:3]), images, units=5)
    assert given.equals(frame)
    both = activity_raster(model, images, at="")
    assert set(both["call"]) == {0, 1}


def test_the_figures_draw_it_as_it_is():
    network = build("plain_mlp", depth=3, width=7, inputs=1, normalise="mean", seed=0)
    frame = gs.activity_raster(network, line(32), at="blocks.*.activation", units=6)
    titles = [axis.get_title("left") for axis in figures.raster(frame).axes]
    assert [title.replace("\n", " ") for title in titles] == [
        f"one network, blocks.{block}.activation" for block in range(3)
    ]
    (axis,) = figures.run_lengths(frame).axes
    labels = axis.get_legend_handles_labels()[1]
    assert labels == [f"blocks.{block}.activation" for block in range(3)]
    for drawn in axis.lines:
        assert sum(drawn.get_ydata()) == pytest.approx(1)
    twice = activity_raster(Functional(), torch.randn(6, 1, 8, 8), at="")
    for figure in (figures.raster, figures.run_lengths):
        with pytest.raises(ValueError, match=r"differ in \['depth', 'call'\]"):
            figure(twice)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: activity_raster(nn.Linear(1, 1), line(8)), "Linear has no rectifier"),
        (lambda: activity_raster(nn.Linear(1, 1)), "A model alone has no inputs"),
        (
            lambda: activity_raster(gs.Problem(nn.ReLU(), line(8)), batch_norm="train"),
            "batch_norm='auto' of its own",
        ),
        (lambda: activity_raster(nn.ReLU(), line(8).flip(0)), "do not ascend"),
        (lambda: activity_raster(nn.ReLU(), line(8)[:1]), "two inputs or more"),
        (lambda: activity_raster(nn.ReLU(), line(8), units=0), "units is a whole number"),
        (
            lambda: activity_raster(nn.Sequential(nn.Linear(1, 2), nn.ReLU()), line(8), at="0"),
            "in 0 itself; they run in '1'",
        ),
        (
            lambda: activity_raster(nn.Sequential(nn.Flatten(0), nn.ReLU()), torch.ones(3, 2)),
            "has 6 rows for 3 inputs",
        ),
    ],
)
def test_mistakes_are_told(call, match):
    with pytest.raises(ValueError, match=match):
        call()
