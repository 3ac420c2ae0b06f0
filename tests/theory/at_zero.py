"""n-shortcut nets as problems for the tests of their closed forms, and their dense Hessians."""

import numpy as np
import torch
from torch import nn

import gradscope as gs
from gradscope.nets import build, initialise

SHAPES = [(3, 2, 1), (3, 5, 2), (4, 3, 3), (5, 6, 1), (4, 2, 5), (2, 2, 4)]
"""Width d, inner width h, blocks L."""


def inputs(width, examples=20, seed=0):
    return np.random.default_rng(seed).standard_normal((examples, width))


def targets(x, width=None, seed=1):
    rng = np.random.default_rng(seed)
    width = x.shape[1] if width is None else width
    return x @ rng.standard_normal((x.shape[1], width)) + 0.3 * rng.standard_normal((len(x), width))


def shortcut_net(d, h, blocks, *, n=2, scheme="zero", **options):
    """In float64, at `scheme`'s weights."""
    if n > 1:
        options["inner_width"] = h
    chosen = {key: options.pop(key) for key in ("seed", "scale") if key in options}
    net = build("linear_shortcut", seed=0, layers=n * blocks, shortcut_length=n, width=d, **options)
    return initialise(net.double(), scheme, **chosen)


def between(net, before, after):
    """after . net . before, with fixed maps, [n_out, n_in]."""
    maps = []
    for matrix in (before, after):
        layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False).double()
        layer.weight = nn.Parameter(torch.from_numpy(matrix), requires_grad=False)
        maps.append(layer)
    return nn.Sequential(maps[0], net, maps[1])


def problem(net, x, y, loss="half_squared_error"):
    return gs.Problem(net, (torch.from_numpy(x), torch.from_numpy(y)), loss)


def dense(net, x, y, loss="half_squared_error", **options):
    """The Hessian [P, P] and the gradient's largest entry."""
    asked = problem(net, x, y, loss)
    with gs.hessian(asked, check="none", **options) as operator:
        hessian = operator.dense().numpy()
    slopes = torch.autograd.grad(asked.value(*asked.first_batch()), list(asked.parameters.values()))
    return hessian, max(float(slope.abs().max()) for slope in slopes)


def spectrum(net, x, y, loss="half_squared_error"):
    return np.linalg.eigvalsh(dense(net, x, y, loss)[0])
