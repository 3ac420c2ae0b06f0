"""Path counts and attending branches of networks as they come, against what their papers' blocks multiply to."""

import pytest
import torch
from torch import Tensor

from gradscope.instruments.junctions import trace
from gradscope.theory import path_counts

pytestmark = pytest.mark.filterwarnings("default")

# Blocks of each network at level 0, what each multiplies by, and whether crossings tell all paths apart.
IMAGES = {
    "densenet121": ([[1, 1]] * 58, True),
    # A dual path: 18 blocks that add to one half of the units and put new ones beside the other.
    "dpn68": ([[2, 2]] * 18, False),
    # Five stages that hand half of the units past their 23 blocks.
    "cspdarknet53": ([[1, *path_counts([[0, 1], *[[1, 1]] * n])[1:]] for n in (1, 2, 8, 8, 4)], True),
    "res2net50_26w_4s": ([[1, 1]] * 16, True),
    # One block each of five layers in a row, all of which are put beside what the first of them reads.
    "ese_vovnet19b_dw": ([[1, 3]] * 4, True),
    "mixer_s16_224": ([[1, 1]] * 16, True),
    "swin_tiny_patch4_window7_224": ([[1, 1]] * 24, True),
}
ATTENDING = {"swin_tiny_patch4_window7_224": 12, "cait_xxs24_224": 26, "deit_tiny_patch16_224": 12}


def pictures(name: str) -> Tensor:
    size = 224 if name.endswith("224") else 64
    return torch.randn(1, 3, size, size)


@pytest.mark.parametrize("name", IMAGES)
def test_blocks_multiply(timm, name):
    model = timm.create_model(name, pretrained=False).eval()
    blocks, told_apart = IMAGES[name]
    routes = trace(model, model, pictures(name)).routes()
    assert routes.counts() == path_counts(blocks)
    assert routes.one_to_one() is told_apart


@pytest.mark.parametrize("name", ATTENDING)
def test_branches_that_attend(timm, name):
    """Also where heads are mixed between the softmax and the average, as in CaiT."""
    model = timm.create_model(name, pretrained=False).eval()
    found = trace(model, model, pictures(name))
    outer = [any(found.attention[j.index]) for j in found.junctions if j.level == 0 and j.kind == "identity"]
    assert sum(outer) == ATTENDING[name]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_an_encoder_decoder_counts_the_paths_into_its_encoder(transformers, attention):
    config = transformers.T5Config(
        vocab_size=50,
        d_model=16,
        d_kv=4,
        d_ff=32,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
        attn_implementation=attention,
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    batch = {"input_ids": torch.arange(12).view(2, 6), "decoder_input_ids": torch.arange(8).view(2, 4)}
    found = trace(model, lambda given: model(**given).logits, batch)
    # Into the first decoder layer t e, e = (1 + t)^4, then (1 + t) for its MLP; (1 + t)^3 through the second, or t e
    # into it and (1 + t).
    encoder = [[1, 1]] * 4
    first = path_counts([[0, 1], *encoder, *[[1, 1]] * 4])
    second = [*path_counts([[0, 1], *encoder, [1, 1]]), 0, 0, 0]
    routes = found.routes()
    assert routes.counts() == [a + b for a, b in zip(first, second, strict=True)]
    assert routes.one_to_one()
    assert [any(flags) for flags in found.attention] == [True, False] * 2 + [True, True, False] * 2


def test_parallel_layers_attend_in_one_of_two_branches(transformers):
    config = transformers.GPTJConfig(
        vocab_size=50, n_embd=16, n_layer=3, n_head=2, n_positions=16, rotary_dim=4
    )
    model = transformers.GPTJForCausalLM(config).eval()
    found = trace(model, lambda ids: model(ids).logits, torch.arange(12).view(2, 6))
    assert found.routes().counts() == path_counts([[1, 2]] * 3)
    assert [sorted(flags) for flags in found.attention] == [[False, True]] * 3
