"""The Hessian operator against the Hessian itself, formed entry by entry."""

from functools import cache

import numpy
import pytest
import torch
from as_found import assert_as_found, snapshot
from cases import CASES, Residual, classes, plain_net
from curvature_cases import CURVATURE_CASES
from torch import Tensor, nn
from torch.autograd import grad
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from gradscope.curvature import hessian
from gradscope.problem import Problem
from tests.curvature.references import assert_same_matrix, dense_hessian


@cache
def expected(case: str) -> Tensor:
    return dense_hessian(CURVATURE_CASES[case]())


@pytest.mark.parametrize("case", CURVATURE_CASES)
def test_products_match_the_dense_hessian(case: str) -> None:
    problem, matrix = CURVATURE_CASES[case](), expected(case)
    with hessian(problem, engine="double backward") as operator:
        assert operator.retained
        assert_same_matrix(operator.dense(), matrix)
        vectors = torch.randn(len(matrix), 3, dtype=torch.float64)
        torch.testing.assert_close(operator.matmat(vectors), matrix @ vectors)
        torch.testing.assert_close(operator.matvec(vectors[:, 0]), matrix @ vectors[:, 0])
        torch.testing.assert_close(operator.quadratic(vectors[:, 0]), vectors[:, 0] @ matrix @ vectors[:, 0])
    assert_same_matrix(matrix, matrix.T)
    with hessian(problem, budget_bytes=0, check="none") as operator:
        torch.testing.assert_close(operator.matmat(vectors), matrix @ vectors)
        assert operator.retained is False


@pytest.mark.parametrize("case", CURVATURE_CASES)
def test_products_match_differences_of_the_gradient(case: str) -> None:
    """Of fourth order; frozen statistics of a batch cannot be held still by differences."""
    problem = CURVATURE_CASES[case]()
    if "frozen" in problem.batch_norm_name:
        problem.batch_norm = "train"
    operator = hessian(problem, check="none")
    vector = torch.randn(operator.shape[0], dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    vector /= vector.norm()
    near, far = operator.by_differences(vector, 1e-4), operator.by_differences(vector, 2e-4)
    product = operator.matvec(vector)
    torch.testing.assert_close((4 * near - far) / 3, product, rtol=0, atol=1e-7 * product.abs().max().item())


@pytest.mark.parametrize("budget_bytes", [2**30, 0], ids=["retained", "streaming"])
@pytest.mark.parametrize("case", ["plain", "batch norm train", "batch norm running", "frozen layer"])
def test_the_model_is_left_as_found(case: str, budget_bytes: int) -> None:
    problem = CASES[case]()
    problem.model[0].weight.grad = torch.ones_like(problem.model[0].weight)
    before = snapshot(problem.model)
    operator = hessian(problem, budget_bytes=budget_bytes)
    assert_as_found(problem.model, before)
    operator.matvec(torch.ones(operator.shape[0]))
    assert_as_found(problem.model, before)
    operator.close()
    assert_as_found(problem.model, before)


def test_the_model_is_left_as_found_when_interrupted_in_mid_product() -> None:
    class Interrupted(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 4:
                raise KeyboardInterrupt
            return x

    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), Interrupted(), nn.Linear(5, 3))
    problem = classes(net, 4, sizes=(4, 3), batch_norm="train")
    before = snapshot(net)
    operator = hessian(problem, budget_bytes=0)
    with pytest.raises(KeyboardInterrupt):
        operator.matvec(torch.ones(operator.shape[0]))
    assert_as_found(net, before)


def test_batches_are_weighted_by_their_examples() -> None:
    problem = CASES["short last batch"]()
    inputs = torch.cat([batch[0] for batch in problem.data])
    targets = torch.cat([batch[1] for batch in problem.data])
    whole = Problem(problem.model, (inputs, targets))
    torch.testing.assert_close(hessian(problem).dense(), dense_hessian(whole))


def test_weight_decay_adds_to_the_diagonal() -> None:
    problem = CASES["plain"]()
    shifted = hessian(problem, weight_decay=0.3).dense()
    size = len(shifted)
    torch.testing.assert_close(shifted, dense_hessian(problem) + 0.3 * torch.eye(size, dtype=torch.float64))


def test_changed_parameters_are_seen() -> None:
    problem = CASES["plain"]()
    operator = hessian(problem)
    assert operator.retained
    with torch.no_grad():
        problem.model[0].weight.mul_(1.5)
    torch.testing.assert_close(operator.dense(), dense_hessian(problem))
    problem.model[2].weight.data.mul_(0.5)
    torch.testing.assert_close(operator.dense(), dense_hessian(problem))
    problem.model[0].weight.requires_grad_(False)
    assert operator.matvec(torch.ones(operator.shape[0])).isfinite().all()


def test_changed_running_statistics_are_seen() -> None:
    problem = CASES["batch norm running"]()
    operator = hessian(problem)
    problem.model[1].running_var.mul_(4.0)
    torch.testing.assert_close(operator.dense(), dense_hessian(problem))


def test_parameters_are_selected_by_name_glob_module_and_function() -> None:
    problem = CASES["residual"]()
    names = list(problem.parameters)
    sizes = [p.numel() for p in problem.parameters.values()]
    whole = dense_hessian(problem)
    owner = torch.tensor([index for index, size in enumerate(sizes) for _ in range(size)])

    def part(*chosen: str) -> Tensor:
        rows = torch.tensor([names[index] in chosen for index in owner])
        return whole[rows][:, rows]

    torch.testing.assert_close(hessian(problem, parameters="2.weight").dense(), part("2.weight"))
    torch.testing.assert_close(hessian(problem, parameters="2").dense(), part("2.weight", "2.bias"))
    first_block = [name for name in names if name.startswith("0.")]
    torch.testing.assert_close(hessian(problem, parameters="0.branch.*").dense(), part(*first_block))
    biases = [name for name in names if name.endswith("bias")]
    chosen = hessian(problem, parameters=lambda name, parameter: parameter.ndim == 1)
    torch.testing.assert_close(chosen.dense(), part(*biases))
    two = hessian(problem, parameters=["2.bias", "0.branch.0"])
    torch.testing.assert_close(two.dense(), part("0.branch.0.weight", "0.branch.0.bias", "2.bias"))
    with pytest.raises(ValueError, match=r"There are: 0\.branch\.0\.weight"):
        hessian(problem, parameters="blocks.*")
    with pytest.raises(ValueError, match="at least one parameter"):
        hessian(problem, parameters=lambda name, parameter: False)


def test_a_linear_loss_has_a_zero_hessian() -> None:
    problem = Problem(nn.Linear(3, 1).double(), (torch.randn(4, 3), torch.zeros(4)), lambda out, _: out[:, 0])
    torch.testing.assert_close(hessian(problem).dense(), torch.zeros(4, 4, dtype=torch.float64))


def test_a_loss_of_none_of_the_parameters_has_a_zero_hessian() -> None:
    problem = hessian(CASES["unused parameter"](), parameters="unused")
    torch.testing.assert_close(problem.dense(), torch.zeros(6, 6, dtype=torch.float64))


def test_products_work_where_gradients_are_off() -> None:
    problem = CASES["plain"]()
    expected = dense_hessian(problem)
    with torch.no_grad():
        torch.testing.assert_close(hessian(problem, budget_bytes=0).dense(), expected)


def test_a_bare_pair_is_a_problem() -> None:
    problem = CASES["plain"]()
    torch.testing.assert_close(hessian((problem.model, problem.data)).dense(), dense_hessian(problem))


def test_a_shuffling_loader_is_harmless_where_order_does_not_matter() -> None:
    inputs, targets = torch.randn(10, 4, dtype=torch.float64), torch.randint(0, 3, (10,))
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=4, shuffle=True)
    net = plain_net().double()
    expected = dense_hessian(Problem(net, (inputs, targets)))
    torch.testing.assert_close(hessian((net, loader), budget_bytes=0).dense(), expected)


def test_bad_requests_say_what_to_do() -> None:
    problem = CASES["plain"]()
    with pytest.raises(ValueError, match="cheap, full, none"):
        hessian(problem, check="thorough")
    operator = hessian(problem)
    with pytest.raises(ValueError, match=r"one vector of shape \[64\]"):
        operator.matvec(torch.ones(3))
    with pytest.raises(ValueError, match=r"shape \[64, k\]"):
        operator.matmat(torch.ones(3, 2))
    batch_normed = classes(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), 4, batch_norm="own")
    with pytest.raises(ValueError, match="not a loss that has a Hessian"):
        hessian(batch_normed)
    frozen = plain_net().requires_grad_(False)
    with pytest.raises(ValueError, match="requires_grad"):
        hessian(classes(frozen, 4))
    mixed = nn.Sequential(nn.Linear(4, 3).double(), nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"one dtype.*torch.float32 on cpu, torch.float64 on cpu"):
        hessian(Problem(mixed, (torch.randn(4, 4), torch.zeros(4, dtype=torch.long))))
    with torch.no_grad():
        problem.model[0].weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="finite loss"):
        hessian(problem)


def test_large_operators_are_not_formed_unasked() -> None:
    net = nn.Sequential(nn.Linear(4, 800), nn.Tanh(), nn.Linear(800, 3))
    operator = hessian(classes(net, 4), check="none")
    with pytest.raises(ValueError, match="allow_large=True"):
        operator.dense()


def test_a_product_on_kept_graphs_costs_two_gradients_of_arithmetic() -> None:
    """The limit of the reference sheet, 4.1: six passes over the weights, where a gradient takes three."""
    layers = [nn.Conv2d(3, 8, 3, padding=1), *[nn.Conv2d(8, 8, 3, padding=1) for _ in range(5)], nn.Flatten()]
    problem = classes(nn.Sequential(*layers, nn.Linear(8 * 36, 3)), 3, 6, 6)
    operator = hessian(problem)
    vector = torch.ones(operator.shape[0])
    ((inputs, targets),) = problem.batches()
    with FlopCounterMode(display=False) as product:
        operator.matvec(vector)
    with FlopCounterMode(display=False) as gradient:
        grad(problem.value(inputs, targets), list(problem.parameters.values()))
    assert 1.9 < product.get_total_flops() / gradient.get_total_flops() < 2.1


def test_freed_graphs_leave_no_memory_behind() -> None:
    import gc
    import weakref

    problem = CASES["attention"]()
    operator = hessian(problem)
    graphs = [weakref.ref(graph.gradients[0]) for graph in operator._graphs]
    gc.disable()
    try:
        operator.close()
        assert [graph() for graph in graphs] == [None] * len(graphs)
    finally:
        gc.enable()


def test_zero_initialised_pairs_couple_only_within_their_block() -> None:
    """At zero weights all curvature sits between the two layers of one block (reference sheet 1.2)."""
    blocks = [
        Residual(nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False))) for _ in range(2)
    ]
    net = nn.Sequential(*blocks)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    data = (torch.randn(9, 3), torch.randn(9, 3))
    problem = Problem(net.double(), data, "half_squared_error")
    for layer in ("0.branch.0", "0.branch.1", "1.branch.0"):
        assert hessian(problem, parameters=layer).dense().abs().max() == 0
    assert hessian(problem, parameters="0.*").dense().abs().max() > 0
    between = hessian(problem, parameters=["0.branch.0", "1.branch.1"]).dense()
    assert between.abs().max() == 0


def test_scipy_may_hand_over_reversed_arrays() -> None:
    """Their strides are negative, which tensors know nothing of."""
    operator = hessian(CASES["plain"]())
    vector = numpy.arange(operator.shape[0], dtype=float)
    expected = operator.dense().numpy() @ vector[::-1]
    numpy.testing.assert_allclose(operator.to_scipy() @ vector[::-1], expected, atol=1e-12)
