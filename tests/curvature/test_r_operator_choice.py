"""When the R-operator applies, and what is said and done where it does not."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from as_found import assert_as_found, snapshot
from cases import CASES, classes
from rule_cases import around, problem_of
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from gradscope.curvature import hessian
from gradscope.curvature.gradient_graph import exact_derivatives
from gradscope.curvature.r_operator import NoRule, RuledGraph, rules
from gradscope.curvature.r_operator.agreement import few_of
from gradscope.curvature.r_operator.pointwise import OfResult
from gradscope.problem import Problem


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


class Hooked(nn.Module):
    """Doubles the gradient on its way."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        x.register_hook(lambda gradient: 2 * gradient)
        return x


def with_parameter_hook() -> nn.Module:
    net = around(torch.tanh)
    net.below.weight.register_hook(lambda gradient: 2 * gradient)
    return net


def with_module_hook() -> nn.Module:
    net = around(torch.tanh)
    net.head.register_full_backward_hook(lambda module, taken, made: None)
    return net


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x[:, None])[0][:, 0]


FOREIGN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "function in Python": (lambda: around(Cube.apply), "no rule for CubeBackward"),
    "writing into a part": (
        lambda: around(lambda x: functional.pad(x[:, None], (1, 1), mode="circular")),
        "no rule for torch::autograd::CopySlices",
    ),
    "hook on a parameter": (with_parameter_hook, "a parameter has gradient hooks"),
    "hook on a module": (with_module_hook, "no rule for BackwardHookFunctionBackward"),
    "hook on a value": (lambda: around(Hooked()), "differs from one by double backward"),
    "checkpoint": (
        lambda: around(lambda x: checkpoint(torch.tanh, x, use_reentrant=False)),
        "hooks on what it saved, as checkpoints do",
    ),
    "another precision on the way": (
        lambda: around(lambda x: x.float().sin().double()),
        "works on torch.float32",
    ),
    "complex numbers": (lambda: around(lambda x: torch.fft.fft(x).abs()), "works on torch.complex128"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_has_no_rule_is_left_to_double_backward_with_the_reason(case: str) -> None:
    make, reason = FOREIGN[case]
    net = make()
    expected = hessian(problem_of(net), engine="double backward", check="none").dense()
    before = snapshot(net)
    with hessian(problem_of(net), check="none") as operator:
        torch.testing.assert_close(operator.dense(), expected, rtol=1e-12, atol=1e-12)
        assert operator.engine == "double backward"
        assert reason in operator.engine_reason
    with pytest.raises(ValueError, match=f"engine='rules' was asked for, but .*{reason}.*engine='auto'"):
        hessian(problem_of(net), engine="rules")
    assert_as_found(net, before)


def test_recurrent_cells_are_left_to_double_backward() -> None:
    operator = hessian(problem_of(Recurrent().double()))
    assert operator.engine == "double backward"


def test_a_layer_whose_second_derivative_torch_has_wrong_has_no_rule() -> None:
    net = nn.Sequential(weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))
    operator = hessian(classes(net, 4), check="none")
    operator.matvec(torch.ones(operator.shape[0]))
    assert operator.engine == "double backward"
    assert "WeightNorm" in operator.engine_reason


def test_a_wrong_rule_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(node: Any, wanted: Any) -> OfResult:
        return OfResult(node, wanted, lambda y: 1 - y * y, lambda y: -2.001 * y * (1 - y * y))

    expected = hessian(CASES["plain"](), engine="double backward").dense()
    monkeypatch.setitem(rules.RULES, "TanhBackward0", wrong)
    with hessian(CASES["plain"]()) as operator:
        torch.testing.assert_close(operator.dense(), expected)
        assert operator.engine == "double backward"
        assert "differs" in operator.engine_reason


def test_the_comparison_takes_few_examples_of_a_large_batch() -> None:
    sizes = []

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            return x

    net = nn.Sequential(Counting(), nn.Linear(4, 3))
    operator = hessian(classes(net, 4, sizes=(30, 30)), check="none")
    operator.matvec(torch.ones(operator.shape[0]))
    operator.matvec(torch.ones(operator.shape[0]))
    assert sizes == [4, 30, 30]
    assert operator.engine == "rules"
    sizes.clear()
    operator = hessian(classes(net, 4, sizes=(100, 4)), check="none")
    operator.matvec(torch.ones(operator.shape[0]))
    assert sizes == [8, 100, 4]
    sizes.clear()
    operator = hessian(classes(net, 4, sizes=(4, 5)), check="none")
    operator.matvec(torch.ones(operator.shape[0]))
    assert sizes == [4, 5]


def test_few_are_cut_from_dicts_as_well() -> None:
    taken = {"x": torch.arange(20), "mask": {"y": torch.ones(20, 2)}, "name": "a", "scale": torch.ones(3)}
    few = few_of(taken, torch.arange(20))
    assert few is not None
    inputs, targets = few
    assert inputs["x"].tolist() == targets.tolist() == [0, 1, 2, 3]
    assert inputs["mask"]["y"].shape == (4, 2)
    assert inputs["name"] == "a"
    assert len(inputs["scale"]) == 3
    assert few_of(taken, None) is None
    assert few_of([torch.ones(20)], torch.arange(20)) is None


def test_a_network_that_insists_on_its_batch_is_compared_on_the_whole() -> None:
    class Insisting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(10, 4)

    operator = hessian(classes(nn.Sequential(Insisting(), nn.Linear(4, 3)), 4, sizes=(10,)))
    assert operator.engine == "rules"


def test_nothing_is_freed_before_it_is_known_that_all_nodes_have_rules() -> None:
    problem = problem_of(around(Cube.apply))
    with exact_derivatives(problem.device):
        loss = problem.value(*problem.first_batch())
        with pytest.raises(NoRule, match="CubeBackward"):
            RuledGraph(loss, list(problem.parameters.values()))
        loss.backward()


def test_the_graph_is_freed_and_what_is_kept_is_counted() -> None:
    """A linear layer keeps what it took in and its cotangent; rectifiers keep nothing of their own."""
    net = nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 3))
    problem = classes(net, 4, sizes=(100,))
    with exact_derivatives(problem.device):
        loss = problem.value(*problem.first_batch())
        graph = RuledGraph(loss, list(problem.parameters.values()))
    parameters = sum(parameter.numel() for parameter in net.parameters())
    # Input, two activations, cotangents of the upper two layers; probabilities, their weights, targets; two numbers.
    floats = 100 * (4 + 50 + 50 + 50 + 3) + 100 * (3 + 1 + 1) + 2
    assert abs(graph.bytes - 8 * (floats + parameters)) <= 16
    with pytest.raises(RuntimeError, match="already been freed"):
        loss.backward()


def test_kept_memory_is_freed_on_closing() -> None:
    operator = hessian(CASES["attention"]())
    kept = [
        weakref.ref(tensor)
        for graph in operator._graphs
        for step in graph._plan.steps
        for tensor in step.rule.saved.values()
    ]
    assert kept
    gc.disable()
    try:
        operator.close()
        assert [tensor() for tensor in kept] == [None] * len(kept)
    finally:
        gc.enable()


def test_what_does_not_fit_is_streamed() -> None:
    operator = hessian(CASES["plain"](), budget_bytes=100)
    assert operator.retained is False
    assert operator.engine == "rules"
    expected = hessian(CASES["plain"](), engine="double backward").dense()
    torch.testing.assert_close(operator.dense(), expected, rtol=1e-12, atol=1e-12)


def test_products_in_single_precision_keep_channels_innermost() -> None:
    """The layout in which float32 convolutions are fast changes no number but by rounding."""
    problem = CASES["convolution"]()
    single = Problem(CASES["convolution"]().model.float(), problem.data)
    operator = hessian(single, engine="rules")
    saved = [step.rule.saved for step in operator._graphs[0]._plan.steps]
    images = [tensor for kept in saved for tensor in kept.values() if tensor.ndim == 4]
    assert images
    assert all(image.is_contiguous(memory_format=torch.channels_last) for image in images)
    expected = hessian(problem, engine="double backward").dense()
    torch.testing.assert_close(operator.dense(), expected, rtol=1e-4, atol=1e-6)


def test_parts_of_an_operator_choose_for_themselves() -> None:
    """A node without a rule that only other parameters feed does not matter."""
    net = nn.Sequential(nn.Linear(4, 4), Cubed(), nn.Linear(4, 3))
    operator = hessian(classes(net, 4))
    assert operator.engine == "double backward"
    head = operator.restricted("2")
    torch.testing.assert_close(head.dense(), hessian(classes(net, 4), parameters="2", engine="rules").dense())
    assert head.engine == "rules"


class Cubed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Cube.apply(x)


def test_engines_are_spelled_as_listed() -> None:
    with pytest.raises(ValueError, match="auto, rules, double backward"):
        hessian(CASES["plain"](), engine="fast")
