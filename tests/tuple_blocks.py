"""A network whose blocks are called with keywords and hand on tuples, as in transformers."""

import torch
from networks import mlp
from torch import nn


class TupleLayer(nn.Module):
    """Called as in transformers: the stream by keyword, after it what is not the stream; a tuple comes out."""

    def __init__(self, width=4):
        super().__init__()
        self.branch = mlp(width, 3, width)

    def forward(self, flag=None, hidden=None, scale=None):
        out = self.branch(hidden)
        return hidden + scale * out, out.mean()


class TupleStack(nn.Module):
    def __init__(self, layers=4):
        super().__init__()
        self.layers = nn.ModuleList([TupleLayer() for _ in range(layers)])

    def forward(self, x):
        extras = []
        for layer in self.layers:
            x, extra = layer(None, hidden=x, scale=torch.full((), 0.5, dtype=x.dtype))
            extras.append(extra)
        return x, torch.stack(extras)


def tuple_stack():
    """The network, the names of its blocks, and inputs for it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TupleStack().double()
        return model, [f"layers.{i}" for i in range(4)], torch.randn(3, 4, dtype=torch.float64)
