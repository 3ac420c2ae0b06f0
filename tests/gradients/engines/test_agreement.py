"""How far a gradient may be from autograd's before it counts as another."""

import math
from types import SimpleNamespace

import pytest
import torch
from networks import NETWORKS
from torch import nn

from gradscope.gradients.engines.agreement import disagreement, disagreement_of_sum
from gradscope.gradients.engines.graph import LiveGraph, Target
from gradscope.problem import Problem


def graph_of(dtype: torch.dtype = torch.float32, narrow: torch.dtype | None = None, scale: float = 1.0):
    """The loss sum(x), sum(1e-3 y), whose gradients are ones and thousandths."""
    x, y = (torch.zeros(100, dtype=dtype, requires_grad=True) for _ in range(2))
    both = x + 1e-3 * y
    loss = (both if narrow is None else both.to(narrow).to(dtype)).sum() * scale
    places = {"x": x, "y": y}
    return LiveGraph(loss, tuple(Target(name, place, (100,), place.device) for name, place in places.items()))


def changed(graph: LiveGraph, *factors: float) -> float:
    return disagreement(graph, [g.double() * f for g, f in zip(graph.ordinary, factors, strict=True)])


@pytest.mark.parametrize(
    ("dtype", "narrow", "rounding", "refused"),
    [
        (torch.float64, None, 1e-14, 1e-12),
        (torch.float32, None, 1e-5, 3e-4),
        (torch.float32, torch.bfloat16, 0.03, 0.2),
        (torch.float64, torch.float16, 0.03, 0.2),
    ],
)
def test_only_rounding_is_allowed_however_coarse(dtype, narrow, rounding, refused):
    graph = graph_of(dtype, narrow)
    assert changed(graph, 1, 1) == 0
    assert changed(graph, 1 + rounding, 1) == 0
    assert changed(graph, 1 + refused, 1) == pytest.approx(refused)


def test_a_small_gradient_is_compared_for_itself():
    graph = graph_of()
    assert changed(graph, 1, 1 + 1e-5) == 0
    assert changed(graph, 1, 1.05) == pytest.approx(0.05)


def test_numbers_as_small_as_can_be_are_not_compared():
    graph = graph_of(scale=1e-44)
    assert changed(graph, 3, 0) == 0
    assert changed(graph_of(scale=1e-30), 3, 1) == pytest.approx(2)


def test_what_is_not_finite_differs_unless_the_gradient_is_not_either():
    assert changed(graph_of(), math.nan, 1) == math.inf
    assert math.isnan(changed(graph_of(scale=math.inf), 1, 1))


def test_something_differs_from_nothing():
    graph = graph_of(scale=0.0)
    assert disagreement(graph, [g.double() for g in graph.ordinary]) == 0
    assert disagreement(graph, [g.double() + 1 for g in graph.ordinary]) == math.inf


def test_parts_may_cancel():
    """The sum of (1e6, -1e6 + 1) is 1 to the rounding of 1e6."""
    graph = graph_of()
    parts = [torch.stack([1e6 * g.double(), (1.01 - 1e6) * g.double()]) for g in graph.ordinary]
    assert disagreement_of_sum(graph, parts) == 0
    assert disagreement(graph, [part.sum(dim=0) for part in parts]) == pytest.approx(0.01)


def test_products_in_tensor_float_are_as_coarse_as_they_are(monkeypatch):
    assert changed(graph_of(), 1.01, 1) > 0
    from gradscope.gradients.engines import agreement

    coarse, fine = SimpleNamespace(fp32_precision="tf32"), SimpleNamespace(fp32_precision="none")
    mkldnn = SimpleNamespace(matmul=coarse, conv=fine)
    monkeypatch.setattr(agreement.torch.backends, "mkldnn", mkldnn)
    assert changed(graph_of(), 1.01, 1) == 0
    assert changed(graph_of(torch.float64), 1.01, 1) > 0


@pytest.mark.parametrize("name", ["parallel transformer", "pre-activation"])
def test_float32_walks_of_honest_networks_are_far_inside(name, monkeypatch):
    """A tenth of what is allowed would do."""
    from gradscope.gradients.engines import agreement
    from gradscope.gradients.live import open_paths

    monkeypatch.setattr(agreement, "_OWN", agreement._OWN / 10)
    monkeypatch.setattr(agreement, "_ALL", agreement._ALL / 10)
    specimen = NETWORKS[name]
    model: nn.Module = specimen.build().float()
    x = specimen.inputs()
    problem = Problem(
        model, (x.float() if x.is_floating_point() else x, specimen.targets()), batch_norm="train"
    )
    with open_paths(problem, at="parameters") as paths:
        assert paths.graded(1, engine="walk").engine == "walk"
