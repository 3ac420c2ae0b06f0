"""What batch normalisation does to gradients, by law: which meaning mixes examples, and which is no normalisation."""

import math
import warnings

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from torch import Tensor, nn

from gradscope.instruments.batch_norm import batch_norm, warn_of_mixing
from gradscope.instruments.listen import on_gradient
from gradscope.instruments.recalibrate import recalibrated
from gradscope.instruments.sites import sites
from gradscope.measures.correlation import correlation_R
from gradscope.nets import build
from gradscope.problem import Problem

EXAMPLES = 12


def gaussian(examples: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(examples, width, generator=torch.Generator().manual_seed(0), dtype=dtype)


def linear_bn() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [part for _ in range(5) for part in (nn.Linear(6, 6), nn.BatchNorm1d(6))]
        return nn.Sequential(*layers, nn.Linear(6, 3)).double()


PLAIN = {
    "plain 3": lambda: build("plain_mlp", depth=3, width=8, normalise="batch", seed=0).double(),
    "plain 12": lambda: build("plain_mlp", depth=12, width=8, normalise="batch", seed=0).double(),
    "linear and batch norm": linear_bn,
}


def correlations(model: nn.Module, x: Tensor, mode: str) -> dict[str, float]:
    """R of one summed backward: at the input, and at the output of every layer that batch normalisation follows."""
    found: dict[str, float] = {}
    linear = [
        site for site in sites(model) if isinstance(site.module, nn.Linear) and site.module.out_features > 3
    ]
    x = x.clone().requires_grad_()
    with (
        batch_norm(model, mode),
        on_gradient(linear, lambda w, g: found.update({w.site: float(correlation_R(g))})),
    ):
        # Of whatever is differentiated, for a plain sum of normalised outputs does not depend on the input at all.
        output = model(x)
        (gradient,) = torch.autograd.grad((output * (2 + gaussian(*output.shape))).sum(), x)
    head = {name for name in found if name == "head"}
    return {"input": float(correlation_R(gradient))} | {n: r for n, r in found.items() if n not in head}


@pytest.mark.parametrize("net", PLAIN)
def test_summed_train_mode_is_pinned_at_every_depth_without_skips(net):
    model = PLAIN[net]()
    found = correlations(model, gaussian(EXAMPLES, next(model.parameters()).shape[1]), "train")
    assert len(found) >= 4
    assert list(found.values()) == pytest.approx([-1 / (EXAMPLES - 1)] * len(found), abs=1e-10)


@pytest.mark.parametrize("net", PLAIN)
def test_frozen_and_own_are_not_pinned(net):
    model = PLAIN[net]()
    x = gaussian(EXAMPLES, next(model.parameters()).shape[1])
    assert abs(correlations(model, x, "frozen")["input"] + 1 / (EXAMPLES - 1)) > 0.03


def test_a_skip_around_batch_norm_is_not_pinned():
    model = build("residual_mlp", depth=4, width=8, normalise="batch", seed=0).double()
    found = correlations(model, gaussian(EXAMPLES, 8), "train")
    assert abs(found["input"] + 1 / (EXAMPLES - 1)) > 0.1


def input_gradient(model: nn.Module, x: Tensor, mode: str) -> Tensor:
    """Of each example's summed outputs; with `own` a backward pass for each example."""
    x = x.clone().requires_grad_()
    with batch_norm(model, mode):
        values = model(x).sum(dim=1)
    if mode != "own":
        return torch.autograd.grad(values.sum(), x)[0]
    rows = [torch.autograd.grad(value, x, retain_graph=True)[0][i] for i, value in enumerate(values)]
    return torch.stack(rows)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_frozen_differs_from_own_by_one_over_the_batch_and_train_does_not():
    """In two layers four times the examples bring frozen four times closer; the summed backward stays 0.9 away."""
    frozen, train = [], []
    for examples in (16, 64):
        of_nets = []
        for seed in range(4):
            model = build("plain_mlp", depth=2, width=64, normalise="batch", seed=seed).double()
            x = gaussian(examples, 64)
            own = input_gradient(model, x, "own")
            of_nets.append([relative(input_gradient(model, x, mode), own) for mode in ("frozen", "train")])
        mean = torch.tensor(of_nets).mean(dim=0)
        frozen.append(float(mean[0]))
        train.append(float(mean[1]))
    assert frozen[0] / frozen[1] == pytest.approx(4, rel=0.25) and frozen[0] < 0.4
    assert train == pytest.approx([0.9, 0.9], abs=0.05)


def test_eval_mode_at_initialisation_is_no_normalisation():
    """Sixteen blocks, N = 256, B = 128: R is .078 with fresh statistics, .201 calibrated; momentum 0.1 gives .099."""
    x = gaussian(128, 256, torch.float32)
    found: dict[str, list[float]] = {"frozen": [], "calibrated": [], "fresh": [], "momentum": []}
    for seed in range(4):
        model = build("residual_mlp", depth=16, width=256, normalise="batch", seed=seed).eval()
        found["fresh"].append(float(correlation_R(plainly(model, x))))
        frozen = input_gradient(model, x, "frozen")
        found["frozen"].append(float(correlation_R(frozen)))
        with recalibrated(model, [x]):
            calibrated = input_gradient(model, x, "running")
            torch.testing.assert_close(calibrated, plainly(model, x))
        found["calibrated"].append(float(correlation_R(calibrated)))
        with torch.no_grad():
            model.train()(x)
        found["momentum"].append(float(correlation_R(plainly(model.eval(), x))))
    mean = {name: sum(values) / 4 for name, values in found.items()}
    assert mean["calibrated"] == pytest.approx(0.201, abs=0.03)
    assert mean["fresh"] == pytest.approx(0.078, abs=0.03)
    assert mean["momentum"] == pytest.approx(0.099, abs=0.03)
    for frozen, calibrated in zip(found["frozen"], found["calibrated"], strict=True):
        assert frozen == pytest.approx(calibrated, abs=0.02)


def plainly(model: nn.Module, x: Tensor) -> Tensor:
    """Without any instrument, as a user would: eval mode, stored statistics."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).sum(), x)[0]


@pytest.mark.parametrize("raised", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("mode", ["auto", "frozen", "train", "own", "recalibrated"])
@pytest.mark.parametrize("training", [True, False])
def test_buffers_are_bit_for_bit_as_found(mode, training, raised):
    model = used(linear_bn().train(training))
    before = snapshot(model)
    x = gaussian(EXAMPLES, 6)

    def inside() -> None:
        with recalibrated(model, [x, x + 1]) if mode == "recalibrated" else batch_norm(model, mode):
            model(x)
            if raised:
                raise raised("body")

    if raised:
        with pytest.raises(raised, match="body"):
            inside()
    else:
        inside()
    assert_as_found(model, before)


def test_calibration_that_raises_puts_the_statistics_back():
    model = linear_bn()
    before = snapshot(model)
    with pytest.raises(RuntimeError), recalibrated(model, [gaussian(4, 6), gaussian(4, 5)]):
        pass
    assert_as_found(model, before)


def test_calibration_of_a_model_in_train_mode_draws_nothing_that_shows():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(6)).double().train()
    before = snapshot(model)
    with recalibrated(model, [gaussian(EXAMPLES, 6)]):
        pass
    assert_as_found(model, before)


def test_mixing_is_warned_of_where_statistics_are_differentiated():
    x = gaussian(EXAMPLES, 6)
    with pytest.warns(UserWarning, match=r"mixes its examples.*batch_norm='frozen', or 'own'"):
        warn_of_mixing(Problem(linear_bn(), x, batch_norm="train"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for mode in ("auto", "frozen", "own"):
            warn_of_mixing(Problem(linear_bn(), x, batch_norm=mode))
        warn_of_mixing(Problem(nn.Linear(6, 3), x, batch_norm="train"))


def test_the_unbiased_variance_is_all_that_calibration_changes():
    """Frozen statistics divide by B, stored ones by B - 1: the outputs of one normalised layer differ by that."""
    x = gaussian(EXAMPLES, 3)
    model = nn.BatchNorm1d(3, affine=False, eps=1e-30).double()
    with batch_norm(model, "frozen"):
        frozen = model(x)
    with recalibrated(model, [x]):
        calibrated = model(x)
    torch.testing.assert_close(frozen / calibrated, torch.full_like(x, math.sqrt(EXAMPLES / (EXAMPLES - 1))))
