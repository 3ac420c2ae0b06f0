"""Numbers far below what float32 holds, in gradients by path length and in the gradient itself."""

import pytest
import torch
from networks import Residual
from torch import Tensor, nn

from gradscope.gradients.engines.choice import ENGINES
from gradscope.gradients.live import open_paths
from gradscope.gradients.paths import path_gradients
from gradscope.problem import Problem


class Shrunk(nn.Module):
    """A residual block whose skip is not the identity: s x + F(x)."""

    def __init__(self, skip: float, branch: nn.Module) -> None:
        super().__init__()
        self.skip, self.branch = skip, branch

    def forward(self, x: Tensor) -> Tensor:
        return x * self.skip + self.branch(x)


def problem_of(blocks: int, gain: float, skip: float = 1.0, dtype: torch.dtype = torch.float32) -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(4, 4) for _ in range(blocks)]
    for layer in layers:
        layer.weight.data *= gain
    branches = [nn.Sequential(layer, nn.Tanh()) for layer in layers]
    model = nn.Sequential(*[Residual(b) if skip == 1 else Shrunk(skip, b) for b in branches])
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    return Problem(model.to(dtype), (x.to(dtype), torch.zeros(2)), loss=lambda output, _: output.sum(dim=1))


def assert_each_to_its_own_size(found: Tensor, expected: Tensor, rows: int = 1) -> None:
    found, expected = found.flatten(0, rows - 1), expected.flatten(0, rows - 1)
    norms = expected.flatten(1).norm(dim=1)
    assert ((found - expected).flatten(1).norm(dim=1) <= 1e-4 * norms).all()


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "vmap"])
@pytest.mark.parametrize("lengths", [0, 3, 20, "all"])
def test_the_longest_paths_do_not_underflow(lengths, engine):
    found, expected = (
        path_gradients(problem_of(30, 1e-3, dtype=dtype), lengths, longest=True, engine=engine)
        for dtype in (torch.float32, torch.float64)
    )
    assert expected[-1].norm() < 1e-90
    assert_each_to_its_own_size(found, expected)


def test_a_batched_backward_refuses_what_would_vanish_in_it():
    with pytest.raises(ValueError, match="at most 30 lengths"):
        path_gradients(problem_of(31, 1e-3), 3, longest=True, engine="vmap")


def test_several_groups_and_single_paths_do_not_underflow_in_a_walk():
    masks = torch.eye(24).repeat(2, 1)[:25].cumsum(dim=0).clamp(max=1)
    found = []
    for dtype in (torch.float32, torch.float64):
        with open_paths(problem_of(24, 1e-3, dtype=dtype)) as paths:
            groups = paths.by_variable([place % 2 for place in range(24)], engine="walk")
            found.append((groups, paths.gated(masks, 1 - masks, engine="walk")))
    (groups, single), (groups_expected, single_expected) = found
    assert single_expected[-1].norm() < 1e-70
    assert_each_to_its_own_size(groups, groups_expected, rows=2)
    assert_each_to_its_own_size(single, single_expected)


def test_float32_within_a_network_whose_loss_is_float64_is_lifted_too():
    found, expected = (
        path_gradients(
            Problem(nn.Sequential(problem.model, Doubled()), problem.first_batch(), loss=problem.loss)
        )
        for problem in (problem_of(30, 1e-3), problem_of(30, 1e-3, dtype=torch.float64))
    )
    assert_each_to_its_own_size(found, expected)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double()


class Single(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float()


class Halved(nn.Module):
    """Its cotangents come in float16, which the powers of two of float32 would leave at infinity."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x.float()).half()


def test_float16_on_the_way_is_lifted_within_its_range():
    problem = problem_of(10, 0.02)
    blocks = [Halved(block.branch) for block in problem.model]
    half = nn.Sequential(*blocks, Single())
    x, zeros = problem.first_batch()
    with open_paths(Problem(half, (x, zeros), loss=problem.loss, forward=in_half)) as paths:
        found = [paths.graded(lengths, engine="walk") for lengths in (9, "all")]
        expected = paths.graded(engine="passes").gradients
    assert 0 < expected[-1].norm() < 1e-12
    for split in found:
        assert split.engine == "walk"
        assert split.gradients.isfinite().all()
        error = (split.gradients - expected[: len(split.gradients)]).flatten(1).norm(dim=1)
        assert (error <= 0.05 * expected.flatten(1).norm(dim=1)[: len(split.gradients)]).all()


def in_half(model: nn.Module, x: Tensor) -> Tensor:
    return model(x.half())


@pytest.mark.parametrize("engine", ["auto", "passes", "walk"])
@pytest.mark.parametrize(("gain", "skip", "blocks"), [(1e-2, 0.12, 45), (1e-3, 0.1, 60)])
def test_gradients_at_the_smallest_numbers_of_float32_are_no_change_of_the_network(
    gain, skip, blocks, engine
):
    problem = problem_of(blocks, gain, skip)
    found = path_gradients(problem, engine=engine)
    expected = path_gradients(problem_of(blocks, gain, skip, torch.float64))
    assert expected[0].norm() < 1e-38
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-43)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.complex64, "float64"])
def test_other_precisions_are_refused(precision):
    with pytest.raises(
        ValueError, match=r"precision is torch.float32 or torch.float64, got .*narrower numbers"
    ):
        path_gradients(problem_of(2, 0.5), precision=precision)
