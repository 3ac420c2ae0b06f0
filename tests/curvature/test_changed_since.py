"""An operator that was used once, after something was changed: as a fresh one, or one clear error."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import classes
from torch import Tensor, nn
from torch.nn.utils import prune

from gradscope.curvature import empirical_fisher, gauss_newton, hessian
from gradscope.problem import Problem
from tests.curvature.references import assert_same_matrix

WEIGHTS = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)


class Scaled(nn.Module):
    """A number, and a tensor that is no buffer, as plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self._by, self.shift = 1.0, torch.full((5,), 0.1, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self._by * x + self.shift


def problem(loss: Any = "cross_entropy") -> Problem:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), Scaled(), nn.BatchNorm1d(5), nn.Linear(5, 3)]
    made = classes(nn.Sequential(*layers), 4)
    for place in (1, 4):
        made.model[place].running_var.fill_(3.0)
        made.model[place].num_batches_tracked.fill_(1)
    made.model[4].eval()
    made.loss = Problem(made.model, made.data, loss).loss
    return made


def doubled(tensor: Tensor) -> None:
    with torch.no_grad():
        tensor.mul_(2)


def swapped_modes(made: Problem) -> None:
    made.model[1].eval()
    made.model[4].train()


CHANGES: dict[str, Callable[[Problem], Any]] = {
    "loaded values": lambda made: made.model.load_state_dict(
        {name: 2 * value for name, value in made.model.state_dict().items()}
    ),
    "inputs": lambda made: doubled(made.data[0][0]),
    "modes of layers": swapped_modes,
    "an epsilon": lambda made: setattr(made.model[1], "eps", 0.5),
    "a module": lambda made: made.model.__setitem__(2, nn.Sigmoid()),
    "a number": lambda made: setattr(made.model[3], "_by", 2.0),
    "a plain tensor": lambda made: doubled(made.model[3].shift),
    "the reduction": lambda made: setattr(made, "reduction", "sum"),
    "the loss": lambda made: setattr(made, "loss", lambda out, y: 2 * out.square().sum(dim=1)),
    "a hook": lambda made: made.model[2].register_forward_hook(lambda m, x, output: 2 * output),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_seen(change: str) -> None:
    made = problem()
    with hessian(made) as operator:
        before = operator.dense()
        CHANGES[change](made)
        after = operator.dense()
    assert (after - before).abs().max() > 1e-3
    assert_same_matrix(after, hessian(made).dense())


def weighted_by_global(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, target, weight=WEIGHTS, reduction="none")


@pytest.mark.parametrize("make", [hessian, gauss_newton, empirical_fisher])
@pytest.mark.parametrize("how", ["module", "global", "closure", "default"])
def test_changes_of_what_the_loss_refers_to_are_seen(how: str, make: Any) -> None:
    weights = WEIGHTS if how == "global" else WEIGHTS.clone()
    losses = {
        "module": nn.CrossEntropyLoss(weight=weights),
        "global": weighted_by_global,
        "closure": lambda out, y: nn.functional.cross_entropy(out, y, weight=weights, reduction="none"),
        "default": lambda out, y, w=weights: nn.functional.cross_entropy(out, y, weight=w, reduction="none"),
    }
    made = problem(losses[how])
    with make(made) as operator:
        before = operator.dense()
        weights[1] *= 3
        after = operator.dense()
        fresh = make(made).dense()
        weights[1] /= 3
    assert (after - before).abs().max() > 1e-3
    assert_same_matrix(after, fresh)


def test_nothing_is_built_anew_where_nothing_changed() -> None:
    calls: list[int] = []
    made = problem()
    made.model[2].register_forward_hook(lambda module, inputs, output: calls.append(1))
    with hessian(made) as operator:
        operator.matvec(torch.ones(operator.shape[0]))
        calls.clear()
        operator.dense()
    assert calls == []


REPLACEMENTS: dict[str, Callable[[nn.Module], Any]] = {
    "replaced": lambda net: setattr(net[0], "weight", nn.Parameter(torch.randn_like(net[0].weight))),
    "assigned": lambda net: net.load_state_dict(
        {name: value.clone() for name, value in net.state_dict().items()}, assign=True
    ),
    "reparametrised": lambda net: nn.utils.parametrizations.weight_norm(net[0]),
    "cast": lambda net: net.float(),
}


@pytest.mark.parametrize("make", [hessian, gauss_newton, empirical_fisher])
@pytest.mark.parametrize("how", REPLACEMENTS)
def test_replaced_parameters_are_refused(how: str, make: Any) -> None:
    made = problem()
    operator = make(made)
    operator.dense()
    REPLACEMENTS[how](made.model)
    with pytest.raises(ValueError, match=r"0\.weight is no longer the parameter.*Make the operator anew"):
        operator.dense()


def test_a_pruned_parameter_is_still_the_models() -> None:
    """Its mask is part of the network from then on, and the entries are those of what is masked."""
    made = problem()
    operator = hessian(made)
    operator.dense()
    prune.l1_unstructured(made.model[0], "weight", amount=0.5)
    chosen = hessian(made, parameters=["0.weight_orig"]).dense()
    pruned = operator.restricted("0.weight").dense()
    assert (chosen == 0).all(dim=0).sum() == 10
    assert_same_matrix(pruned, chosen)
