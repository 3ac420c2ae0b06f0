"""Inputs of every shape users pass, and graphs that cannot be seen: found by running networks nobody here wrote."""

from collections import UserDict, namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gradscope.gradients.paths import path_gradients
from gradscope.instruments.gates import lesion
from gradscope.instruments.junctions import junctions, trace
from gradscope.problem import Problem
from gradscope.studies.gradient_correlation import gradient_correlation


class Words(nn.Module):
    """Embeds, writes positions and mask into the embedding in place, adds one residual branch."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(9, 4), nn.Embedding(5, 4)
        self.branch, self.head = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask=None):
        h = self.words(input_ids)
        h += self.places(torch.arange(input_ids.shape[1])[None])
        if attention_mask is not None:
            h *= attention_mask[..., None]
        return self.head(h + self.branch(h)).mean(dim=1)


IDS, TARGETS = torch.arange(15).reshape(3, 5) % 9, torch.tensor([0, 1, 2])


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    "inputs",
    [
        IDS,
        {"input_ids": IDS},
        UserDict({"input_ids": IDS}),
        {"input_ids": IDS, "attention_mask": torch.ones(3, 5)},
    ],
    ids=["tensor", "dict", "user dict", "float mask"],
)
def test_integers_are_read_through_their_embedding(inputs, frozen):
    problem = Problem(Words().requires_grad_(not frozen), (inputs, TARGETS))
    assert path_gradients(problem).shape == (2, 3, 5, 4)
    frame = gradient_correlation(problem)
    # The positions' embedding has one row for all examples, and no way leads to it from the words.
    assert set(frame["site"]) == {"input", "words", "branch.0", "head"} and (frame["status"] == "ok").all()


def test_the_network_may_change_its_input_in_place():
    class Shifted(Words):
        def forward(self, x):
            x -= 1.0
            return self.head(x + self.branch(x))

    x = torch.randn(3, 4)
    before = x.clone()
    assert path_gradients((Shifted(), (x, TARGETS))).shape == (2, 3, 4)
    assert torch.equal(x, before)


def test_named_tuples_and_inference_tensors():
    pair = namedtuple("pair", "x scale")

    class Scaled(Words):
        def forward(self, given):
            return given.x + self.branch(given.x) * given.scale

    with torch.inference_mode():
        x = torch.randn(3, 4)
    assert len(junctions(Scaled(), pair(x, 2.0))) == 1


def test_a_sum_that_is_rectified_in_place_keeps_its_operands():
    class Rectified(Words):
        def forward(self, x):
            out = self.branch(x)
            out += x
            return functional.relu(out, inplace=True)

    model, x = Rectified(), torch.randn(3, 4)
    found = junctions(model, x)
    assert [j.branches for j in found] == [((0, 0),)]
    with lesion(model, found[0]):
        assert torch.equal(model(x), x.relu())


class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Linear(4, 4)

    def forward(self, x):
        return checkpoint(lambda h: h + self.block(h).tanh(), x, use_reentrant=True)


def test_reentrant_checkpoints_are_refused():
    with pytest.raises(ValueError, match="use_reentrant=False"):
        junctions(Hidden(), torch.randn(2, 4))


@pytest.mark.filterwarnings("default")  # the compiler reads .grad of what it is given
def test_compiled_graphs_are_refused():
    model = torch.compile(nn.Sequential(nn.Linear(4, 4)), backend="aot_eager")
    with pytest.raises(ValueError, match="force_eager"):
        junctions(model, torch.randn(2, 4))


def test_sites_without_a_row_for_each_example_are_skipped():
    class Flattened(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.token(x.flatten(end_dim=1)).tanh().unflatten(0, x.shape[:2]))

    for batch_norm in ("frozen", "own"):
        model = nn.Sequential(Flattened(), nn.BatchNorm1d(5))
        frame = gradient_correlation(Problem(model, torch.randn(3, 5, 4), batch_norm=batch_norm))
        skipped = frame[frame["status"] != "ok"]
        assert set(skipped["site"]) == {"0.token"} and set(skipped["status"]) == {"skipped"}
        assert skipped["value"].isna().all() and set(frame["site"]) == {"input", "0.token", "0.head", "1"}


class Streams(nn.Module):
    """A second input may be embedded words, a stream of numbers, a mask, or a scale."""

    def __init__(self):
        super().__init__()
        self.words, self.first, self.second = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, other=None, mask=None, scale=None):
        x = x if scale is None else x * scale
        x = x if mask is None else x + mask
        x = x + self.first(x).tanh()
        if other is None:
            return x
        other = other if other.is_floating_point() else self.words(other)
        other = other + self.second(other).tanh()
        return other + self.first(other + x)


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({}, 1),
        ({"other": torch.randn(3, 4)}, 3),
        ({"other": torch.arange(3)}, 3),
        ({"mask": torch.randn(3, 4)}, 1),
        ({"scale": torch.randn(3, 4)}, 1),
        ({"other": torch.randn(3, 4), "scale": torch.randn(3, 4), "mask": torch.randn(3, 4)}, 3),
    ],
    ids=["one", "numbers", "words", "mask", "scale", "all"],
)
def test_a_second_input_counts_if_weights_meet_it_first(given, count):
    model, x = Streams(), torch.randn(3, 4)
    found = trace(model, lambda inputs: model(inputs[0], **inputs[1]), (x, given))
    assert [j.kind for j in found.junctions] == ["identity"] * count
    assert torch.equal(found.source, x)
    assert all(tensor.grad_fn is None and not tensor.requires_grad for tensor in given.values())
