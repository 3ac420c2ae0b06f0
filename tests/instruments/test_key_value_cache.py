"""A block that runs several times would write to its place in a cache several times, and is refused that."""

import pytest
import torch
from networks import mlp
from torch import nn

from gradscope.instruments.gates.rewiring import parallel, reorder, repeat


class Cache:
    """As in transformers: layer i appends to place i, and reads all of it."""

    def __init__(self):
        self.kept = {}

    def get_seq_length(self):
        return len(self.kept)

    def update(self, keys, place):
        self.kept[place] = torch.cat([self.kept[place], keys], dim=1) if place in self.kept else keys
        return self.kept[place]


class Layer(nn.Module):
    def __init__(self, place):
        super().__init__()
        self.place, self.branch = place, mlp(4, 3, 4)

    def forward(self, hidden, layer_past=None, use_cache=False, **keywords):
        keys = self.branch(hidden)
        if layer_past is not None:
            keys = layer_past.update(keys, self.place)
        return hidden + keys


class Model(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by, self.layers = by, nn.ModuleList(Layer(i) for i in range(3))

    def forward(self, hidden, use_cache=True):
        cache = Cache() if use_cache else None
        for layer in self.layers:
            if self.by == "position":
                hidden = layer(hidden, cache)
            else:
                hidden = layer(hidden, layer_past=cache, use_cache=use_cache)
        return hidden


NAMES = ["layers.0", "layers.1", "layers.2"]
TWICE = [
    ("layers.1", lambda model: repeat(model, NAMES)),
    ("layers.2", lambda model: repeat(model, NAMES[:1], source="layers.2")),
    ("layers.0", lambda model: parallel(model, NAMES, loops=2)),
]


@pytest.mark.parametrize("by", ["position", "keyword"])
@pytest.mark.parametrize(("block", "gate"), TWICE)
def test_a_cache_is_refused_where_a_block_runs_twice(by, block, gate):
    model, x = Model(by).double(), torch.ones(2, 5, 4, dtype=torch.float64)
    told = rf"^{block} runs several times .* cache: call the model with use_cache=False \(model\.config\.use_cache = F"
    with gate(model):
        with pytest.raises(RuntimeError, match=told):
            model(x)
        assert model(x, use_cache=False).shape == x.shape


@pytest.mark.parametrize("by", ["position", "keyword"])
@pytest.mark.parametrize(
    "gate",
    [
        lambda model: reorder(model, NAMES[::-1]),
        lambda model: parallel(model, NAMES),
        lambda model: repeat(model, NAMES[1:2]),
    ],
)
def test_a_cache_is_let_through_where_every_block_runs_once(by, gate):
    model, x = Model(by).double(), torch.ones(2, 5, 4, dtype=torch.float64)
    with gate(model):
        assert torch.equal(model(x), model(x, use_cache=False))


def test_what_fails_while_a_cache_is_filled_names_the_remedy():
    model, x = Model("keyword").double(), torch.ones(2, 5, 4, dtype=torch.float64)
    model.layers[2].branch = mlp(3, 3, 4).double()
    with (
        reorder(model, NAMES[::-1]),
        pytest.raises(RuntimeError, match=r"layers\.2 was .* of layers\.0.*use_cache=False"),
    ):
        model(x)
