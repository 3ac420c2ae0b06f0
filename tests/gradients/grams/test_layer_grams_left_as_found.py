"""Forward passes that write into things, and what a result says of itself."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from gradscope.gradients.layer_grams import layer_grams
from gradscope.problem import Problem
from tests.gradients.grams.gram_nets import Wrapped


class Drifting(nn.Module):
    """Scales by what it keeps of the batches it has seen."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        self.seen.mul_(0.5).add_(x.detach().square().mean())
        return x * (1 + self.seen)


def drifting(mixing: bool) -> nn.Module:
    def run(net, x):
        # A view that channels last does not allow, so that the forward pass is run again.
        h = net.convolution(net.drifting(x)).view(len(x), -1)
        return net.head(h - h.mean(dim=0) if mixing else h)

    torch.manual_seed(0)
    parts = {"drifting": Drifting(), "convolution": nn.Conv2d(2, 3, 1), "head": nn.Linear(45, 3)}
    return Wrapped(run, **parts).double()


@pytest.mark.parametrize("mixing", [False, True])
def test_every_forward_pass_starts_from_the_same_buffers(mixing):
    net = drifting(mixing)
    x, y = torch.randn(4, 2, 3, 5).double(), torch.tensor([0, 1, 2, 1])
    grams = layer_grams(Problem(net, (x, y)))
    assert float(net.drifting.seen) == 0
    once = copy.deepcopy(net)
    losses = functional.cross_entropy(once(x), y, reduction="none")
    own = list(once.head.parameters())
    rows = [torch.autograd.grad(loss, own, retain_graph=True) for loss in losses]
    gradients = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    torch.testing.assert_close(grams["head"].parameter, gradients @ gradients.T)


@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("block_size", [None, 2])
def test_inputs_written_to_are_the_networks_own(mixing, block_size):
    run = lambda net, x: net.a(x.mul_(2)) - (net.a(x).mean(dim=0) if mixing else 0)  # noqa: E731
    net = Wrapped(run, a=nn.Linear(3, 2)).double()
    x = torch.randn(4, 3).double()
    before = x.clone()
    layer_grams(Problem(net, (x, torch.tensor([0, 1, 0, 1]))), block_size=block_size)
    assert torch.equal(x, before)


def test_integers_written_to_are_the_networks_own():
    run = lambda net, x: net.head(net.table(x.clamp_(max=2)).flatten(1))  # noqa: E731
    net = Wrapped(run, table=nn.Embedding(5, 3), head=nn.Linear(6, 2)).double()
    x = torch.tensor([[0, 4], [1, 3], [2, 2]])
    layer_grams(Problem(net, (x, torch.tensor([0, 1, 0]))))
    assert x.tolist() == [[0, 4], [1, 3], [2, 2]]


def test_rows_of_a_table_that_are_shortened_are_put_back():
    net = nn.Sequential(nn.Embedding(5, 3, max_norm=0.1), nn.Flatten(), nn.Linear(6, 2)).double()
    before = net[0].weight.detach().clone()
    layer_grams(Problem(net, (torch.tensor([[0, 4], [1, 3], [2, 2]]), torch.tensor([0, 1, 0]))))
    assert torch.equal(net[0].weight, before)


@pytest.mark.parametrize("block_size", [None, 2])
def test_positions_as_many_as_examples_are_not_taken_apart(block_size):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.places, self.head = nn.Embedding(7, 4), nn.Embedding(4, 4), nn.Linear(16, 3)

        def forward(self, input_ids, position_ids):
            return self.head((self.words(input_ids) + self.places(position_ids)).tanh().flatten(1))

    torch.manual_seed(1)
    net, ids, y = Words().double(), torch.randint(7, (4, 4)), torch.tensor([0, 1, 2, 1])
    data = ({"input_ids": ids, "position_ids": torch.arange(4)}, y)
    losses = functional.cross_entropy(net(*data[0].values()), y, reduction="none")
    rows = torch.stack(
        [torch.autograd.grad(loss, net.places.weight, retain_graph=True)[0] for loss in losses]
    )
    gram = layer_grams(Problem(net, data), block_size=block_size)["places"]
    torch.testing.assert_close(gram.parameter, rows.flatten(1) @ rows.flatten(1).T)


def test_rows_of_a_table_are_counted_in_the_whole_batch():
    net = nn.Sequential(nn.Embedding(5, 3, scale_grad_by_freq=True), nn.Flatten(), nn.Linear(6, 2)).double()
    data = (torch.tensor([[0, 4], [0, 3], [2, 0], [4, 4]]), torch.tensor([0, 1, 0, 1]))
    whole, parts = (layer_grams(Problem(net, data), block_size=size)["0"] for size in (None, 1))
    losses = functional.cross_entropy(net(data[0]), data[1], reduction="none")
    rows = [torch.autograd.grad(loss, net[0].weight, retain_graph=True)[0].flatten() for loss in losses]
    torch.testing.assert_close(whole.parameter, torch.stack(rows) @ torch.stack(rows).T)
    torch.testing.assert_close(parts.parameter, whole.parameter)


@pytest.mark.parametrize("block_size", [0, True, 1.5, "a"])
def test_a_block_size_that_is_no_number_of_examples(block_size):
    with pytest.raises(ValueError, match="whole number"):
        layer_grams(Problem(nn.Linear(3, 2), torch.randn(4, 3)), source="output", block_size=block_size)


@pytest.mark.parametrize("source", [None, 1.5, ["loss"]])
def test_a_source_that_is_none(source):
    data = (torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ValueError, match="source is one of"):
        layer_grams(Problem(nn.Linear(3, 2), data), source=source)


def dense() -> tuple[Problem, nn.Module]:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2, bias=False))).double()
    return Problem(net, (torch.randn(4, 3).double(), torch.tensor([0, 1, 0, 1]))), net


@pytest.mark.parametrize("block_size", [None, 2])
def test_a_dense_layers_parameter_gram_is_not_held(block_size):
    for gram in layer_grams(dense()[0], block_size=block_size).values():
        held = [value for value in vars(gram).values() if isinstance(value, torch.Tensor) and value.ndim == 2]
        assert len({id(value) for value in held}) <= 3 and "parameter" not in vars(gram)
        for other in (copy.copy(gram), copy.deepcopy(gram), pickle.loads(pickle.dumps(gram))):
            assert torch.equal(other.parameter, gram.parameter)
        with pytest.raises(AttributeError):
            gram.parameter = None
        with pytest.raises(AttributeError, match="has no attribute 'other'"):
            gram.other  # noqa: B018


def test_a_result_is_printed_in_one_line_a_layer():
    grams = layer_grams(dense()[0], at=["0", "1", "2"])
    lines = repr(grams).splitlines()
    assert len(lines) == 1 + len(grams) and max(map(len, lines)) < 300
    assert "[4, 4]" in lines[1] and "products" in lines[1] and "log norms" in lines[1]


def test_layers_without_parameters_of_their_own_say_what_they_are():
    grams = layer_grams(dense()[0], at=["0", "1", "2"])
    assert grams["1"].reason == "it has no parameters"
    assert "a container" in grams["2"].reason and "at='2.*'" in grams["2"].reason
