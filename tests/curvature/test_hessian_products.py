"""What one product with the Hessian is, and what it costs, by every engine."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from cases import CASES
from rule_cases import around, problem_of
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gradscope.curvature import hessian
from gradscope.curvature.r_operator import RuledGraph
from gradscope.nets import build
from gradscope.problem import Problem

ENGINES = ["rules", "double backward"]


def dense_hessian(problem: Problem) -> Tensor:
    """By twofold torch.autograd.grad, one row at a time."""
    parameters = [p for p in problem.model.parameters() if p.requires_grad]
    with problem.prepared(), sdpa_kernel(SDPBackend.MATH):
        loss = sum(problem.value(inputs, targets) for inputs, targets in problem.batches())
        first = grad(loss, parameters, create_graph=True, materialize_grads=True)
        rows = []
        for slope in torch.cat([g.flatten() for g in first]):
            second = [torch.zeros_like(p) for p in parameters]
            if slope.requires_grad:
                second = grad(slope, parameters, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([g.flatten() for g in second]))
    return torch.stack(rows)


@pytest.mark.parametrize("case", CASES)
def test_every_engine_gives_the_dense_hessian(case: str) -> None:
    """T7 of the reference sheet, batch normalisation in all its meanings among the cases."""
    expected = dense_hessian(CASES[case]())
    vectors = torch.randn(len(expected), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for engine in ENGINES:
        for budget_bytes in (2**30, 0):
            problem = CASES[case]()
            before = snapshot(problem.model)
            with hessian(problem, engine=engine, budget_bytes=budget_bytes, check="none") as operator:
                torch.testing.assert_close(
                    operator.matmat(vectors), expected @ vectors, rtol=1e-12, atol=1e-12
                )
                torch.testing.assert_close(
                    operator.matvec(vectors[:, 0]), expected @ vectors[:, 0], rtol=1e-12, atol=1e-12
                )
                assert operator.engine == engine
                assert operator.products == 4
            assert_as_found(problem.model, before)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_that_was_used_is_left_as_found(engine: str) -> None:
    problem = CASES["batch norm train"]()
    used(problem.model)
    before = snapshot(problem.model)
    with hessian(problem, engine=engine) as operator:
        operator.matvec(torch.ones(operator.shape[0]))
        assert_as_found(problem.model, before)
    assert_as_found(problem.model, before)


def test_the_model_is_left_as_found_when_a_product_by_rules_is_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    problem = CASES["batch norm train"]()
    before = snapshot(problem.model)
    operator = hessian(problem, budget_bytes=0)
    monkeypatch.setattr(RuledGraph, "add_product", interrupted)
    with pytest.raises(KeyboardInterrupt):
        operator.matvec(torch.ones(operator.shape[0]))
    assert_as_found(problem.model, before)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_mean_over_batches_is_the_whole_where_examples_do_not_mix(engine: str) -> None:
    problem = CASES["batch norm running"]()
    whole = Problem(
        problem.model,
        (torch.cat([x for x, _ in problem.data]), torch.cat([y for _, y in problem.data])),
        batch_norm="running",
    )
    torch.testing.assert_close(
        hessian(problem, engine=engine).dense(), hessian(whole, engine=engine).dense(), rtol=1e-12, atol=1e-12
    )


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations of products of matrices, those that add to their result included."""

    def of_product(first: Any, a: tuple[int, ...], b: tuple[int, ...], *rest: Any, **options: Any) -> int:
        return 2 * a[0] * a[1] * b[1]

    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: of_product}) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("net", ["resnet20", "mlp"])
def test_a_product_on_kept_graphs_costs_what_the_limit_allows(net: str, engine: str) -> None:
    """T16 of the reference sheet: two gradients on ResNet-20, fewer where the first of few layers is wide."""
    generator = torch.Generator().manual_seed(0)
    if net == "resnet20":
        model: nn.Module = build("resnet", depth=20, seed=0).eval()
        inputs, limit = torch.randn(1, 3, 32, 32, generator=generator), 2.0
    else:
        model = nn.Sequential(nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
        inputs = torch.randn(2, 192, generator=generator)
        # The first layer takes one product where a gradient takes one more, the others four where it takes three.
        first, others = 192 * 32, 32 * 32 + 32 * 4
        limit = (2 * first + 6 * others) / (2 * first + 3 * others)
    problem = Problem(model, (inputs, torch.zeros(len(inputs), dtype=torch.long)), batch_norm="frozen")
    operator = hessian(problem, engine=engine, check="none")
    vector = torch.ones(operator.shape[0])
    operator.matvec(vector)
    with problem.prepared():
        gradient = operations(lambda: grad(problem.value(*problem.first_batch()), list(model.parameters())))
    assert operations(lambda: operator.matvec(vector)) / gradient == pytest.approx(limit, rel=0.01)


def test_kept_batches_are_not_run_again() -> None:
    calls = []

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return torch.tanh(x)

    problem = problem_of(around(Counting()))
    for engine in ENGINES:
        operator = hessian(problem, engine=engine, check="none")
        calls.clear()
        for _ in range(4):
            operator.matvec(torch.ones(operator.shape[0]))
        assert calls == [5]
        assert operator.products == 4
        streaming = hessian(problem, engine=engine, check="none", budget_bytes=0)
        calls.clear()
        streaming.matmat(torch.ones(operator.shape[0], 4))
        streaming.matvec(torch.ones(operator.shape[0]))
        assert calls == [5, 5]
