"""Graphs that are hard to walk: walked rightly, or handed over to ordinary passes with a word why."""

import pytest
import torch
from networks import NETWORKS, Residual, mlp, stack
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gradscope.gradients.live import open_paths
from gradscope.gradients.split import Paths
from gradscope.problem import Problem


class Cubed(torch.autograd.Function):
    """Written in Python, with an argument that is no tensor and a result without gradient."""

    @staticmethod
    def forward(ctx, value: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(value)
        ctx.factor = factor
        sign = value.sign()
        ctx.mark_non_differentiable(sign)
        return factor * value**3, sign

    @staticmethod
    def backward(ctx, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
        (value,) = ctx.saved_tensors
        return 3 * ctx.factor * value**2 * gradient, None


class Counting(torch.autograd.Function):
    """Through numpy, so that it cannot run on a batch of cotangents."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return torch.from_numpy(gradient.numpy() * 0.5)


def pieces(x: Tensor) -> Tensor:
    first, second, third, fourth = x.unbind(1)
    return torch.stack([first * second, second, third.exp(), fourth * first], 1)


def halves(x: Tensor) -> Tensor:
    first, second = x.split(2, 1)
    low, high = (first * second).chunk(2, 1)
    return torch.cat([low, high, second], 1).tanh()


def sorted_best(x: Tensor) -> Tensor:
    best, _ = x.topk(2, dim=1)
    largest, _ = x.max(dim=1, keepdim=True)
    return torch.cat([best, largest, x.sort(dim=1)[0][:, :1]], 1)


def written_in_place(x: Tensor) -> Tensor:
    out = x * 2
    out[:, 1:3] = out[:, :2].tanh()
    out[:, 0].mul_(x[:, 3])
    return out


def broadcast(x: Tensor) -> Tensor:
    return x * x.mean(dim=1, keepdim=True) + x[:1] / (1 + x.square().sum()) - x.mean()


def used_twice(x: Tensor) -> Tensor:
    return x * x + x / (2 + x.abs()) + torch.maximum(x, x.flip(1)) + x @ x.t() @ x


def chosen(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, x.sin()).masked_fill(x > 1, 0.3)[:, [3, 2, 1, 0]].roll(1, 1).clamp(-1, 1)


def pooled(x: Tensor) -> Tensor:
    image = x.view(-1, 1, 2, 2).repeat(1, 1, 2, 2)
    image = functional.interpolate(functional.max_pool2d(image, 2, 1), scale_factor=2.0, mode="bilinear")
    return functional.avg_pool2d(image, 3).flatten(1) + functional.adaptive_avg_pool2d(image, 2).flatten(1)


def attended(x: Tensor) -> Tensor:
    tokens = x[:, None, :, None].expand(-1, 2, -1, 2)
    return functional.scaled_dot_product_attention(tokens, tokens * 2, tokens.cos(), is_causal=True).mean(
        (1, 3)
    )


def cast(x: Tensor) -> Tensor:
    return (x.float() * 1.5).tanh().double()


def normed(x: Tensor) -> Tensor:
    return (
        functional.group_norm(x, 2)
        + functional.rms_norm(x, (4,))
        + functional.instance_norm(x[:, None])[:, 0]
    )


def convolved(x: Tensor) -> Tensor:
    kernel = torch.linspace(-1, 1, 18, dtype=x.dtype).view(2, 1, 3, 3)
    image = functional.conv2d(x.view(-1, 1, 2, 2), kernel, padding=2, stride=2, dilation=1)
    image = functional.conv_transpose2d(
        image, kernel.flip(0), stride=2, padding=1, output_padding=1, groups=2
    )
    line = functional.conv1d(image.flatten(2), torch.ones(4, 1, 3, dtype=x.dtype), padding=1, groups=2)
    return line.flatten(1)[:, :4]


BRANCHES = {
    function.__name__: function
    for function in (
        *(pieces, halves, sorted_best, written_in_place, broadcast, used_twice),
        *(chosen, pooled, attended, cast, normed, convolved),
    )
} | {
    "Python function": lambda x: Cubed.apply(x, 0.3)[0],
    "through numpy": Counting.apply,
    "einsum": lambda x: torch.einsum("bi,ij,bj->bi", x, torch.ones(4, 4, dtype=x.dtype), x),
    "addmm": lambda x: torch.addmm(x[0], x, torch.ones(4, 4, dtype=x.dtype), beta=0.5, alpha=0.2),
    "complex": lambda x: torch.fft.fft(x).abs(),
}


class Through(nn.Module):
    """A linear layer and then some function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(4, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


def problem_of(model: nn.Module) -> Problem:
    generator = torch.Generator().manual_seed(5)
    batch = torch.randn(3, 4, generator=generator, dtype=torch.float64), torch.tensor([0, 2, 1])
    return Problem(model.double(), batch)


def residual(function, blocks: int = 3) -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return problem_of(stack(lambda: Residual(Through(function)), blocks))


def assert_walks_as_passes(paths: Paths, engine: str = "walk", precision: float = 1e-12) -> None:
    signs = torch.randn(
        6, len(paths.branches), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    for ask in (
        lambda engine: paths.graded("all", engine=engine).gradients,
        lambda engine: paths.gated(signs, engine=engine),
    ):
        found, expected = ask(engine), ask("passes")
        if not isinstance(found, dict):
            found, expected = {"": found}, {"": expected}
        for name, gradient in expected.items():
            largest = float(gradient.abs().max())
            assert largest > 0
            torch.testing.assert_close(found[name], gradient, rtol=0.0, atol=precision * largest)


@pytest.mark.parametrize("at", ["input", "parameters"])
@pytest.mark.parametrize("name", [name for name in BRANCHES if name != "complex"])
def test_walks_agree_with_passes_through_all_kinds_of_nodes(name, at):
    with open_paths(residual(BRANCHES[name]), at=at) as paths:
        assert_walks_as_passes(paths, precision=1e-6 if name == "cast" else 1e-12)


def reading(gradient: Tensor) -> Tensor:
    return gradient * 0.5


class Hooked(nn.Module):
    """Halves its gradient by a hook on a tensor, as some reversal and scaling layers do."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.0
        x.register_hook(reading)
        return x.tanh()


def recomputed(x: Tensor) -> Tensor:
    return checkpoint(torch.tanh, x * 2, use_reentrant=False)


def hooked_module() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 0.5,))
    return layer


@pytest.mark.parametrize(
    ("branch", "reason"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 4), Hooked()), "hooks on tensors or modules"),
        (hooked_module, "hooks on tensors or modules"),
        (lambda: Through(recomputed), "recomputes what it saved"),
        (lambda: Through(BRANCHES["complex"]), "complex numbers"),
    ],
    ids=["tensor hook", "module hook", "checkpoint", "complex"],
)
def test_what_cannot_be_walked_falls_back_to_passes(branch, reason):
    problem = problem_of(stack(lambda: Residual(branch()), 5))
    with open_paths(problem) as paths:
        assert paths.graded("all").engine == "passes"
        with pytest.raises(
            RuntimeError, match=rf"cannot be walked node by node: .*{reason}.*engine='passes'"
        ):
            paths.graded("all", engine="walk")
        assert_walks_as_passes(paths, "auto")


def test_a_wrong_rule_is_found_out(monkeypatch):
    """The walk carries the ungated gradient along, or adds its coefficients up, and compares with autograd's."""
    from gradscope.gradients.engines import rules

    monkeypatch.setitem(rules.LAYERS, "AddmmBackward0", lambda node, stack, slots: {1: stack})
    specimen = NETWORKS["multi-residual"]
    problem = Problem(specimen.build(), (specimen.inputs(), specimen.targets()))
    for lengths in ("all", 2):
        with open_paths(problem) as paths, pytest.raises(RuntimeError, match="cannot be walked"):
            paths.graded(lengths, engine="walk")


def test_values_changed_in_place_after_use_are_an_error_as_in_autograd():
    problem = residual(torch.tanh)
    with open_paths(problem) as paths, torch.no_grad():
        for parameter in problem.model.parameters():
            parameter.mul_(2.0)
        for engine in ("walk", "passes", "auto"):
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                paths.graded("all", engine=engine)


def test_a_thousand_blocks_do_not_underflow():
    """Branches of gain 1e-6: coefficients down to 1e-338, far below what float32 holds."""
    layer = nn.Linear(2, 2, bias=False)
    nn.init.eye_(layer.weight)
    layer.weight.data *= 1e-6
    model = nn.Sequential(*[Residual(layer) for _ in range(1000)])
    batch = torch.ones(1, 2), torch.zeros(1)
    problem = Problem(model, batch, loss=lambda output, _: output.sum(dim=1))
    with open_paths(problem) as paths:
        found = paths.graded(75, engine="walk").gradients[:, 0, 0]
    # g_k = C(1000, k) 1e-6^k, in logarithms because the last ones leave even float64's range.
    k = torch.arange(76, dtype=torch.float64)
    logs = torch.lgamma(torch.tensor(1001.0).double()) - torch.lgamma(k + 1) - torch.lgamma(1001 - k)
    logs += k * layer.weight[0, 0].detach().double().log()
    inside = logs > -700
    assert (found[~inside] < 1e-300).all()
    assert len(found[~inside]) > 1
    torch.testing.assert_close(found[inside].log(), logs[inside], rtol=0, atol=1e-3)


def test_members_that_do_not_fit_together_walk_one_after_the_other(monkeypatch):
    from gradscope.gradients.engines import walk

    with open_paths(residual(torch.tanh)) as paths:
        masks = (torch.rand(9, 3, generator=torch.Generator().manual_seed(0)) < 0.5).double()
        together = paths.gated(masks, engine="walk")
        monkeypatch.setattr(walk, "STACK_BYTES", 400)
        torch.testing.assert_close(paths.gated(masks, engine="walk"), together, rtol=1e-12, atol=0)


def test_each_branch_is_crossed_by_the_coefficients_that_reach_it_only(monkeypatch):
    """At the l-th block from the loss l + 1 of them, at most K: n (n + 1) / 2 branch products for all lengths."""
    from gradscope.gradients.engines import rules

    rows: list[int] = []
    plain = rules.LAYERS["AddmmBackward0"]

    def counting(node, stack, slots):
        rows.append(len(stack.keys))
        return plain(node, stack, slots)

    monkeypatch.setitem(rules.LAYERS, "AddmmBackward0", counting)
    blocks = [Residual(mlp(4, 4)) for _ in range(6)]
    for lengths, expected in (("all", [1, 2, 3, 4, 5, 6]), (3, [1, 2, 3, 3, 3, 3])):
        with open_paths(problem_of(nn.Sequential(*blocks))) as paths:
            paths.graded("all", engine="walk")
            rows.clear()
            paths.graded(lengths, engine="walk")
        assert rows == expected
