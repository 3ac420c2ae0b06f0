"""Where examples are said to lie in a tensor, against which rows their gradients reach."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gradscope.gradients.grams.layout import Layout
from gradscope.gradients.grams.structure import structure
from gradscope.gradients.layer_grams import layer_grams
from gradscope.instruments.junctions.graph import gradient_node
from gradscope.problem import Problem
from tests.gradients.grams.gram_cases import case
from tests.gradients.grams.gram_nets import Wrapped

B = 3
SHAPE = (B, 4, 6)
WEIGHT = torch.randn(6, 5, dtype=torch.float64)

KEEPS = {
    "transpose": lambda x: x.transpose(0, 1),
    "permute": lambda x: x.permute(2, 0, 1),
    "flattened": lambda x: x.reshape(B * 4, 6),
    "flattened, sequence first": lambda x: x.transpose(0, 1).reshape(4 * B, 6),
    "windows": lambda x: x.view(B, 2, 2, 6).permute(1, 0, 2, 3).reshape(2 * B * 2, 6),
    "windows and back": lambda x: (
        x.view(B, 2, 2, 6)
        .permute(1, 0, 2, 3)
        .reshape(-1, 6)
        .view(2, B, 2, 6)
        .permute(1, 0, 2, 3)
        .reshape(SHAPE)
    ),
    "heads": lambda x: x.view(B, 4, 2, 3).transpose(1, 2).reshape(B * 2, 4, 3),
    "matrix product": lambda x: x @ WEIGHT,
    "matrix product, sequence first": lambda x: x.transpose(0, 1) @ WEIGHT,
    "products of examples": lambda x: x @ x.transpose(1, 2),
    "from the left": lambda x: torch.ones(7, 4, dtype=x.dtype) @ x,
    "reduced": lambda x: x.transpose(0, 1).mean(dim=0),
    "largest": lambda x: x.amax(dim=2),
    "softmax": lambda x: x.softmax(dim=1),
    "picked": lambda x: x.transpose(0, 1)[0],
    "indexed": lambda x: x[torch.arange(B), torch.tensor([0, 2, 1])],
    "indexed behind": lambda x: x[:, torch.tensor([0, 2])],
    "sliced": lambda x: x[:, 1:3],
    "joined": lambda x: torch.cat([x, x.tanh()], dim=1),
    "stacked": lambda x: torch.stack([x, x], dim=0),
    "stacked behind": lambda x: torch.stack([x, x], dim=1),
    "split": lambda x: x.split(2, dim=1)[1],
    "unbound": lambda x: x.transpose(0, 1).unbind(0)[2],
    "padded": lambda x: functional.pad(x, (1, 1, 0, 2)),
    "rolled": lambda x: x.roll(1, dims=1),
    "flipped": lambda x: x.flip(2),
    "cumulated": lambda x: x.cumsum(dim=1),
    "pooled": lambda x: functional.avg_pool2d(x.unsqueeze(1), 2),
    "attended": lambda x: functional.scaled_dot_product_attention(*[x.unsqueeze(1)] * 3),
    "normalised": lambda x: functional.layer_norm(x, (6,)),
    "normalised by hand": lambda x: (x - x.mean(dim=1, keepdim=True)) / x.var(dim=1, keepdim=True).sqrt(),
    "group norm": lambda x: functional.group_norm(x, 2),
    "spoken": lambda x: torch.einsum("btd,de->bet", x, WEIGHT),
    "expanded": lambda x: x.mean(dim=1, keepdim=True).expand(SHAPE) + x,
    "gathered": lambda x: x.gather(1, torch.zeros(B, 2, 6, dtype=torch.long)),
    "unfolded": lambda x: functional.unfold(x.unsqueeze(1), 2),
}
MIXES = {
    "mean over examples": lambda x: x - x.mean(dim=0),
    "flipped examples": lambda x: x.flip(0),
    "rolled examples": lambda x: x.roll(1, dims=0),
    "products of flattened": lambda x: x.flatten(1) @ x.flatten(1).T,
    "softmax over examples": lambda x: x.softmax(dim=0),
    "batch norm of the batch": lambda x: functional.batch_norm(x, None, None, training=True),
    "layer norm over examples": lambda x: functional.layer_norm(x.permute(1, 2, 0), (B,)),
    "re-ordered": lambda x: x[torch.tensor([2, 0, 1])],
    "normed over all": lambda x: x / x.norm(),
    "torn apart": lambda x: x.view(B // 3, 4, 3, 6).transpose(1, 2).reshape(4, B, 6),
}


def read(operation):
    x = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    result = operation(x.clone())
    mixes = torch.arange(1.0, 1 + result.numel(), dtype=torch.float64).view(result.shape)
    return x, result, mixes


@pytest.mark.parametrize("name", KEEPS)
def test_a_layout_is_where_gradients_of_an_example_come_from(name):
    x, result, mixes = read(KEEPS[name])
    first = structure(torch.stack([result.sum() * 0 + x[i].sum() for i in range(B)]), [x], [])
    layout = first.layouts[gradient_node(result)][0]
    assert layout.fits(result.shape)
    for example in range(B):
        cotangent = layout.of_example(mixes, example)
        (gradient,) = torch.autograd.grad(result, x, cotangent, retain_graph=True)
        assert bool((gradient[example] != 0).any())
        others = [i for i in range(B) if i != example]
        torch.testing.assert_close(gradient[others], torch.zeros(2, 4, 6, dtype=torch.float64))


@pytest.mark.parametrize("name", MIXES)
def test_what_mixes_examples_is_not_taken_for_apart(name):
    x, result, _ = read(MIXES[name])
    values = result.reshape(-1)[:B] * 2
    below = gradient_node(x)
    assert below not in structure(values, [x], []).apart


def test_layouts_of_examples_and_views():
    layout = Layout(3, 0, 2, 4)
    rows = torch.arange(24)
    assert layout.by_example(rows)[1].tolist() == [4, 5, 6, 7, 16, 17, 18, 19]
    assert layout.of_example(rows + 1, 1).nonzero().flatten().tolist() == [4, 5, 6, 7, 16, 17, 18, 19]
    assert Layout(3, 0).viewed((3, 4, 6), (12, 6)) == Layout(3, 0, 1, 4)
    assert Layout(3, 1).viewed((4, 3, 6), (12, 6)) == Layout(3, 0, 4, 1)
    assert Layout(3, 1).viewed((4, 3, 6), (4, 18)) == Layout(3, 1, 1, 6)
    assert Layout(3, 0).viewed((3, 4), (2, 6)) is None


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_are_taken_one_by_one_or_refused(reentrant):
    net, (x, y) = case("linear")
    whole = layer_grams(Problem(net, (x, y)))
    again = Wrapped(lambda self, x: checkpoint(self.net, x, use_reentrant=reentrant), net=net)
    if reentrant:
        with pytest.raises(ValueError, match="use_reentrant=False"):
            layer_grams(Problem(again, (x, y)))
        return
    for name, gram in layer_grams(Problem(again, (x, y))).items():
        there = whole[name.removeprefix("net.")]
        torch.testing.assert_close(gram.parameter, there.parameter)
        assert gram.engine == "fallback" and "checkpoint" in gram.reason


def test_hooks_of_the_user_run_once_and_change_nothing():
    net, (x, y) = case("linear")
    whole = layer_grams(Problem(net, (x, y)))
    heard = []
    net[2].register_full_backward_hook(lambda module, before, after: heard.append(len(after[0])))
    there = layer_grams(Problem(net, (x, y)))
    assert heard == [4]
    for name, gram in whole.items():
        torch.testing.assert_close(there[name].parameter, gram.parameter)


def test_one_hot_tokens_need_no_opened_input():
    torch.manual_seed(0)
    net = Wrapped(
        lambda self, x: self.head(self.below(functional.one_hot(x, 5).double()).tanh().mean(dim=1)),
        below=nn.Linear(5, 4),
        head=nn.Linear(4, 3),
    ).double()
    ids, y = torch.randint(0, 5, (4, 3)), torch.tensor([0, 1, 2, 0])
    grams = layer_grams(Problem(net, (ids, y)))
    losses = functional.cross_entropy(net(ids), y, reduction="none")
    for name, gram in grams.items():
        own = list(net.get_submodule(name).parameters())
        rows = [torch.autograd.grad(loss, own, retain_graph=True) for loss in losses]
        gradients = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
        torch.testing.assert_close(gram.parameter, gradients @ gradients.T)
        assert gram.engine != "fallback"
