"""What the checks on construction catch, and whether they name it and the remedy."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from as_found import assert_as_found, snapshot
from cases import CASES, classes, plain_net
from curvature_cases import CURVATURE_CASES
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from gradscope.curvature import empirical_fisher, gauss_newton, hessian
from gradscope.problem import Problem
from tests.curvature.layered import between
from tests.curvature.references import assert_same_matrix, dense_hessian

KINDS = (
    *("plain", "in-place ReLU", "tied weights", "unused parameter", "batch norm frozen", "batch norm train"),
    *("embedding", "LSTM", "transformer encoder", "Huber"),
)


@pytest.mark.parametrize("case", KINDS)
def test_the_full_check_passes_what_is_right(case: str) -> None:
    problem = CURVATURE_CASES[case]()
    before = snapshot(problem.model)
    hessian(problem, check="full")
    assert_as_found(problem.model, before)


def test_the_full_check_sees_float32_models_in_double() -> None:
    problem = CASES["residual"]()
    single = Problem(copy.deepcopy(problem.model).float(), problem.data)
    operator = hessian(single, check="full")
    assert operator.dtype == torch.float32
    torch.testing.assert_close(operator.dense(), dense_hessian(problem), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [hessian, gauss_newton, empirical_fisher])
def test_random_modules_are_named(make: Callable[..., Any]) -> None:
    problem = between(lambda x: nn.functional.dropout(x, 0.5, training=True))
    with pytest.raises(
        ValueError, match=r"random even in eval mode.*: 1 \(Applied\).*Switch the randomness off"
    ):
        make(problem)


def test_stochastic_depth_and_noise_are_named() -> None:
    class Depth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.bernoulli(torch.full((len(x), 1), 0.5, dtype=x.dtype)) * self.branch(x)

    with pytest.raises(ValueError, match=r"1 \(Depth\) gave another output"):
        hessian(between(Depth()))
    with pytest.raises(ValueError, match=r"1 \(Applied\) gave another output"):
        hessian(between(lambda x: x + 0.1 * torch.randn_like(x)))


def test_a_random_loss_is_told_from_a_random_module() -> None:
    problem = CASES["plain"]()
    noisy = Problem(problem.model, problem.data, lambda out, y: (out * torch.rand_like(out)).sum(dim=1))
    with pytest.raises(ValueError, match="between them or in the loss"):
        hessian(noisy)


def test_a_shuffling_loader_that_drops_examples_is_named() -> None:
    inputs, targets = torch.randn(11, 4, dtype=torch.float64), torch.randint(0, 3, (11,))
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=4, shuffle=True, drop_last=True)
    with pytest.raises(ValueError, match=r"DataLoader shuffles \(RandomSampler\).*shuffle=False"):
        hessian((plain_net().double(), loader))


def test_a_shuffling_loader_whose_batches_have_statistics_is_named() -> None:
    torch.manual_seed(0)
    inputs, targets = torch.randn(12, 4, dtype=torch.float64), torch.randint(0, 3, (12,))
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=4, shuffle=True)
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    with pytest.raises(ValueError, match=r"statistics of the batch.*list\(loader\)"):
        hessian(Problem(net, loader, batch_norm="train"))


def test_augmented_data_is_named() -> None:
    class Jittered:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            yield torch.randn(5, 4, dtype=torch.float64), torch.zeros(5, dtype=torch.long)

    with pytest.raises(ValueError, match=r"different on each pass.*list\(loader\)"):
        hessian((plain_net().double(), Jittered()))


def test_batch_normalisation_in_train_mode_moves_no_buffers() -> None:
    problem = CASES["batch norm train"]()
    problem.model.train()
    before = snapshot(problem.model)
    hessian(problem, check="full", budget_bytes=0).matvec(torch.ones(53))
    assert_as_found(problem.model, before)


def test_spectral_norm_is_held_still() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))
    problem = classes(net, 4)
    net.train()
    before = snapshot(net)
    operator = hessian(problem, check="full")
    assert_same_matrix(operator.dense(), dense_hessian(problem))
    assert_as_found(net, before)


@pytest.mark.parametrize("layer", ["parametrization", "hook", "convolution"])
def test_weight_norm_is_refused_by_the_symmetry_check(layer: str) -> None:
    """Only the block of the direction v by itself is wrong, and there the Hessian is not symmetric."""
    torch.manual_seed(0)
    if layer == "convolution":
        layers = [parametrizations.weight_norm(nn.Conv2d(1, 2, 3)), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)]
        problem = classes(nn.Sequential(*layers), 1, 4, 4)
    else:
        with pytest.warns(FutureWarning) if layer == "hook" else torch.enable_grad():
            norm = nn.utils.weight_norm if layer == "hook" else parametrizations.weight_norm
            problem = classes(nn.Sequential(norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)), 4)
    with pytest.raises(
        ValueError, match=r"symmetric.*0 is parametrised.*weight_norm is wrong.*plain operations"
    ):
        hessian(problem)
    hessian(problem, parameters=["*bias"])
    empirical_fisher(problem)


def test_weight_norm_by_hook_cannot_be_copied_for_the_full_check() -> None:
    with pytest.warns(FutureWarning):
        layer = nn.utils.weight_norm(nn.Linear(4, 5))
    problem = classes(nn.Sequential(layer, nn.Tanh(), nn.Linear(5, 3)), 4)
    with pytest.raises(ValueError, match=r"cannot be copied.*check='cheap'"):
        gauss_newton(problem, check="full")


def test_checkpoints_without_reentry_are_right_and_others_refused() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(5, 5), nn.Tanh()).double()
    problem = between(lambda x: checkpoint(inner, x, use_reentrant=False))
    problem.model.add_module("inner", inner)
    problem.forward = lambda model, x: model[2](model[1](model[0](x)))
    assert_same_matrix(hessian(problem, check="full").dense(), dense_hessian(problem))
    again = between(lambda x: checkpoint(inner, x, use_reentrant=True))
    with pytest.raises(ValueError, match="use_reentrant=False"):
        hessian(again)


def test_compiled_modules_are_refused() -> None:
    compiled = classes(torch.compile(nn.Linear(4, 3), backend="aot_eager"), 4)
    try:
        with pytest.raises(ValueError, match="_orig_mod"):
            hessian(compiled)
    finally:
        torch.compiler.reset()


@pytest.mark.parametrize(
    ("function", "remedy"),
    [
        (lambda x: torch.cdist(x, torch.ones(5, 5, dtype=x.dtype)), "Write distances as"),
        (
            lambda x: x[:, None] + nn.functional.embedding_bag(_BAGS, x, mode="mean")[:, None],
            "nn.EmbeddingBag",
        ),
    ],
    ids=["cdist", "embedding bag"],
)
def test_operations_without_a_second_derivative_are_named(function: Any, remedy: str) -> None:
    problem = between(lambda x: function(x).reshape(len(x), -1)[:, :5])
    with pytest.raises(ValueError, match=f"second derivative that torch does not have.*{remedy}"):
        hessian(problem)


_BAGS = torch.zeros(7, 2, dtype=torch.long)


def test_losses_without_a_second_derivative_are_named() -> None:
    problem = CASES["plain"]()
    margins = Problem(problem.model, problem.data, nn.MultiMarginLoss())
    with pytest.raises(ValueError, match=r"multi_margin.*Write the loss with relu"):
        hessian(margins)

    def alignments(output: Tensor, target: Tensor) -> Tensor:
        steps = output.log_softmax(dim=1)[None].repeat(4, 1, 1)
        ones = torch.ones(len(output), dtype=torch.long)
        return nn.functional.ctc_loss(steps, ones[:, None], 4 * ones, ones, reduction="none")

    with pytest.raises(ValueError, match=r"ctc.*Use a loss written in differentiable operations"):
        hessian(Problem(problem.model, problem.data, alignments))


def test_grid_sample_has_a_second_derivative() -> None:
    generator = torch.Generator().manual_seed(0)
    grid = torch.rand(7, 2, 2, 2, generator=generator, dtype=torch.float64)

    class Sampled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.grid_sample(x, grid, align_corners=False)

    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 2), nn.Tanh(), Sampled(), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)]
    hessian(classes(nn.Sequential(*layers), 1, 4, 4), check="full")


def test_losses_that_are_not_of_each_example_are_refused() -> None:
    problem = CASES["plain"]()
    with pytest.raises(ValueError, match=r"one value per example, shape \[7\]"):
        hessian(Problem(problem.model, problem.data, lambda out, y: nn.functional.cross_entropy(out, y)))


def test_what_is_not_finite_is_named() -> None:
    problem = CASES["plain"]()
    batch = problem.data[0]
    spoilt = Problem(problem.model, [batch, (torch.full_like(batch[0], torch.inf), batch[1])])
    with pytest.raises(FloatingPointError, match="inputs of batch 1 are not finite"):
        hessian(spoilt)
    with pytest.raises(FloatingPointError, match=r"output of 1 \(Applied\) is the first"):
        hessian(between(lambda x: x.log()))
    with pytest.raises(FloatingPointError, match=r"outputs are finite.*a square root at 0"):
        hessian(between(lambda x: (x - x.detach()).square().sqrt()))
    with torch.no_grad():
        problem.model[0].weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"parameters 0\.weight are not finite"):
        gauss_newton(problem)


def test_a_check_costs_a_gradient_and_two_products() -> None:
    """Forward passes: one of the graph that is kept, and one of the second pass."""
    calls = []
    problem = between(lambda x: (calls.append(1), x.tanh())[1])
    hessian(problem, engine="double backward")
    assert len(calls) == 2
    calls.clear()
    hessian(problem, check="none")
    assert not calls
