"""Networks that look as if examples were kept apart, or all gradients were there, and are not so."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gradscope.gradients.layer_grams import layer_grams
from gradscope.problem import Problem
from tests.gradients.grams.gram_nets import Wrapped

EXAMPLES = 8
# Mixes examples 1 and 2, and 5 and 6, and no others.
ORDER = torch.tensor([0, 2, 1, 3, 4, 6, 5, 7])
MATRIX = torch.eye(EXAMPLES, dtype=torch.float64)[ORDER]


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    return torch.randn(EXAMPLES, 5).double(), torch.arange(EXAMPLES) % 3


def between(function) -> nn.Module:
    """Two dense layers with something between them."""
    torch.manual_seed(6)
    run = lambda net, x: net.b(function(net, torch.tanh(net.a(x))))  # noqa: E731
    return Wrapped(run, a=nn.Linear(5, 6), b=nn.Linear(6, 3)).double()


def rows_of(net: nn.Module, x: Tensor, y: Tensor, own: list[nn.Parameter]) -> Tensor:
    """Gradients of the examples' losses, all from one forward pass: right also where examples mix."""
    losses = functional.cross_entropy(net(x), y, reduction="none")
    found = [torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True) for loss in losses]
    zeros = [torch.zeros_like(parameter) for parameter in own]
    full = [[z if g is None else g for g, z in zip(row, zeros, strict=True)] for row in found]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in full])


def assert_right(net: nn.Module, **options) -> None:
    x, y = batch()
    for name, gram in layer_grams(Problem(net, (x, y)), **options).items():
        own = list(net.get_submodule(name).parameters(recurse=False))
        rows = rows_of(net, x, y, own)
        torch.testing.assert_close(gram.parameter, rows @ rows.T)
        torch.testing.assert_close(gram.parameter_log_norms, rows.norm(dim=1).log())


MIXING = {
    "index": lambda net, h: h[ORDER],
    "gather": lambda net, h: h.gather(0, ORDER[:, None].expand_as(h)),
    "scatter_add": lambda net, h: torch.zeros_like(h).scatter_add(0, ORDER[:, None].expand_as(h), h),
    "index_put": lambda net, h: torch.zeros_like(h).index_put((ORDER,), h),
    "where": lambda net, h: torch.where(
        torch.arange(EXAMPLES)[:, None] % 2 == 1, 0.7 * h + 0.3 * h[ORDER], h
    ),
    "dense neighbours": lambda net, h: MATRIX @ h,
    "sparse neighbours": lambda net, h: torch.sparse.mm(MATRIX.to_sparse(), h),
}


@pytest.mark.parametrize("name", MIXING)
def test_examples_that_mix_only_in_the_middle_of_the_batch_are_seen(name):
    assert_right(between(MIXING[name]))


class DividedByItsNorm(torch.autograd.Function):
    """The gradients of all examples are divided by one number."""

    @staticmethod
    def forward(ctx, h):
        return h.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / gradient.norm()


def hooked(change):
    def function(net, h):
        if h.requires_grad:
            h.register_hook(change)
        return h

    return function


@pytest.mark.parametrize(
    "function",
    [lambda net, h: DividedByItsNorm.apply(h), hooked(lambda gradient: gradient / gradient.norm())],
    ids=["function", "hook"],
)
def test_a_backward_pass_that_is_no_sum_gives_no_gram(function):
    gram = layer_grams(Problem(between(function), batch()))["a"]
    assert gram.parameter is None and "do not add up" in gram.reason


def test_a_hook_that_changes_each_example_for_itself_is_followed():
    net = between(hooked(lambda gradient: gradient.clamp(-0.05, 0.05)))
    assert_right(net)
    assert "hook" in layer_grams(Problem(net, batch()))["a"].reason


def test_a_hook_that_only_looks_costs_nothing():
    net = between(hooked(lambda gradient: None))
    assert_right(net)
    assert layer_grams(Problem(net, batch()))["a"].engine == "products"


def test_a_gradient_that_is_no_sum_is_not_left_out_of_its_layer():
    class Odd(torch.autograd.Function):
        @staticmethod
        def forward(ctx, h, weight):
            ctx.save_for_backward(h, weight)
            return h @ weight

        @staticmethod
        def backward(ctx, gradient):
            h, weight = ctx.saved_tensors
            own = h.T @ gradient
            return gradient @ weight.T, own / own.norm()

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.scale = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6))

        def forward(self, h):
            return Odd.apply(h, self.weight) * self.scale

    net = between(lambda net, h: net.two(h))
    net.two = Two().double()
    gram = layer_grams(Problem(net, batch()))["two"]
    assert gram.parameter is None and "do not add up" in gram.reason


class Routed(nn.Module):
    """Two experts, each for the examples on its side of zero, and not called where there are none."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 3)])

    def forward(self, x):
        out = x.new_zeros(len(x), 3)
        for number, expert in enumerate(self.experts):
            mine = ((x[:, 0] > 0) == bool(number)).nonzero()[:, 0]
            if len(mine):
                out = out.index_copy(0, mine, expert(x[mine]))
        return out


@pytest.mark.parametrize("block_size", [None, 1, 2, 3])
def test_what_a_block_does_not_reach_is_zero_there(block_size):
    torch.manual_seed(7)
    net, (x, y) = Routed().double(), batch()
    x[:, 0] = torch.tensor([1, 1, 1, 1, -1, -1, -1, -1]) * x[:, 0].abs()
    grams = layer_grams(Problem(net, (x, y)), block_size=block_size)
    for name in ("experts.0", "experts.1"):
        rows = rows_of(net, x, y, list(net.get_submodule(name).parameters()))
        torch.testing.assert_close(grams[name].parameter, rows @ rows.T)
        torch.testing.assert_close(grams[name].parameter_log_norms, rows.norm(dim=1).log())


def spectrum(net, h):
    return torch.fft.rfft(h)


def back(h):
    return torch.fft.irfft(h, n=6)


COMPLEX = {
    "real times complex": (4, lambda net, h: back(spectrum(net, h) * net.w)),
    "complex view, product": ((4, 2), lambda net, h: back(spectrum(net, h) * torch.view_as_complex(net.w))),
    "complex view, matrix": ((4, 4, 2), lambda net, h: back(spectrum(net, h) @ torch.view_as_complex(net.w))),
    "complex view, sum": ((4, 2), lambda net, h: back(spectrum(net, h) + torch.view_as_complex(net.w))),
    "converted": ((4, 4), lambda net, h: back(spectrum(net, h) @ net.w.to(torch.complex128))),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_numbers_inside(name):
    shape, function = COMPLEX[name]
    net = between(function)
    net.w = nn.Parameter(torch.randn(shape, dtype=torch.float64))
    assert_right(net)
    assert_right(net, block_size=3)


def test_outputs_of_checkpointed_layers_whose_second_axis_is_the_batch():
    def net(again: bool) -> nn.Module:
        def run(net, x):
            steps = x.view(EXAMPLES, EXAMPLES, 5).transpose(0, 1)
            h = checkpoint(net.a, steps, use_reentrant=False) if again else net.a(steps)
            return net.b(h.tanh().mean(dim=0))

        torch.manual_seed(8)
        return Wrapped(run, a=nn.Linear(5, 6), b=nn.Linear(6, 3)).double()

    x, y = torch.randn(EXAMPLES, EXAMPLES * 5).double(), batch()[1]
    plain, again = (layer_grams(Problem(net(one), (x, y)))["a"] for one in (False, True))
    assert plain.engine != "fallback" and again.engine == "fallback"
    torch.testing.assert_close(again.output, plain.output)


def test_an_output_that_is_a_weight_counts_no_examples():
    torch.manual_seed(9)
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, EXAMPLES)), nn.Linear(EXAMPLES, 3))
    net.append(Wrapped(lambda self, x: x - x.mean(dim=0)))
    for name, gram in layer_grams(Problem(net.double(), batch())).items():
        if "parametrizations" in name:
            assert gram.output is None and "output" in gram.reason


def test_one_weight_as_matrices_of_two_shapes():
    run = lambda net, x: functional.linear(x, net.w.view(7, 5)) + functional.linear(x, net.w.view(5, 7).t())  # noqa: E731
    net = Wrapped(run, w=nn.Parameter(torch.randn(35, dtype=torch.float64)))
    x, y = batch()
    rows = rows_of(net, x, y, [net.w])
    torch.testing.assert_close(layer_grams(Problem(net, (x, y)))[""].parameter, rows @ rows.T)


def test_windows_that_overtake_the_examples():
    def run(net, x):
        h = net.a(x.view(-1, 6, 5)).view(-1, 2, 3, 6).permute(1, 0, 2, 3).reshape(-1, 3, 6)
        h = net.b(h).tanh().view(2, len(x), 3, 6).permute(1, 0, 2, 3)
        return net.c(h.reshape(len(x), -1))

    torch.manual_seed(10)
    net = Wrapped(run, a=nn.Linear(5, 6), b=nn.Linear(6, 6), c=nn.Linear(36, 3)).double()
    x, y = torch.randn(EXAMPLES, 30).double(), batch()[1]
    for name, gram in layer_grams(Problem(net, (x, y))).items():
        rows = rows_of(net, x, y, list(net.get_submodule(name).parameters()))
        torch.testing.assert_close(gram.parameter, rows @ rows.T)
