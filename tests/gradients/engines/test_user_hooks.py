"""Hooks of the user's own are run by ordinary passes, however coarse the rounding in which they could hide."""

import pytest
import torch
from networks import Residual, mlp, stack
from torch import Tensor, nn

from gradscope.gradients.live import open_paths
from gradscope.problem import Problem


class Cast(nn.Module):
    """Once through bfloat16, which makes every comparison coarse."""

    def forward(self, x: Tensor) -> Tensor:
        return x.bfloat16().to(x.dtype)


class Changed(nn.Module):
    """Applies a function to its own output tensor in the forward pass, such as one that hooks it."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.0
        self.change(x)
        return x


class Redrawn(torch.autograd.Function):
    """Another gradient in every pass."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient * 2 * torch.rand_like(gradient)


class Redraw(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Redrawn.apply(x)


def problem_of(*before: nn.Module, dtype: torch.dtype = torch.float64) -> Problem:
    """Six blocks, of which the first two hold some more modules in their branches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = stack(lambda: Residual(mlp(4, 4, 4)), 6)
    blocks = [module for module in model if isinstance(module, Residual)]
    for block, module in zip(blocks, before, strict=False):
        block.branch = nn.Sequential(block.branch, module)
    generator = torch.Generator().manual_seed(5)
    batch = torch.randn(3, 4, generator=generator).to(dtype), torch.tensor([0, 2, 1])
    return Problem(model.to(dtype), batch)


def scaled(module: nn.Module) -> nn.Module:
    module.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * -1.05,))
    return module


def scaled_before(module: nn.Module) -> nn.Module:
    module.register_full_backward_pre_hook(lambda module, outputs: (outputs[0] * -1.05,))
    return module


def scaled_in_the_old_way(module: nn.Module) -> nn.Module:
    module.register_backward_hook(lambda module, inputs, outputs: (inputs[0] * 1.05,))
    return module


HOOKED = {
    "tensor": lambda: Changed(lambda x: x.register_hook(lambda gradient: gradient * -1.05)),
    "module": lambda: scaled(nn.Linear(4, 4)),
    "module, before": lambda: scaled_before(nn.Linear(4, 4)),
    "module, old": lambda: scaled_in_the_old_way(nn.Tanh()),
}


@pytest.mark.parametrize("hooked", HOOKED)
def test_hooks_do_not_hide_behind_one_cast(hooked):
    with open_paths(problem_of(Cast(), HOOKED[hooked]())) as paths:
        found = paths.graded()
        assert found.engine == "passes"
        torch.testing.assert_close(found.gradients.sum(dim=0), found.gradient, rtol=0.02, atol=1e-3)
        assert torch.equal(paths.moments(5)[0], paths.gated(torch.ones(1, 6))[0])
        with pytest.raises(
            RuntimeError, match=r"hooks on tensors or modules lie on the way.*engine='passes'"
        ):
            paths.graded(engine="walk")


def test_a_hook_on_a_parameter_of_small_gradient_is_run():
    problem = problem_of(dtype=torch.float32)
    first = next(module for module in problem.model if isinstance(module, Residual)).branch
    with torch.no_grad():
        first[2].weight.mul_(1e-6)
    first[0].bias.register_hook(lambda gradient: -3 * gradient)
    name = next(name for name, weight in problem.parameters.items() if weight is first[0].bias)
    with open_paths(problem, at="parameters") as paths:
        found, expected = paths.graded(), paths.graded(engine="passes").gradients[name]
        assert found.engine == "passes"
        assert 0 < expected.norm() < 1e-5
        torch.testing.assert_close(found.gradients[name], expected, rtol=1e-5, atol=1e-12)
    with open_paths(problem) as paths:
        assert paths.graded().engine == "walk"


def test_what_changes_no_gradient_is_walked():
    """A cast, a gradient retained, and a hook that runs only where gradients are accumulated."""
    problem = problem_of(Cast(), Changed(lambda x: x.retain_grad()))
    weight = next(iter(problem.parameters.values()))
    weight.register_post_accumulate_grad_hook(lambda weight: pytest.fail("not accumulated"))
    for at in ("input", "parameters"):
        with open_paths(problem, at=at) as paths:
            assert paths.graded().engine == "walk"


@pytest.mark.parametrize("engine", ["auto", "passes", "walk"])
@pytest.mark.parametrize("lengths", ["all", 1])
def test_what_draws_anew_in_each_pass_does_not_hide_behind_one_cast(engine, lengths):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with (
            open_paths(problem_of(Cast(), Redraw())) as paths,
            pytest.raises(RuntimeError, match=r"changes between backward passes|differ from one another"),
        ):
            paths.graded(lengths, engine=engine)


@pytest.mark.parametrize("engine", ["auto", "passes", "vmap"])
@pytest.mark.parametrize("lengths", ["all", 1])
def test_hooks_that_clip_have_no_parts(engine, lengths):
    clip = Changed(lambda x: x.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3)))
    with (
        open_paths(problem_of(clip)) as paths,
        pytest.raises(RuntimeError, match="is not linear"),
    ):
        paths.graded(lengths, engine=engine)
