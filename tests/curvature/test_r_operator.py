"""Every rule of the R-operator against double backward, on a network of a few units around one operation."""

from collections.abc import Sequence

import pytest
import torch
from cases import CASES
from rule_cases import LOSSES, OPERATIONS, around, problem_of
from torch import Tensor
from torch.autograd import grad

from gradscope.curvature import hessian
from gradscope.curvature.gradient_graph import exact_derivatives
from gradscope.curvature.r_operator import RuledGraph
from gradscope.curvature.r_operator.rules import RULES
from gradscope.problem import Problem


def product_by_double_backward(loss: Tensor, parameters: Sequence[Tensor], vector: Tensor) -> Tensor:
    first = grad(loss, parameters, create_graph=True, materialize_grads=True)
    slope = torch.cat([gradient.flatten() for gradient in first]) @ vector
    second = grad(slope, parameters, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in second])


def assert_rules_agree(problem: Problem, names: Sequence[str] | None = None) -> None:
    """Gradient and two products, for some or all parameters."""
    parameters = [p for name, p in problem.parameters.items() if names is None or name in names]
    for parameter in problem.model.parameters():
        parameter.requires_grad_(any(parameter is chosen for chosen in parameters))
    size = sum(parameter.numel() for parameter in parameters)
    with exact_derivatives(problem.device), problem.prepared():
        inputs, targets = problem.first_batch()
        graph = RuledGraph(problem.value(inputs, targets), parameters)
        for seed in (0, 1):
            vector = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            expected = product_by_double_backward(problem.value(inputs, targets), parameters, vector)
            total = torch.ones(size, dtype=torch.float64)
            graph.add_product(vector, total)
            torch.testing.assert_close(total - 1, expected, rtol=1e-12, atol=1e-12)
        gradient = grad(problem.value(inputs, targets), parameters, materialize_grads=True)
        torch.testing.assert_close(graph.gradient(), torch.cat([part.flatten() for part in gradient]))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_rules_of_an_operation(operation: str) -> None:
    net = around(*OPERATIONS[operation])
    names = dict(net.named_parameters())
    assert_rules_agree(problem_of(net))
    # Weights of its own alone, and all but them: tangents from one side only.
    own = [name for name in names if name.startswith("weights")]
    if own:
        assert_rules_agree(problem_of(around(*OPERATIONS[operation])), own)
        assert_rules_agree(problem_of(around(*OPERATIONS[operation])), [*own[:1], "below.weight"])
    assert_rules_agree(problem_of(around(*OPERATIONS[operation])), ["below.weight", "head.bias"])


@pytest.mark.parametrize("loss", LOSSES)
def test_the_rules_of_a_loss(loss: str) -> None:
    assert_rules_agree(problem_of(around(torch.sin), LOSSES[loss]))


def kinds_of_nodes(loss: Tensor) -> set[str]:
    found, stack = set(), [loss.grad_fn]
    seen = set(stack)
    while stack:
        node = stack.pop()
        found.add(node.name())
        new = {operand for operand, _ in node.next_functions if operand is not None} - seen
        seen |= new
        stack.extend(new)
    return found


def test_every_rule_is_met() -> None:
    met: set[str] = set()
    problems = [problem_of(around(*case)) for case in OPERATIONS.values()]
    problems += [problem_of(around(torch.sin), loss) for loss in LOSSES.values()]
    with exact_derivatives(torch.device("cpu")):
        for problem in problems:
            met |= kinds_of_nodes(problem.value(*problem.first_batch()))
    assert sorted(set(RULES) - met) == []


@pytest.mark.parametrize("case", CASES)
def test_dense_hessians_by_rules(case: str) -> None:
    """Whole problems, with all their batches; the dense Hessian by double backward is tested in `test_hessian`."""
    with (
        hessian(CASES[case](), engine="rules") as ruled,
        hessian(CASES[case](), engine="double backward") as taped,
    ):
        torch.testing.assert_close(ruled.dense(), taped.dense(), rtol=1e-12, atol=1e-12)
        assert ruled.engine == "rules"
        assert hessian(CASES[case]()).engine == "rules"
