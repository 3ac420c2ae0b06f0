"""Rows of docs/limitations.md on the gradients of single examples."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradscope as gs
from limits.register import Y, net, normalised, row, x


class Centred(nn.Module):
    """Takes the mean over the batch off, as batch normalisation does."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, inputs):
        hidden = self.before(inputs)
        return self.after(hidden - hidden.mean(dim=0))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, inputs):
        tokens = torch.stack([inputs, inputs.roll(1, dims=1)], dim=1)
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(dim=1))


def at_input(frame, quantity="correlation_R"):
    (value,) = frame[(frame["site"] == "input") & (frame["quantity"] == quantity)]["value"]
    return value


@row(
    "examples mixed by a module other than batch normalisation (centring over the batch, attention between examples)"
)
def _():
    model, inputs = Centred(), x()
    frame = gs.gradient_correlation((model, (inputs, Y)), source=lambda outputs, targets: outputs[:, 0] ** 2)
    assert at_input(frame) == pytest.approx(-1 / 5, abs=1e-3)
    grams = gs.layer_grams((model, (inputs, Y)))
    assert grams["before"].engine == "fallback" and grams["after"].engine == "products"
    (gradient,) = torch.autograd.grad(
        functional.cross_entropy(model(inputs), Y, reduction="none")[0], model.before.weight
    )
    own = gs.layer_grams((model, (inputs, Y)), at="before")["before"]
    assert own.parameter[0, 0] >= gradient.double().square().sum() * (1 - 1e-4)


@row("Grams with batch normalisation in train mode")
def _():
    for measure in (gs.layer_grams, gs.gradient_agreement, gs.tangent_kernels):
        with pytest.raises(ValueError, match="belongs to no single example"):
            measure(gs.Problem(normalised(), (x(), Y), batch_norm="train"))
    own = gs.layer_grams(gs.Problem(normalised(), (x(), Y), batch_norm="own"))
    assert {gram.engine for gram in own.values()} == {"fallback"}


@row("layers that Grams have no rule for (3-D and transposed convolutions, products of your own)")
def _():
    model = nn.Sequential(nn.Conv3d(1, 2, 2), nn.Flatten(), nn.Linear(2, 3))
    inputs = torch.randn(6, 1, 2, 2, 2)
    grams = gs.layer_grams((model, (inputs, Y)))
    assert grams["0"].engine == "fallback" and grams["0"].reason
    rows = []
    for loss in functional.cross_entropy(model(inputs), Y, reduction="none"):
        parts = torch.autograd.grad(loss, [*model[0].parameters()], retain_graph=True)
        rows.append(torch.cat([part.flatten() for part in parts]))
    exact = torch.stack(rows).double()
    torch.testing.assert_close(grams["0"].parameter, exact @ exact.T, rtol=1e-4, atol=1e-7)


@row("a fresh zero-gamma or Fixup network")
def _():
    model = gs.nets.initialise(net(), "fixup", branches=["0.branch", "1.branch"], seed=0)
    frame = gs.gradient_correlation((model, (x(), Y)), source="output", twin=False, theory=False)
    undefined = frame[frame["site"] == "input"]
    assert set(undefined["status"]) == {"undefined"}
    assert undefined["reason"].str.contains("non-zero gradient").all()


@row("the twin of a trained network")
def _():
    model = gs.nets.build("residual_mlp", depth=3, width=8, outputs=3, seed=0)
    inputs = torch.randn(60, 8)
    gs.fit(model, (inputs, inputs[:, :3].argmax(dim=1)), epochs=20, learning_rate=0.05, progress=False)
    classes = inputs[:, :3].argmax(dim=1)
    whole = (model(inputs).argmax(dim=1) == classes).double().mean()
    with gs.cut_skips(model, gs.junctions(model, inputs)), torch.no_grad():
        broken = (model(inputs).argmax(dim=1) == classes).double().mean()
    assert broken < whole - 0.2
    frame = gs.gradient_correlation((model, inputs))
    assert "twin_correlation_R" in set(frame["quantity"]) and "With the skips cut" in gs.shattering_reading(
        frame
    )
    assert "twin_correlation_R" not in set(gs.gradient_correlation((model, inputs), twin=False)["quantity"])


@row("theory beside a measurement")
def _():
    known = gs.nets.build("plain_mlp", depth=2, width=8, inputs=16, outputs=1, normalise="none", seed=0)
    several = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    assert "theory_correlation_R" in set(gs.gradient_correlation((known, several))["quantity"])
    assert "theory_correlation_R" not in set(gs.gradient_correlation((known, several), source=0)["quantity"])
    few = gs.nets.build("plain_mlp", depth=2, width=8, inputs=4, outputs=1, normalise="none", seed=0)
    assert "theory_correlation_R" not in set(gs.gradient_correlation((few, several[:, :4]))["quantity"])
    images = gs.nets.build("resnet", depth=8, channels=1, width=4, seed=0), torch.randn(4, 1, 8, 8)
    for unknown in (images, (net(), x()), (Attending(), x())):
        assert "theory_correlation_R" not in set(gs.gradient_correlation(unknown)["quantity"])


@row("growth of the gradient")
def _():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    frame = gs.gradient_flow((model, (x(), Y)))
    (rate,) = frame[frame["quantity"] == "gradient_growth_rate"].to_dict("records")
    assert rate["status"] == "undefined" and "three layers of one output shape" in rate["reason"]
    assert "output_gradient_log10_norm" in set(frame["quantity"])


@row("rectifier rows of `gradient_flow`")
def _():
    class Called(nn.Linear):
        def forward(self, inputs):
            return functional.relu(super().forward(inputs))

    class Clamped(nn.Module):
        def forward(self, inputs):
            return inputs.clamp(min=0)

    def has_rows(*layers):
        frame = gs.gradient_flow((nn.Sequential(*layers, nn.Linear(4, 3)), (x(), Y)))
        return "dead_fraction" in set(frame["quantity"])

    for switching in (nn.ReLU(), nn.ReLU6(), Clamped()):
        assert has_rows(nn.Linear(4, 4), switching)
    assert has_rows(Called(4, 4))
    for other in (nn.Threshold(0.0, 0.0), nn.GELU(), nn.LeakyReLU(), nn.Identity()):
        assert not has_rows(nn.Linear(4, 4), other)


@row("the output projection of `nn.MultiheadAttention`")
def _():
    flow = gs.gradient_flow((Attending(), (x(), Y)))
    projection = set(flow[flow["site"] == "attention.out_proj"]["quantity"])
    assert "parameter_gradient_log10_norm" in projection
    assert not any(quantity.startswith("output_") for quantity in projection)
    assert "output_gradient_log10_norm" in set(flow[flow["site"] == "attention"]["quantity"])
    gram = gs.layer_grams((Attending(), (x(), Y)))["attention.out_proj"]
    assert gram.parameter is not None and gram.output is None and "never called" in gram.reason


@row("moments of a Jacobian by probes")
def _():
    quantities = set(gs.jacobian_spectrum((net(), x()), probes=4, examples=1)["quantity"])
    assert "squared_singular_value_mean" in quantities
    assert not quantities & {"singular_value", "largest_singular_value", "jacobian_condition_number"}
    assert "singular_value" in set(gs.jacobian_spectrum((net(), x()), examples=1)["quantity"])


@row("traces between samples")
def _():
    tokens = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="one floating-point tensor"):
        gs.input_trace((tokens, (torch.randint(5, (6, 2)), Y)), between=(0, 1))
    with pytest.raises(ValueError, match="no batch_norm='own'"):
        gs.input_trace((normalised(), (x(), Y)), batch_norm="own", between=(0, 1))
    with pytest.raises(ValueError, match="of two samples around their own mean"):
        gs.input_trace((net(), x()[:2]), between=(0, 1), along="circle", points=16)
    frame = gs.input_trace((net(), x()), between=(0, 1), along="circle", points=16)
    assert set(frame[frame["quantity"] == "reference"]["read"]) == {"along the path"}
    values = torch.tensor(
        frame[(frame["quantity"] == "input_gradient") & (frame["read"] == "along the path")][
            "value"
        ].to_numpy()
    )
    centred = values - values.mean()
    told = frame[(frame["quantity"] == "autocorrelation") & (frame["read"] == "along the path")].set_index(
        "lag"
    )
    open_ended = (centred[:-1] * centred[1:]).sum() / centred.square().sum()
    assert told["value"][1] == pytest.approx(float(open_ended))


@row("`depth_traces`")
def _():
    with pytest.raises(ValueError, match="Use input_trace for others"):
        gs.depth_traces("resnet", [2])


@row("targets that are no class numbers")
def _():
    frame = gs.gradient_agreement(gs.Problem(net(), (x(), torch.randn(6, 3)), "half_squared_error"))
    parameters = frame[frame["gradient"] == "parameter"]
    skipped = set(parameters[parameters["status"] == "skipped"]["quantity"])
    assert {"within_class_cosine", "between_class_cosine", "label_alignment"} <= skipped
    assert "mean_cosine" not in skipped


@row("tangent kernels")
def _():
    with pytest.raises(ValueError, match=r"outputs of shape \[6, K\]"):
        gs.tangent_kernels((nn.Linear(4, 3), torch.randn(6, 2, 4)))
    model, inputs = net(), x()
    every = sum(gs.tangent_kernels((model, inputs), outputs=k)["all parameters"] for k in range(3))
    torch.testing.assert_close(gs.tangent_kernels((model, inputs))["all parameters"], every)


@row("looks-linear starts")
def _():
    def pooled(pooling):
        return nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), pooling, nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(64, 3)),
        )

    images = torch.randn(3, 1, 8, 8)
    with pytest.raises(ValueError, match="max_pool2d"):
        gs.nets.initialise(pooled(nn.MaxPool2d(2)), "looks_linear_relu", inputs=images)
    bent = gs.nets.initialise(pooled(nn.MaxPool2d(2)), "looks_linear_relu", seed=0)
    assert gs.nets.looks_linear_deviation(bent, images) > 0.1
    straight = gs.nets.initialise(pooled(nn.AvgPool2d(2)), "looks_linear_relu", inputs=images, seed=0)
    assert gs.nets.looks_linear_deviation(straight, images) < 1e-4
    with pytest.raises(ValueError, match="no centre"):
        gs.nets.initialise(nn.Sequential(nn.Conv2d(1, 4, 2), nn.PReLU()), "looks_linear")
    grouped = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(ValueError, match="2 groups"):
        gs.nets.initialise(grouped, "looks_linear_relu")


@row("Fixup")
def _():
    model = net()
    before = dict(model.named_parameters()).keys()
    gs.nets.initialise(model, "fixup", branches=["0.branch", "1.branch"], seed=0)
    assert dict(model.named_parameters()).keys() == before
    assert float(model[0].branch[2].weight.abs().max()) == 0 < float(model[0].branch[0].weight.abs().max())
