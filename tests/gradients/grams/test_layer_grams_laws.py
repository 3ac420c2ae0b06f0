"""Laws of layer Grams: blocks, order, scale, factors, sources, batch normalisation, and a network left as found."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradscope as gs
from gradscope.gradients.layer_grams import layer_grams
from gradscope.problem import Problem
from tests.as_found import assert_as_found, snapshot, used
from tests.gradients.grams.gram_cases import EXAMPLES, case
from tests.gradients.grams.gram_loops import loop
from tests.gradients.grams.gram_nets import Wrapped


def batch_normed() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(48, 4),
        nn.BatchNorm1d(4),
        nn.Tanh(),
        nn.Linear(4, 3),
    ).double()
    for norm in (net[1], net[5]):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    return net, torch.randn(7, 2, 4, 4).double(), torch.tensor([0, 1, 2, 2, 1, 0, 1])


def with_statistics_of(net: nn.Module, x: torch.Tensor) -> nn.Module:
    """A copy whose stored statistics are those of the batch, layer after layer, divided by B."""
    net = copy.deepcopy(net).eval()
    for module in net:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            axes = [0, *range(2, x.ndim)]
            module.running_mean = x.mean(dim=axes).detach()
            module.running_var = x.var(dim=axes, correction=0).detach()
        x = module(x)
    return net


def assert_gram_of(gram, rows):
    gradients = torch.cat([rows[name] for name in gram.parameters], dim=1)
    torch.testing.assert_close(gram.parameter, gradients @ gradients.T)


@pytest.mark.parametrize("block_size", [None, 2, 3])
def test_frozen_statistics_are_those_of_all_examples(block_size):
    net, x, y = batch_normed()
    rows = loop(with_statistics_of(net, x), x, y)
    data = (x, y) if block_size != 3 else [(x[:4], y[:4]), (x[4:], y[4:])]
    grams = layer_grams(Problem(net, data, batch_norm="frozen"), block_size=block_size)
    assert grams.batch_norm == "frozen" and grams.examples == 7
    for gram in grams.values():
        assert_gram_of(gram, rows)
        assert gram.engine != "fallback"


def test_running_statistics():
    net, x, y = batch_normed()
    net(x)
    for gram in layer_grams(Problem(net.eval(), (x, y), batch_norm="running")).values():
        assert_gram_of(gram, loop(net, x, y))


def test_own_gradients_go_through_the_statistics():
    net, x, y = batch_normed()
    grams = layer_grams(Problem(net, (x, y), batch_norm="own"))
    model = copy.deepcopy(net).train()
    inner: list[torch.Tensor] = []
    model[4].register_forward_hook(lambda module, arguments, output: inner.append(output))
    losses = functional.cross_entropy(model(x), y, reduction="none")
    for name, gram in grams.items():
        own = list(model.get_submodule(name).parameters())
        rows = [torch.autograd.grad(loss, own, retain_graph=True) for loss in losses]
        gradients = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
        torch.testing.assert_close(gram.parameter, gradients @ gradients.T)
        assert gram.engine == "fallback" and "own" in gram.reason
    rows = [torch.autograd.grad(loss, inner[0], retain_graph=True)[0][i] for i, loss in enumerate(losses)]
    torch.testing.assert_close(grams["4"].output, torch.stack(rows) @ torch.stack(rows).T)
    assert grams.batch_norm == "own"


def test_train_mode_is_refused_with_the_remedy():
    net, x, y = batch_normed()
    with pytest.raises(ValueError, match="batch_norm='own'"):
        layer_grams(Problem(net, (x, y), batch_norm="train"))


@pytest.mark.parametrize(
    "name", ["linear", "gpt", "conv2d", "re-used", "lstm", "custom function", "class token"]
)
@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_any_block_size_gives_the_same(name, block_size):
    net, (x, y) = case(name)
    whole = layer_grams(Problem(net, (x, y)))
    parts = layer_grams(Problem(net, (x, y)), block_size=block_size)
    assert list(parts) == list(whole)
    for layer, gram in whole.items():
        for what in ("parameter", "output", "parameter_log_norms", "output_log_norms", "forward", "backward"):
            here, there = getattr(gram, what), getattr(parts[layer], what)
            assert (here is None) == (there is None)
            if here is not None:
                torch.testing.assert_close(there, here, equal_nan=True)


def test_several_batches_are_one():
    net, (x, y) = case("linear")
    whole = layer_grams(Problem(net, (x, y)))["0"]
    parts = layer_grams(Problem(net, [(x[:1], y[:1]), (x[1:], y[1:])]))["0"]
    torch.testing.assert_close(parts.parameter, whole.parameter)


@pytest.mark.parametrize("name", ["linear", "gpt", "conv1d", "lstm sequence first", "windows"])
def test_order_of_examples_carries_over(name):
    net, (x, y) = case(name)
    order = torch.tensor([2, 0, 3, 1])
    there = layer_grams(Problem(net, (x[order], y[order])))
    for layer, gram in layer_grams(Problem(net, (x, y))).items():
        if gram.parameter is not None:
            torch.testing.assert_close(there[layer].parameter, gram.parameter[order][:, order])


@pytest.mark.parametrize("name", ["linear", "conv2d", "gpt", "embedding", "re-used", "layer norm", "lstm"])
def test_scale_does_not_matter_down_to_1e_30(name):
    net, (x, y) = case(name)
    net = net.float()
    x = x.float() if x.is_floating_point() else x

    def scaled(factor):
        return lambda outputs, targets: outputs.gather(1, targets[:, None])[:, 0] * factor

    plain = layer_grams(Problem(net, (x, y)), source=scaled(1.0))
    factors = torch.tensor([1.0, 1e-30, 1e-15, 1e-30])
    tiny = layer_grams(Problem(net, (x, y)), source=scaled(factors))
    logs = factors.double().log()
    for layer, gram in plain.items():
        if gram.parameter is None:
            continue
        there = tiny[layer]
        torch.testing.assert_close(
            there.parameter_log_norms - logs, gram.parameter_log_norms, rtol=0, atol=1e-5
        )
        levelled = there.parameter / torch.outer(factors.double(), factors.double())
        torch.testing.assert_close(
            levelled, gram.parameter, rtol=1e-4, atol=1e-5 * float(gram.parameter.max())
        )


def test_log_norms_outlive_the_grams_range():
    net = nn.Sequential(nn.Linear(3, 2, bias=False)).double()
    x = torch.randn(2, 3).double()
    gram = layer_grams(Problem(net, x), source=lambda outputs, targets: outputs.sum(dim=1) * 1e-200)["0"]
    assert float(gram.parameter.abs().max()) == 0
    expected = (x.norm(dim=1) * math.sqrt(2)).log() - 200 * math.log(10)
    torch.testing.assert_close(gram.parameter_log_norms, expected)


def test_zero_gradients_are_zero_rows():
    net, (x, y) = case("linear sequence")
    source = lambda outputs, targets: outputs.sum(dim=1) * torch.tensor([1.0, 0, 1, 1])  # noqa: E731
    gram = layer_grams(Problem(net, (x, y)), source=source)["head"]
    assert gram.parameter_log_norms[1] == -torch.inf
    assert bool((gram.parameter[1] == 0).all()) and bool(gram.parameter_log_norms[[0, 2, 3]].isfinite().all())


def test_a_dense_layers_gram_is_the_product_of_its_factors():
    net, (x, y) = case("linear")
    grams = layer_grams(Problem(net, (x, y)))
    first, last = grams["0"], grams["2"]
    torch.testing.assert_close(first.forward, x @ x.T)
    torch.testing.assert_close(last.parameter, last.forward * last.backward)
    torch.testing.assert_close(first.parameter, first.forward * first.backward + first.backward)
    torch.testing.assert_close(first.backward, first.output)


def test_sources():
    net, (x, y) = case("linear")
    values = {
        "output": lambda net, x, y: net(x).sum(),
        "logit": lambda net, x, y: net(x)[0, y[0]],
        1: lambda net, x, y: net(x)[0, 1],
    }
    for source, value in values.items():
        grams = layer_grams(Problem(net, (x, y)), source=source)
        rows = loop(net, x, y, value)
        assert grams.source == str(source)
        for gram in grams.values():
            assert_gram_of(gram, rows)


def test_grams_of_asked_modules_only():
    net, (x, y) = case("in place")
    whole, part = layer_grams(Problem(net, (x, y))), layer_grams(Problem(net, (x, y)), at=["2", "1"])
    assert list(part) == ["1", "2"]
    torch.testing.assert_close(part["2"].parameter, whole["2"].parameter)
    assert part["1"].parameter is None and "no parameters" in part["1"].reason
    assert part["1"].output.shape == (EXAMPLES, EXAMPLES)


def test_examples_that_mix_are_taken_one_by_one():
    def run(self, x):
        h = self.below(x)
        return self.head(h - h.mean(dim=0))

    torch.manual_seed(0)
    net = Wrapped(run, below=nn.Linear(4, 4), head=nn.Linear(4, 3)).double()
    x, y = torch.randn(EXAMPLES, 4).double(), torch.tensor([0, 1, 2, 1])
    grams = layer_grams(Problem(net, (x, y)))
    losses = functional.cross_entropy(net(x), y, reduction="none")
    for name, gram in grams.items():
        own = list(net.get_submodule(name).parameters())
        rows = [torch.autograd.grad(loss, own, retain_graph=True) for loss in losses]
        gradients = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
        torch.testing.assert_close(gram.parameter, gradients @ gradients.T, atol=1e-14, rtol=1e-7)
    assert "mix examples" in grams["below"].reason and grams["below"].engine == "fallback"
    assert grams["head"].engine == "products"


def test_gradients_that_are_not_numbers_are_said():
    net, (x, y) = case("linear")
    source = lambda outputs, targets: outputs.sum(dim=1) * torch.tensor([1.0, torch.nan, 1, 1])  # noqa: E731
    gram = layer_grams(Problem(net, (x, y)), source=source)["0"]
    assert "1 examples are not finite" in gram.reason
    assert bool(gram.parameter[0, 2:].isfinite().all())


def test_a_network_written_for_one_order_in_memory_is_taken_as_it_is():
    net, (x, y) = case("conv2d")
    net = Wrapped(
        lambda self, x: self.head(self.kernel(x).view(len(x), -1)),
        kernel=nn.Conv2d(2, 3, 2),
        head=nn.Linear(27, 3),
    )
    net = net.double()
    for gram in layer_grams(Problem(net, (x, y))).values():
        assert_gram_of(gram, loop(net, x, y))


def test_dict_batches_of_tokens():
    net, (x, y) = case("gpt")
    spoken = Wrapped(lambda self, x: self.net(x), net=net)
    spoken.forward = lambda input_ids, attention_mask: net(input_ids)
    mask = torch.ones_like(x)
    data = {"input_ids": x, "attention_mask": mask, "labels": y}
    there = layer_grams(Problem(spoken, data))
    here = layer_grams(Problem(net, (x, y)))
    torch.testing.assert_close(there["net.packed"].parameter, here["packed"].parameter)


@pytest.mark.parametrize("name", ["linear", "encoder", "custom function", "windows"])
@pytest.mark.parametrize("raises", [False, True])
def test_everything_is_left_as_found(name, raises):
    net, (x, y) = case(name)
    net = used(net.train())
    before = snapshot(net)

    def source(outputs, targets):
        if raises:
            raise KeyError("stop")
        return outputs.sum(dim=1)

    if raises:
        with pytest.raises(KeyError):
            layer_grams(Problem(net, (x, y)), source=source)
    else:
        layer_grams(Problem(net, (x, y)), source=source, block_size=3)
    assert_as_found(net, before)


def test_errors_say_what_to_do():
    net, (x, y) = case("linear")
    with pytest.raises(ValueError, match="at least 2"):
        layer_grams(Problem(net, (x[:1], y[:1])))
    with pytest.raises(ValueError, match="no module with parameters"):
        layer_grams(Problem(nn.ReLU(), x), source="output")
    with pytest.raises(ValueError, match="block_size"):
        layer_grams(Problem(net, (x, y)), block_size=0)
    with pytest.raises(ValueError, match="No site"):
        layer_grams(Problem(net, (x, y)), at="nowhere")
    two = Wrapped(lambda self, x: self.used(x), used=nn.Linear(4, 3), other=nn.Linear(4, 3)).double()
    with pytest.raises(ValueError, match="depends on no parameter"):
        layer_grams(Problem(two, (x, y)), at="other")
    tokens, (ids, labels) = case("gpt")
    with pytest.raises(ValueError, match="Pad them"):
        layer_grams(Problem(tokens, [(ids, labels), (ids[:, :3], labels)]))


def test_it_is_public():
    assert gs.layer_grams is layer_grams
    assert gs.LayerGram.__name__ == "LayerGram"
