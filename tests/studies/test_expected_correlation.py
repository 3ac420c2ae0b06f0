"""The theory overlay against means over wide networks, and what it has to refuse."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import gradscope as gs
from gradscope.nets import build
from gradscope.nets.layers import Centre

WIDTH = 160


def gaussian(examples: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(examples, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def clustered(width: int) -> torch.Tensor:
    """Inputs in two clusters, which no law for exchangeable inputs covers."""
    x = gaussian(20, width)
    x[:10] += 1.5 * gaussian(1, width, seed=9)
    return x


def linear(into: int, out: int = WIDTH) -> nn.Linear:
    """He weights, no bias."""
    layer = nn.Linear(into, out, bias=False)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / into))
    return layer


class Called(nn.Module):
    """A few layers, and a function that says how they are put together."""

    def __init__(self, forward, **layers: nn.Module):
        super().__init__()
        self.put_together = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.put_together(self, x)


def chain(step, blocks: int = 3):
    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = step(block, x)
        return self.head(x)

    layers = nn.ModuleList([linear(WIDTH) for _ in range(blocks)])
    return lambda width: Called(
        forward, stem=linear(width), blocks=layers_anew(layers), head=linear(WIDTH, 1)
    )


def layers_anew(layers: nn.ModuleList) -> nn.ModuleList:
    return nn.ModuleList([linear(layer.in_features, layer.out_features) for layer in layers])


FAMILIES = {
    "plain": {"name": "plain_mlp", "normalise": "none"},
    "plain, centred": {"name": "plain_mlp", "normalise": "mean"},
    "plain, batch norm": {"name": "plain_mlp", "normalise": "batch"},
    "residual": {"name": "residual_mlp", "normalise": "none"},
    "residual, centred, two layers a branch": {
        "name": "residual_mlp",
        "normalise": "mean",
        "branch_layers": 2,
    },
    "residual, batch norm, beta 0.3": {
        "name": "residual_mlp",
        "normalise": "batch",
        "beta": 0.3,
        "alpha": 0.9,
    },
}
WRITTEN = {
    "post-activation": chain(lambda b, x: (x + b(x.relu())).relu()),
    "twice rectified": chain(lambda b, x: b(x.relu().relu())),
    "a sum of what hangs together": chain(lambda b, x: b(x + x.relu())),
    "leaky by hand": chain(lambda b, x: b(0.2 * x + 0.8 * x.relu())),
    "a branch and half of it again": chain(lambda b, x: x + b(x.relu()) + 0.5 * x),
    "tanh": chain(lambda b, x: b(x.tanh())),
    "functional": chain(lambda b, x: functional.linear(functional.relu(x), b.weight)),
}
NETWORKS = {
    name: lambda w, o=o: build(**o, depth=3, width=WIDTH, inputs=w, outputs=1) for name, o in FAMILIES.items()
}
NETWORKS |= WRITTEN
NETWORKS["rectified at once"] = lambda w: nn.Sequential(nn.ReLU(), linear(w), nn.ReLU(), linear(WIDTH, 1))
NETWORKS["normalised at once"] = lambda w: nn.Sequential(
    nn.BatchNorm1d(w, affine=False), nn.ReLU(), linear(w), nn.ReLU(), linear(WIDTH, 1)
)


def averages(build_one, inputs: torch.Tensor, draws: int = 6) -> dict[str, tuple[float, float]]:
    """Mean of the measured R, and of theory's, over fresh networks, by site."""
    measured, expected = {}, {}
    for seed in range(draws):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_one(inputs.shape[1])
        frame = gs.gradient_correlation((model, inputs), twin=False).set_index(["quantity", "site"])["value"]
        for site, value in frame["theory_correlation_R"].items():
            measured.setdefault(site, []).append(frame["correlation_R", site])
            expected.setdefault(site, []).append(value)
    return {site: (np.mean(measured[site]), np.mean(expected[site])) for site in measured}


@pytest.mark.parametrize("name", NETWORKS)
def test_theory_is_the_mean_over_wide_networks_at_every_layer(name):
    found = averages(NETWORKS[name], clustered(96))
    assert "input" in found and len(found) >= 2
    for site, (measured, expected) in found.items():
        # Networks of 160 units, six draws.
        assert measured == pytest.approx(expected, abs=0.06), site


@pytest.mark.parametrize(
    "name", ["plain, batch norm", "residual, batch norm, beta 0.3", "normalised at once"]
)
def test_units_are_normalised_each_for_itself(name):
    """On inputs of low rank, where the mean variance is not every unit's."""
    spread = gaussian(20, 2, seed=3) @ gaussian(2, 32, seed=4)
    for site, (measured, expected) in averages(NETWORKS[name], spread).items():
        if site != "input":
            assert measured == pytest.approx(expected, abs=0.07), site


def test_nonnegative_inputs_are_taken_as_they_are():
    for site, (measured, expected) in averages(NETWORKS["rectified at once"], clustered(96).abs()).items():
        assert measured == pytest.approx(expected, abs=0.06), site


def test_theory_falls_towards_the_input_as_the_recursion_says():
    model = build("plain_mlp", depth=4, width=256, outputs=1, seed=0)
    frame = gs.gradient_correlation((model, gaussian(64, 256)))
    theory = frame[frame["quantity"] == "theory_correlation_R"].set_index("site")["value"]
    assert list(theory.index) == ["input", *(f"blocks.{layer}.linear" for layer in range(4)), "head"]
    # From orthogonal inputs: the recursion's value through four layers, and one at the readout.
    assert theory["input"] == pytest.approx(
        gs.theory.plain_correlation(4).gradient_correlation[-1], abs=0.015
    )
    assert theory["head"] == pytest.approx(1) and theory.iloc[1:].is_monotonic_increasing


def shared(blocks: int = 2) -> nn.Module:
    def forward(self, x):
        for _ in range(blocks):
            x = x + self.layer(x.relu())
        return self.head(x)

    return Called(forward, layer=linear(32, 32), head=linear(32, 1))


def with_numbers(change) -> nn.Module:
    model = nn.Sequential(nn.Linear(32, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))
    with torch.no_grad():
        change(model)
    return model


REFUSED = {
    "another activation": nn.Sequential(linear(32), nn.Softplus(), linear(WIDTH, 1)),
    "a product of two": Called(
        lambda self, x: self.head(self.layer(x) * self.layer2(x)),
        layer=linear(32),
        layer2=linear(32),
        head=linear(WIDTH, 1),
    ),
    "a shift": Called(
        lambda self, x: self.head((self.layer(x) - 1.0).relu()), layer=linear(32), head=linear(WIDTH, 1)
    ),
    "a shift beside an unused centring": Called(
        lambda self, x: self.head((self.layer(x) - 1.0).relu()),
        layer=linear(32),
        head=linear(WIDTH, 1),
        centre=Centre(),
    ),
    "an offset": Called(
        lambda self, x: self.head((self.layer(x) + 1.0).relu()), layer=linear(32), head=linear(WIDTH, 1)
    ),
    "a sum with a factor of its own": Called(
        lambda self, x: self.head(torch.add(x, self.layer(x.relu()), alpha=0.1)),
        layer=linear(32, 32),
        head=linear(32, 1),
    ),
    "a product added with a factor": Called(
        lambda self, x: self.head(torch.addmm(x, x.relu(), self.layer.weight.T, alpha=0.1)),
        layer=linear(32, 32),
        head=linear(32, 1),
    ),
    "a shared layer": shared(),
    "tied weights": Called(
        lambda self, x: self.head((self.layer(x).relu() @ self.layer.weight).relu()),
        layer=linear(32),
        head=linear(32, 1),
    ),
    "weights that are not centred": with_numbers(lambda model: model[0].weight.add_(0.5)),
    "a bias that is not centred": with_numbers(lambda model: model[0].bias.fill_(1.0)),
    "tokens": nn.Sequential(
        nn.Unflatten(1, (4, 8)), linear(8), nn.ReLU(), nn.Flatten(), linear(4 * WIDTH, 1)
    ),
    "numbers moved between examples": Called(
        lambda self, x: self.head(self.layer(x.reshape(-1, 16)).relu().reshape(len(x), -1)),
        layer=linear(16),
        head=linear(2 * WIDTH, 1),
    ),
    "a convolution": nn.Sequential(nn.Unflatten(1, (1, 32)), nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Flatten()),
    "a not-a-number weight": with_numbers(lambda model: model[0].weight[0].fill_(math.nan)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_theory_is_made_up(name):
    frame = gs.gradient_correlation((REFUSED[name], gaussian(6, 32)), twin=False)
    assert "theory_correlation_R" not in set(frame["quantity"])
    assert (frame["quantity"] == "correlation_R").any()


@pytest.mark.parametrize("width", [1, 2, 15])
def test_inputs_of_few_numbers_have_no_theory(width):
    frame = gs.gradient_correlation((NETWORKS["plain"](width), gaussian(6, width)))
    assert "theory_correlation_R" not in set(frame["quantity"])


def test_the_measurement_does_not_hang_on_its_theory():
    x = gaussian(6, 32)
    x[0, 0] = math.inf
    frame = gs.gradient_correlation((with_numbers(lambda model: None), x))
    assert "theory_correlation_R" not in set(frame["quantity"]) and set(frame["status"]) <= {
        "ok",
        "undefined",
    }


def test_where_theory_has_no_gradient_it_is_undefined():
    class ReZero(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.scale = linear(32, 32), nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return x + self.scale * self.layer(x.relu())

    frame = gs.gradient_correlation((nn.Sequential(ReZero(), linear(32, 1)), gaussian(6, 32)), twin=False)
    rows = frame[(frame["quantity"] == "theory_correlation_R") & (frame["site"] == "0.layer")]
    assert list(rows["status"]) == ["undefined"] and rows["value"].isna().all()


def test_no_theory_for_other_sources_trained_scales_or_stored_statistics():
    model = nn.Sequential(linear(32), nn.BatchNorm1d(WIDTH), nn.ReLU(), linear(WIDTH, 2))
    x, y = gaussian(6, 32), torch.tensor([0, 1, 0, 1, 0, 1])

    def has_theory(**options) -> bool:
        return "theory_correlation_R" in set(gs.gradient_correlation((model, (x, y)), **options)["quantity"])

    assert has_theory() and not has_theory(source="logit") and not has_theory(theory=False)
    model(x)
    assert has_theory()
    model.eval()
    assert not has_theory()
    model.train()
    with torch.no_grad():
        model[1].weight[0] = 2.0
    assert not has_theory()
