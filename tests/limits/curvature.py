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
    data = x().double(), Y
    with pytest.raises(ValueError, match="weight_norm is wrong"):
        gs.hessian((model, data))
    gs.gauss_newton((model, data), check="full")


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
    observer = gs.CurvatureObserver((x(), Y), batch_norm="auto")
    observer(model, 0)
    assert "undefined" in set(observer.frame().query("quantity == 'lambda_max'")["status"])


@row("the smallest eigenvalue in size")
def _():
    model = nn.Sequential(nn.Linear(4, 3))
    with gs.hessian((model, (x(), Y))) as operator:
        # A number added to all logits changes no softmax: 3 x 5 weights, of which 5 directions are flat.
        sizes = torch.linalg.eigvalsh(operator.dense()).abs()
        assert int((sizes < 1e-5 * sizes.max()).sum()) >= 5
        assert gs.condition_number(operator, "extreme_ratio")["value"].item() == float("inf")
    with gs.hessian((net(), (x(), Y))) as operator:
        bounds = [
            gs.condition_number(operator, "kappa_lower", max_products=m)["value"].item() for m in (4, 8, 16)
        ]
    assert bounds == sorted(bounds) and bounds[0] < bounds[-1]


@row("the examples that curvature is measured on")
def _():
    problem = gs.Problem(net().double(), (torch.randn(64, 4).double(), torch.randint(3, (64,))))
    found = gs.minibatch_curvature(problem, sizes=[4], draws=16, ends="largest", progress=False)
    assert found.query("quantity == 'lambda_max_ratio'")["low"].item() > 1


@row("operations without a second derivative (`nn.EmbeddingBag`, `cdist`, some losses)")
def _():
    model = nn.Sequential(nn.EmbeddingBag(9, 4, mode="max"), nn.Linear(4, 3))
    tokens = torch.randint(9, (6, 5))
    with pytest.raises(ValueError, match=r"nn\.Embedding and a sum or mean"):
        gs.hessian((model, (tokens, Y)))
    gs.hessian((model, (tokens, Y)), parameters="1")


class Rolled(nn.Module):
    def forward(self, inputs):
        return torch.special.erfcx(inputs)


@row("operations without a rule")
def _():
    with gs.hessian((nn.Sequential(nn.Linear(4, 3), Rolled()), (x(), Y))) as operator:
        assert operator.engine == "double backward" and operator.engine_reason
    with gs.hessian((net(), (x(), Y))) as operator:
        assert operator.engine == "rules"


@row("ReLU at exactly 0, as at zero weights")
def _():
    y = torch.randn(6, 4)
    sizes = {}
    for scheme, options in (("zero", {}), ("small", {"scale": 1e-3, "seed": 0})):
        model = gs.nets.build("linear_shortcut", layers=2, shortcut_length=2, width=4, mid_activation="relu")
        gs.nets.initialise(model, scheme, **options)
        with gs.hessian(gs.Problem(model, (x(), y), "half_squared_error")) as operator:
            sizes[scheme] = operator.dense().abs().max()
    assert sizes["zero"] == 0 < 0.1 < sizes["small"]


@row("weights changed through `.data` while an operator keeps its graphs")
def _():
    model = net()
    with gs.hessian((model, (x(), Y))) as operator:
        vector = torch.ones(operator.shape[0])
        before = operator.matvec(vector)
        model[0].branch[0].weight.data[1, 1] += 1
        assert torch.equal(operator.matvec(vector), before)
        operator.close()
        assert not torch.allclose(operator.matvec(vector), before)
        kept = operator.matvec(vector)
        with torch.no_grad():
            model[0].branch[0].weight[1, 1] += 1
        assert not torch.allclose(operator.matvec(vector), kept)


@row("eigenvalues nearer to zero than the density's resolution")
def _():
    with gs.hessian((net(), (x(), Y))) as operator:
        found = gs.spectral_density(operator, probes=2, steps=5, threshold=1e-6)
    shares = found[found["quantity"].isin(["negative_share", "share_above"])]
    assert set(shares["status"]) == {"undefined"} and shares["reason"].str.contains("resolution").all()


@row("a trace in which positive and negative eigenvalues cancel")
def _():
    from gradscope.curvature import MatrixOperator

    matrix = torch.randn(200, 200).double()
    matrix = matrix + matrix.T
    matrix -= matrix.diagonal().mean() * torch.eye(200).double()
    found = gs.trace(MatrixOperator(matrix), max_products=20).set_index("quantity").loc["trace"]
    assert found["status"] == "unconverged" and "zero within its error" in found["reason"]


@row("a Lanczos basis larger than `max_basis_bytes`")
def _():
    with gs.hessian((net(), (x(), Y))) as operator:
        roomy = gs.extreme_eigenvalues(operator, 1)
        tight = gs.extreme_eigenvalues(operator, 1, max_basis_bytes=10 * 8 * operator.shape[0])
        assert tight["value"].tolist() == pytest.approx(roomy["value"].tolist(), rel=1e-2)
        with pytest.raises(ValueError, match="max_basis_bytes"):
            gs.extreme_eigenvalues(operator, 5, max_basis_bytes=4 * operator.shape[0])


@row("the empirical Fisher")
def _():
    model, inputs = net().double(), x().double()
    data = inputs, model(inputs).detach()
    fitted = gs.Problem(model, data, "half_squared_error")
    assert gs.empirical_fisher(fitted).dense().abs().max() == 0
    exact = gs.gauss_newton(fitted).dense()
    assert exact.abs().max() > 0.1
    torch.testing.assert_close(exact, gs.hessian(fitted).dense())


@row("Gauss-Newton at the zero point of two-layer branches")
def _():
    model = gs.nets.build("linear_shortcut", layers=4, shortcut_length=2, width=4)
    problem = gs.Problem(gs.nets.initialise(model, "zero"), (x(), torch.randn(6, 4)), "half_squared_error")
    assert gs.gauss_newton(problem).dense().abs().max() == 0
    with gs.hessian(problem) as operator:
        assert all(block.dense().abs().max() == 0 for block in operator.blocks("layer").values())
        first, second, *_ = operator.blocks("layer")
        assert gs.extreme_eigenvalues(operator.coupling(first, second), 1)["value"].max() > 0.1


@row("blocks of networks without residual sums")
def _():
    with gs.hessian((nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)), (x(), Y))) as operator:
        for by in ("block", "stage"):
            with pytest.raises(ValueError, match="by='layer'"):
                operator.blocks(by)
        assert list(operator.blocks("layer")) == ["0", "2"]


@row("`learning_rate_product` under momentum, Adam or minibatches")
def _():
    limits = []
    for options in ({}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}):
        found = gs.curvature_study((net(), (x(), Y)), learning_rate=0.1, progress=False, **options)
        limits.append(found.query("quantity == 'stability_limit'")["value"].item())
    assert limits == pytest.approx([2, 3.8, 3.8 / 2.8])
    model = net()
    adam = torch.optim.Adam(model.parameters())
    nn.functional.cross_entropy(model(x()), Y).backward()
    adam.step()
    with gs.hessian((model, (x(), Y)), precondition=gs.adam_diagonal(adam, model)) as operator:
        assert operator.diagonal.min() > 0
