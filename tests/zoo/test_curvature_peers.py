"""The curvature operators against curvlinops, hessian-eigenthings and PyHessian, where those are right."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CASES
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import gradscope as gs

pytestmark = pytest.mark.filterwarnings("default")

# What every peer understands: mean cross-entropy in eval mode. None of it has a layer norm, through which the
# Hessian of curvlinops 3.0.1, jvp(jacrev), is silently wrong with torch 2.13.
SHARED = [
    "plain",
    "residual",
    "in-place ReLU",
    "frozen layer",
    "tied weights",
    "batch norm running",
    "short last batch",
    "convolution",
    "attention",
]
# hessian-eigenthings gives every batch the same weight, whatever its size.
UNEQUAL = {"batch norm running", "short last batch"}
KINDS = ["hessian", "gauss_newton", "empirical_fisher"]


def batches_of(problem: gs.Problem) -> list[tuple[Tensor, Tensor]]:
    return [(inputs, targets) for inputs, targets in problem.batches()]


def parameters_of(problem: gs.Problem) -> list[nn.Parameter]:
    return [parameter for parameter in problem.model.parameters() if parameter.requires_grad]


def curvlinops(problem: gs.Problem, kind: str) -> Callable[[Tensor], Tensor]:
    tool: Any = pytest.importorskip("curvlinops")
    names = {"hessian": "Hessian", "gauss_newton": "GGN", "empirical_fisher": "EF"}
    operator = getattr(tool, f"{names[kind]}LinearOperator")(
        problem.model, nn.CrossEntropyLoss(), parameters_of(problem), batches_of(problem)
    )
    return lambda vector: operator @ vector


def hessian_eigenthings(problem: gs.Problem, kind: str) -> Callable[[Tensor], Tensor]:
    tool: Any = pytest.importorskip("hessian_eigenthings")
    loss, model, batches = nn.functional.cross_entropy, problem.model, batches_of(problem)
    if kind == "hessian":
        return tool.HessianOperator(model, batches, tool.supervised_loss(loss)).matvec
    if kind == "gauss_newton":
        of_output = tool.supervised_loss_of_output(loss)
        return tool.GGNOperator(model, batches, tool.supervised_forward, of_output).matvec
    return tool.EmpiricalFisherOperator(model, batches, tool.supervised_per_sample_loss(loss)).matvec


def pyhessian(problem: gs.Problem, kind: str) -> Callable[[Tensor], Tensor]:
    pytest.importorskip("pyhessian")
    module = importlib.import_module("pyhessian.hessian")
    tool = module.hessian(problem.model, nn.CrossEntropyLoss(), dataloader=batches_of(problem), cuda=False)

    def product(vector: Tensor) -> Tensor:
        sizes = [parameter.numel() for parameter in tool.params]
        pieces = [part.view_as(p) for part, p in zip(vector.split(sizes), tool.params, strict=True)]
        return torch.cat([part.flatten() for part in tool.dataloader_hv_product(pieces)[1]])

    return product


def assert_same(
    problem: gs.Problem, kind: str, peer: Callable[[gs.Problem, str], Callable[[Tensor], Tensor]]
) -> None:
    """Three products by us and by a peer, which is not told that fused attention has no second derivative."""
    problem.model.eval()
    with getattr(gs, kind)(problem) as operator, sdpa_kernel(SDPBackend.MATH):
        generator = torch.Generator().manual_seed(3)
        vectors = torch.randn(operator.shape[0], 3, generator=generator, dtype=torch.float64)
        ours = operator.matmat(vectors)
        product = peer(problem, kind)
        theirs = torch.stack([product(vector).detach() for vector in vectors.T], dim=1)
    torch.testing.assert_close(theirs, ours)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", SHARED)
def test_curvlinops_gives_the_same_products(case: str, kind: str) -> None:
    assert_same(CASES[case](), kind, curvlinops)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [case for case in SHARED if case not in UNEQUAL])
def test_hessian_eigenthings_gives_the_same_products(case: str, kind: str) -> None:
    assert_same(CASES[case](), kind, hessian_eigenthings)


@pytest.mark.parametrize("case", SHARED)
def test_pyhessian_gives_the_same_products(case: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using backward")
        assert_same(CASES[case](), "hessian", pyhessian)


@pytest.mark.parametrize("kind", KINDS)
def test_unequal_batches_are_one_problem(kind: str) -> None:
    """A peer that weights batches alike, given all examples in one, against us, given them in three."""
    split = CASES["short last batch"]()
    inputs, targets = (torch.cat(parts) for parts in zip(*batches_of(split), strict=True))
    whole = gs.Problem(split.model, (inputs, targets))
    assert_same(split, kind, lambda _, kind: hessian_eigenthings(whole, kind))
