"""Wrong second derivatives of custom autograd functions, and of products made another way, are caught."""

from typing import Any

import pytest
import torch
from cases import CASES
from curvature_cases import CURVATURE_CASES
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gradscope.curvature import HessianOperator, hessian
from gradscope.curvature.gradient_graph import GradientGraph, split
from gradscope.curvature.request import checked
from tests.curvature.layered import Applied, between
from tests.curvature.references import assert_same_matrix, dense_hessian


class HalfCurved(torch.autograd.Function):
    """A square whose second derivative is half of what it should be, and symmetric."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (x + x.detach())


class Once(torch.autograd.Function):
    """A tangent that says that its gradient has no derivative, and which torch then leaves out silently."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (1 - x.tanh().square())


class Right(torch.autograd.Function):
    """A square with the right derivatives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient * ctx.saved_tensors[0]


@pytest.mark.parametrize("function", [HalfCurved, Once])
def test_wrong_second_derivatives_of_functions_of_ones_own_are_named(function: Any) -> None:
    with pytest.raises(ValueError, match=rf"custom autograd functions \({function.__name__}\).*detach"):
        hessian(between(function.apply))


class ReverseOverForward(HessianOperator):
    """Products by grad(jvp), which torch 2.13 gets wrong through layer normalisation."""

    def graph(self, inputs: Any, targets: Any) -> Any:
        parameters = list(self.parameters.values())
        graph = GradientGraph(self.problem.value(inputs, targets), parameters)

        def value(*tensors: Tensor) -> Tensor:
            swapped = dict(zip(self.parameters, tensors, strict=True))
            outputs = torch.func.functional_call(self.problem.model, swapped, (inputs,))
            return nn.functional.cross_entropy(outputs, targets)

        def add_product(vector: Tensor, total: Tensor, *, last: bool = False) -> None:
            along = tuple(split(vector, parameters))
            everywhere = tuple(range(len(parameters)))

            def slope(*tensors: Tensor) -> Tensor:
                return torch.func.jvp(value, tensors, along)[1]

            products = torch.func.grad(slope, argnums=everywhere)(*parameters)
            total.add_(torch.cat([product.flatten() for product in products]).detach())

        graph.add_product = add_product  # type: ignore[method-assign]
        return graph


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_products_by_reverse_over_forward_are_refused_through_layer_norm() -> None:
    problem = CURVATURE_CASES["layer norm"]()
    operator = ReverseOverForward(problem, problem.parameters)
    with pytest.raises(ValueError, match=r"symmetric|central differences"):
        checked(operator, "full")
    plain = CASES["plain"]()
    right = checked(ReverseOverForward(plain, plain.parameters), "full")
    assert_same_matrix(right.dense(), dense_hessian(plain))


def test_right_functions_of_ones_own_pass() -> None:
    problem = between(Right.apply)
    assert_same_matrix(hessian(problem).dense(), dense_hessian(problem))


def test_functions_that_do_not_run_in_float64_are_warned_of() -> None:
    class Single(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            if x.dtype != torch.float32:
                raise RuntimeError("this kernel takes float32 only")
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), Applied(Single.apply), nn.Linear(5, 3))
    with pytest.warns(UserWarning, match=r"\(Single\).*could not be tried.*float32 only"):
        hessian((net, (torch.randn(6, 4), torch.randint(0, 3, (6,)))))
