"""Rows of docs/limitations.md on curvature."""

import pytest
import torch
from torch import nn

import gradscope as gs
from limits.register import Y, net, row, x


@row("more than 5000 parameters")
def _():
    operator = gs.hessian((nn.Sequential(nn.Linear(4, 1000), nn.Linear(1000, 3)), (x(), Y)))
    with pytest.raises(ValueError, match="allow_large=True"):
        operator.dense()
    for definition in ("extreme_ratio", "percentile_10"):
        assert list(gs.condition_number(operator, definition)["status"]) == ["undefined"]
    assert list(gs.condition_number(operator, "kappa_lower", max_products=5)["status"]) == ["ok"]


@row("frozen parameters")
def _():
    model = net()
    model[0].requires_grad_(False)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert gs.hessian((model, (x(), Y))).shape == (trainable, trainable)
    with pytest.raises(ValueError, match="requires_grad"):
        gs.hessian((model.requires_grad_(False), (x(), Y)))


@row("`weight_norm`")
def _():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 3)).double()
    with pytest.raises(ValueError, match="weight_norm is wrong"):
        gs.hessian((model, (x(), Y)))


@row("attention")
def _():
    encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    model = nn.Sequential(encoder, nn.Flatten(), nn.Linear(12, 3))
    gs.hessian((model, (torch.randn(6, 3, 4), Y)), check="full")


@row("repeated eigenvalues")
def _():
    from gradscope.curvature import MatrixOperator

    values = torch.cat([torch.tensor([9.0, 9.0]), torch.linspace(0.0, 1.0, 98)]).double()
    operator = MatrixOperator(values.diag())
    found = gs.extreme_eigenvalues(operator, 2, ends="largest", max_products=8)["value"]
    assert found.iloc[0] == pytest.approx(9) and found.iloc[1] < 1.1
    density = gs.spectral_density(operator, probes=20, steps=30)
    trace = density.query("quantity == 'trace'")["value"].iloc[0]
    assert trace == pytest.approx(float(values.sum()), rel=1e-6)


@row("NaN in loss or gradient")
def _():
    model = net()
    with torch.no_grad():
        model[0].branch[0].weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="finite loss"):
        gs.hessian((model, (x(), Y)))
