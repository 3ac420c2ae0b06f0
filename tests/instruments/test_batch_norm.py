"""The meanings of batch normalisation against statistics put in by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from gradscope.instruments.batch_norm import batch_norm, described, resolved


def net(*, updated: bool = True, affine: bool = True) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4, affine=affine), nn.Tanh(), nn.Linear(4, 2), nn.BatchNorm1d(2)
        ).double()
        if updated:
            model(torch.randn(9, 3, dtype=torch.float64) + 1)
    return model


def inputs(examples: int = 6) -> torch.Tensor:
    return torch.randn(examples, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_hand(model, x, statistics):
    """The network written out; `statistics(values, layer)` gives the mean and variance to use."""
    linear1, norm1, tanh, linear2, norm2 = model
    for linear, norm, after in ((linear1, norm1, tanh), (linear2, norm2, nn.Identity())):
        values = linear(x)
        mean, variance = statistics(values, norm)
        values = (values - mean) / (variance + norm.eps).sqrt()
        x = after(values if norm.weight is None else values * norm.weight + norm.bias)
    return x


STATISTICS = {
    "frozen": lambda values, norm: (values.mean(0).detach(), values.var(0, correction=0).detach()),
    "running": lambda values, norm: (norm.running_mean, norm.running_var),
    "train": lambda values, norm: (values.mean(0), values.var(0, correction=0)),
}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", STATISTICS)
def test_outputs_and_gradients_are_those_of_the_statistics(mode, training, affine):
    model, x = net(affine=affine).train(training), inputs().requires_grad_()
    with batch_norm(model, mode):
        output = model(x)
    expected = by_hand(model, x, STATISTICS[mode])
    torch.testing.assert_close(output, expected)
    weights = torch.arange(12.0, dtype=torch.float64).view(6, 2)
    torch.testing.assert_close(
        torch.autograd.grad((output * weights).sum(), x)[0],
        torch.autograd.grad((expected * weights).sum(), x)[0],
    )


def test_auto_is_running_where_statistics_are_used_and_known_and_frozen_elsewhere():
    model = net()
    assert described(model, "auto") == "frozen"
    assert described(model.eval(), "auto") == "running"
    model[1].train()
    assert list(resolved(model, "auto").values()) == ["frozen", "running"]
    assert described(model, "auto") == "frozen+running"
    assert described(net(updated=False).eval(), "auto") == "frozen"
    assert described(nn.Linear(2, 2), "auto") == "none"
    assert described(nn.Linear(2, 2), "own") == "none"
    assert described(net(), "own") == "own"


def test_auto_mixes_meanings_by_module():
    model, x = net(), inputs()
    model[4].eval()

    def statistics(values, norm):
        return STATISTICS["frozen" if norm is model[1] else "running"](values, norm)

    with batch_norm(model):
        torch.testing.assert_close(model(x), by_hand(model, x, statistics))


def test_fresh_running_statistics_are_refused():
    with pytest.raises(ValueError, match=r"never updated .* Use batch_norm='frozen'"):
        resolved(net(updated=False), "running")


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="one of auto, frozen, running, train, own, got 'eval'"):
        resolved(net(), "eval")


def test_modules_without_statistics_and_functional_calls_are_frozen_too():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3, track_running_stats=False)

        def forward(self, x):
            return functional.batch_norm(self.norm(x), None, None, training=True)

    model, x = Functional().double(), inputs().requires_grad_()
    with batch_norm(model, "frozen"):
        gradient = torch.autograd.grad(model(x)[0].sum(), x)[0]
    assert gradient[1:].abs().max() == 0, "frozen statistics must not mix examples"
    with batch_norm(model, "train"):
        assert torch.autograd.grad(model(x)[0].sum(), x)[0][1:].abs().max() > 0


def test_frozen_equals_calibrated_eval():
    """One pass with momentum 1 stores the batch's statistics, up to B/(B-1) in the variance."""
    model, x = net(), inputs(200).requires_grad_()
    with batch_norm(model, "frozen"):
        frozen = torch.autograd.grad(model(x).sum(), x)[0]
    for layer in (model[1], model[4]):
        layer.momentum = 1.0
    model.train()(x.detach())
    calibrated = torch.autograd.grad(model.eval()(x).sum(), x)[0]
    assert (frozen - calibrated).norm() < 0.02 * frozen.norm()


def test_convolutional_statistics_are_per_channel():
    model = nn.BatchNorm2d(3).double()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    with batch_norm(model, "frozen"):
        output = model(x)
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(output, (x - mean) / (variance + model.eps).sqrt())


def test_one_example_alone_is_no_error_when_frozen():
    model = net()
    with batch_norm(model, "frozen"):
        assert torch.isfinite(model(inputs(1))).all()
