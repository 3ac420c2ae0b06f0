"""What rectifiers put out, against the outputs themselves."""

from contextlib import nullcontext

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS
from torch import Tensor, nn
from torch.nn import functional

from gradscope.instruments.batch_norm import batch_norm
from gradscope.instruments.rectifiers import on_rectified

RECTIFIERS = {
    "relu": functional.relu,
    "relu in place": lambda x: functional.relu(x.clone(), inplace=True),
    "torch.relu": torch.relu,
    "torch.relu_": lambda x: torch.relu_(x.clone()),
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.clone().relu_(),
    "relu6": functional.relu6,
    "hardtanh": lambda x: functional.hardtanh(x, 0.0, 2.0),
    "hardtanh by name": lambda x: functional.hardtanh(x, min_val=0.0, max_val=2.0),
    "clamp": lambda x: x.clamp(min=0),
    "torch.clamp": lambda x: torch.clamp(x, 0.0),
    "clamp_min": lambda x: x.clamp_min(0),
}
OTHERS = {
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "leaky": functional.leaky_relu,
    "hardtanh": functional.hardtanh,
    "clamp": lambda x: x.clamp(min=-1, max=0),
    "clamp above": lambda x: x.clamp(max=0),
}


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def heard_in(model: nn.Module, x: Tensor) -> list[tuple[str, int, Tensor]]:
    heard = []
    with on_rectified(model, lambda name, call, output: heard.append((name, call, output.detach().clone()))):
        model(x)
    return heard


@pytest.mark.parametrize("name", RECTIFIERS)
def test_every_way_to_rectify_is_heard_once(name):
    x = torch.randn(4, 3)
    model = nn.Sequential(Function(torch.sin), Function(RECTIFIERS[name]))
    ((site, call, output),) = heard_in(model, x)
    assert (site, call) == ("1", 0)
    torch.testing.assert_close(output, model(x))
    assert output.min() == 0


@pytest.mark.parametrize("name", OTHERS)
def test_what_never_switches_off_below_zero_is_not_heard(name):
    assert heard_in(Function(OTHERS[name]), torch.randn(4, 3)) == []


@pytest.mark.parametrize("module", [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(0.0, 1.0)])
def test_modules_are_heard_by_name_and_calls_are_counted_anew_in_each_forward(module):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = module

        def forward(self, x):
            return self.shared(self.shared(x.clone()) - 0.1).relu()

    model, x = Twice(), torch.randn(4, 3)
    for _ in range(2):
        assert [(site, call) for site, call, _ in heard_in(model, x)] == [
            ("shared", 0),
            ("shared", 1),
            ("", 0),
        ]
    heard = []
    with on_rectified(model, lambda name, call, output: heard.append((name, call))):
        model(x)
        torch.relu(x)
        model(x)
    assert heard == [("shared", 0), ("shared", 1), ("", 0)] * 2


@pytest.mark.parametrize("outer", [True, False])
def test_it_works_beside_other_instruments(outer):
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    x, heard = torch.randn(5, 3), []
    listening = on_rectified(model, lambda name, call, output: heard.append(name))
    normalising = batch_norm(model, "frozen")
    first, second = (listening, normalising) if outer else (normalising, listening)
    with first, second:
        output = model(x)
    assert heard == ["1"]
    with batch_norm(model, "frozen"):
        assert torch.equal(output, model(x))


@pytest.mark.parametrize("raised", [None, KeyboardInterrupt])
@pytest.mark.parametrize("net", ["post-activation", "tokens", "shared weights"])
def test_the_network_is_as_found_and_computes_the_same(net, raised):
    specimen = NETWORKS[net]
    model = used(specimen.build())
    before = snapshot(model)
    alone = model(specimen.inputs())
    with pytest.raises(raised) if raised else nullcontext():
        with on_rectified(model, lambda name, call, output: None):
            assert torch.equal(model(specimen.inputs()), alone)
            if raised:
                raise raised
    assert_as_found(model, before)
