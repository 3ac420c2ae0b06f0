"""Gates on parts that the backward pass computes again: refused with gradients, right without."""

import pytest
import torch
from as_found import assert_as_found, snapshot
from networks import Residual, mlp
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradscope.instruments.checkpointed import computed_again
from gradscope.instruments.gates import cut_skips, junction_by_hand, lesion, scale_branches, stochastic_depth
from gradscope.instruments.junctions import junctions


class Parts(nn.Module):
    """A block, two blocks that may be checkpointed, a block."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.again = again
        self.first, self.part, self.last = (
            nn.Sequential(*(Residual(mlp(4, 4, 4)) for _ in range(n))) for n in (1, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = checkpoint(self.part, x, use_reentrant=False) if self.again else self.part(x)
        return self.last(x).square()


def models() -> tuple[Parts, Parts]:
    plain, again = Parts(False).double(), Parts(True).double()
    again.load_state_dict(plain.state_dict())
    return plain, again


GATES = {
    "zero": lesion,
    "mean": lambda model, found: lesion(model, found, kind="mean"),
    "scaled": lambda model, found: scale_branches(model, found, 0.5),
    "skips": cut_skips,
    "dropped": lambda model, found: stochastic_depth(model, found, training=True),
}


@pytest.mark.parametrize("name", GATES)
def test_with_gradients_a_gate_inside_is_refused(name):
    _, model = models()
    x = torch.randn(3, 4, dtype=torch.float64)
    before = snapshot(model)
    with (
        pytest.raises(RuntimeError, match=r"computes part\.1:0 again .* Turn checkpointing off, or"),
        GATES[name](model, junctions(model, x)[2]),
    ):
        model(x)
    assert_as_found(model, before)


@pytest.mark.parametrize("name", GATES)
def test_without_gradients_it_acts_as_ever(name):
    x = torch.randn(3, 4, dtype=torch.float64)
    outputs = []
    for model in models():
        with torch.no_grad(), GATES[name](model, junctions(model, x)[1:3]):
            outputs.append(model(x))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("name", GATES)
def test_gates_on_other_parts_are_right_with_gradients_too(name):
    x = torch.randn(3, 4, dtype=torch.float64)
    gradients = []
    for model in models():
        found = junctions(model, x)
        with GATES[name](model, [found[0], found[3]]):
            loss = model(x).sum()
        gradients.append(torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_so_is_a_module_named_by_hand():
    _, model = models()
    x = torch.randn(3, 4, dtype=torch.float64)
    with (
        pytest.raises(RuntimeError, match=r"computes part\.0\.branch again"),
        lesion(model, junction_by_hand(model, "part.0.branch")),
    ):
        model(x)
    with torch.no_grad(), lesion(model, junction_by_hand(model, "part.0.branch")):
        closed = model(x)
        assert torch.equal(closed, model.last(model.part[1](model.first(x))).square())


def test_what_is_computed_again():
    assert not computed_again()
    heard = []
    x = torch.ones(2, requires_grad=True)
    checkpoint(lambda given: (heard.append(computed_again()), given.exp())[1], x, use_reentrant=False)
    assert heard == [True] and not computed_again()
