"""Gates on torchvision's ResNet-18 and Hugging Face's GPT-2 against the same networks changed by hand."""

import copy
import types

import pytest
import torch
from as_found import assert_as_found, snapshot

from gradscope.instruments.gates import (
    cut_skips,
    junction_by_hand,
    lesion,
    scale_branches,
    stochastic_depth,
)
from gradscope.instruments.junctions import junctions

pytestmark = pytest.mark.filterwarnings("default")


class ResNet18:
    """Blocks and their last layers; the statistics of batch normalisation are not fresh."""

    def __init__(self, torchvision):
        torch.manual_seed(0)
        self.model = torchvision.models.resnet18(weights=None, num_classes=4).double().train()
        self.reference, self.inputs = torch.randn(9, 3, 32, 32, dtype=torch.float64).split([5, 4])
        with torch.no_grad():
            for _ in range(3):
                self.model(self.reference)
        self.model.eval()
        self.kinds = {"identity", "projection"}

    def last(self, model, place):
        return getattr(model, f"layer{place // 2 + 1}")[place % 2].bn2

    def path(self, place):
        return f"layer{place // 2 + 1}.{place % 2}.bn2"

    def junctions(self):
        return junctions(self.model, self.inputs)

    def output(self, model):
        return model(self.inputs)

    def without_skips(self):
        plain = copy.deepcopy(self.model)
        for place in range(8):
            block = plain.get_submodule(self.path(place).removesuffix(".bn2"))
            block.forward = types.MethodType(
                lambda self, x: self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu(), block
            )
        return plain(self.inputs)


class GPT2:
    def __init__(self, transformers):
        torch.manual_seed(0)
        configuration = transformers.GPT2Config(
            vocab_size=50, n_embd=32, n_layer=4, n_head=4, n_positions=32, bos_token_id=1, eos_token_id=2
        )
        self.model = transformers.GPT2LMHeadModel(configuration).double().eval()
        for name, parameter in self.model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)  # fresh ones are zero, which hides a bias left out
        words = torch.randint(3, 49, (9, 7))
        self.reference, self.inputs = ({"input_ids": w, "use_cache": False} for w in words.split([5, 4]))
        self.kinds = {"identity"}

    def last(self, model, place):
        return model.get_submodule(self.path(place))

    def path(self, place):
        return f"transformer.h.{place // 2}.{'mlp' if place % 2 else 'attn'}.c_proj"

    def junctions(self):
        return junctions(self.model, **self.inputs)

    def output(self, model):
        return model(**self.inputs).logits

    def without_skips(self):
        parts = self.model.transformer
        words = self.inputs["input_ids"]
        states = parts.wte(words) + parts.wpe(torch.arange(words.shape[1]))
        for block in parts.h:
            states = block.attn(block.ln_1(states))[0]
            states = block.mlp(block.ln_2(states))
        return self.model.lm_head(parts.ln_f(states))


@pytest.fixture(params=["resnet18", "gpt2"])
def net(request):
    if request.param == "resnet18":
        return ResNet18(request.getfixturevalue("torchvision"))
    return GPT2(request.getfixturevalue("transformers"))


def scaled(net, factors):
    """A copy whose branches' last affine layers, weights and biases, are multiplied."""
    model = copy.deepcopy(net.model)
    with torch.no_grad():
        for place, factor in factors.items():
            for parameter in net.last(model, place).parameters():
                parameter.mul_(factor)
    return model


def heard(net, reference):
    """What the last layers of all branches make of the reference."""
    outputs = {}

    def listen(place):
        def hook(module, arguments, output):
            outputs[place] = output.clone()

        return hook

    handles = [net.last(net.model, place).register_forward_hook(listen(place)) for place in range(8)]
    net.model(**reference) if isinstance(reference, dict) else net.model(reference)
    for handle in handles:
        handle.remove()
    return outputs


SETS = [[0], [2], [7], [1, 2, 5], list(range(8))]


@torch.no_grad()
@pytest.mark.parametrize("places", SETS)
def test_a_lesion_is_the_network_with_the_last_layers_of_the_branches_zeroed(net, places):
    found = net.junctions()
    assert len(found) == 8 and {j.kind for j in found} == net.kinds
    before, intact = snapshot(net.model), net.output(net.model)
    with lesion(net.model, [found[place] for place in places]):
        lesioned = net.output(net.model)
    assert torch.equal(lesioned, net.output(scaled(net, dict.fromkeys(places, 0.0))))
    assert not torch.equal(lesioned, intact) and torch.equal(net.output(net.model), intact)
    assert_as_found(net.model, before)


@torch.no_grad()
def test_scaled_branches_are_scaled_last_layers(net):
    found, factors = net.junctions(), [0.1 + 0.2 * place for place in range(8)]
    survival = [1 - (place + 1) / 16 for place in range(8)]
    for gate, multiples in (
        (scale_branches(net.model, found, factors), factors),
        (stochastic_depth(net.model, found, survival=0.5), survival),
        (lesion(net.model, found, kind="scale", factor=-1.0), [-1.0] * 8),
    ):
        expected = net.output(scaled(net, dict(enumerate(multiples))))
        with gate:
            torch.testing.assert_close(net.output(net.model), expected, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_the_mean_over_a_reference(net):
    found, places = net.junctions(), (1, 2, 7)
    outputs = heard(net, net.reference)
    handles = [
        net.last(net.model, place).register_forward_hook(
            lambda module, arguments, output, place=place: (
                outputs[place].mean(dim=0).expand_as(output).clone()
            )
        )
        for place in places
    ]
    expected = net.output(net.model)
    for handle in handles:
        handle.remove()
    before = snapshot(net.model)
    with lesion(net.model, [found[place] for place in places], kind="mean", reference=net.reference):
        torch.testing.assert_close(net.output(net.model), expected, rtol=1e-11, atol=1e-13)
    assert_as_found(net.model, before)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["zero", "mean", "resample"])
@pytest.mark.parametrize("referred", [False, True])
def test_by_number_and_by_hand_are_the_same(net, kind, referred):
    found = [net.junctions()[place] for place in (0, 4, 7)]
    by_hand = [
        junction_by_hand(net.model, net.path(j.index), name=j.name, kind=j.kind, index=j.index) for j in found
    ]
    reference = net.reference if referred and kind != "zero" else None
    results = []
    for chosen in (found, by_hand, [found[0], by_hand[1], found[2]]):
        with lesion(net.model, chosen, kind=kind, reference=reference, seed=2):
            results.append(net.output(net.model))
    torch.testing.assert_close(results[1:], results[:1] * 2, rtol=1e-11, atol=1e-13)
    assert not torch.allclose(results[0], net.output(net.model))


@torch.no_grad()
def test_with_skips_cut_it_is_the_plain_network(net):
    found = net.junctions()
    before, expected = snapshot(net.model), net.without_skips()
    with cut_skips(net.model, found):
        torch.testing.assert_close(net.output(net.model), expected, rtol=1e-12, atol=1e-14)
    assert_as_found(net.model, before)


@torch.no_grad()
@pytest.mark.parametrize("per", ["batch", "example"])
def test_dropped_branches_are_lesions_of_what_was_drawn(net, per):
    """Each example's output is that of one of the eight sets that three branches make."""
    found = [net.junctions()[place] for place in (0, 3, 6)]
    outputs = []
    for chosen in range(8):
        with lesion(net.model, [j for bit, j in enumerate(found) if chosen >> bit & 1]):
            outputs.append(net.output(net.model))
    drawn = set()
    with stochastic_depth(net.model, found, survival=[0.5, 0.5, 0.5], per=per, training=True):
        for _ in range(4):
            rows = [
                [chosen for chosen in range(8) if torch.allclose(outputs[chosen][i], row, rtol=1e-10)]
                for i, row in enumerate(net.output(net.model))
            ]
            assert all(len(row) == 1 for row in rows)
            assert per == "example" or len({row[0] for row in rows}) == 1
            drawn |= {row[0] for row in rows}
    assert len(drawn) > 1
