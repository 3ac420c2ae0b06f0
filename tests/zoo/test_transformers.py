"""Residual junctions of Hugging Face networks as they come: how many, which gradient, which lesion."""

import copy
import itertools

import pytest
import torch
from as_found import assert_as_found, snapshot

from gradscope.gradients.paths import path_gradients
from gradscope.instruments.gates import lesion
from gradscope.instruments.junctions import junctions, trace
from gradscope.instruments.quiet import left_as_found
from gradscope.problem import Problem
from gradscope.studies.gradient_correlation import gradient_correlation

pytestmark = pytest.mark.filterwarnings("default")

LAYERS, WORDS = 2, 50
_GPT = {"vocab_size": WORDS, "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 32}
_GPT |= {"bos_token_id": 1, "eos_token_id": 2}
_BERT = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
_BERT |= {"intermediate_size": 48, "max_position_embeddings": 32}
_LLAMA = _BERT | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_OPT = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
_OPT |= {"ffn_dim": 48, "max_position_embeddings": 32, "word_embed_proj_dim": 32}
_BLOOM = {"vocab_size": WORDS, "hidden_size": 32, "n_layer": LAYERS, "n_head": 4}
_DISTIL = {"vocab_size": WORDS, "dim": 32, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 48}
_FALCON = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
_T5 = {"vocab_size": WORDS, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": LAYERS, "num_heads": 4}
_MAMBA = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": LAYERS, "state_size": 4}
_MAMBA2 = _MAMBA | {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 4}
_MPT = {"vocab_size": WORDS, "d_model": 32, "n_heads": 4, "n_layers": LAYERS, "max_seq_len": 32}
_RWKV = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": LAYERS, "attention_hidden_size": 32}
_VIT = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 48}
_RESNET = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 32, 64],
    "depths": [2, 2, 2, 2],
    "layer_type": "basic",
}

# Class, its configuration, junctions of level 0, branches that meet in each.
FAMILIES = {
    "GPT2LMHeadModel": ("GPT2Config", _GPT, 2 * LAYERS, 1),
    "LlamaForCausalLM": ("LlamaConfig", _LLAMA, 2 * LAYERS, 1),
    "Gemma2ForCausalLM": ("Gemma2Config", _LLAMA | {"head_dim": 8}, 2 * LAYERS, 1),
    "MixtralForCausalLM": (
        "MixtralConfig",
        _LLAMA | {"num_key_value_heads": 2, "num_local_experts": 3},
        2 * LAYERS,
        1,
    ),
    "Olmo2ForCausalLM": ("Olmo2Config", _LLAMA, 2 * LAYERS, 1),
    "GraniteForCausalLM": ("GraniteConfig", _LLAMA, 2 * LAYERS, 1),
    "OPTForCausalLM": ("OPTConfig", _OPT, 2 * LAYERS, 1),
    "BloomForCausalLM": ("BloomConfig", _BLOOM, 2 * LAYERS, 1),
    "MptForCausalLM": ("MptConfig", _MPT, 2 * LAYERS, 1),
    "RwkvForCausalLM": ("RwkvConfig", _RWKV, 2 * LAYERS, 1),
    "BertForSequenceClassification": ("BertConfig", _BERT, 2 * LAYERS, 1),
    "DistilBertForSequenceClassification": ("DistilBertConfig", _DISTIL, 2 * LAYERS, 1),
    "AlbertForSequenceClassification": ("AlbertConfig", _BERT | {"embedding_size": 16}, 2 * LAYERS, 1),
    "GPTJForCausalLM": ("GPTJConfig", _GPT | {"rotary_dim": 4}, LAYERS, 2),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", _BERT, LAYERS, 2),
    "PhiForCausalLM": ("PhiConfig", _LLAMA, LAYERS, 2),
    "CohereForCausalLM": ("CohereConfig", _LLAMA, LAYERS, 2),
    "FalconForCausalLM": ("FalconConfig", _FALCON, LAYERS, 2),
    "T5ForConditionalGeneration": ("T5Config", _T5, 2 * LAYERS + 3 * LAYERS, 1),
    "MambaForCausalLM": ("MambaConfig", _MAMBA, LAYERS, 1),
    "Mamba2ForCausalLM": ("Mamba2Config", _MAMBA2, LAYERS, 1),
    "ViTForImageClassification": ("ViTConfig", _VIT | {"image_size": 32, "patch_size": 8}, 2 * LAYERS, 1),
    "ResNetForImageClassification": ("ResNetConfig", _RESNET, 8, 1),
}
# Relative error of float64 models: some compute norms or positions in float32 whatever the model's precision.
EXACT = {"GPT2LMHeadModel": 1e-13, "BertForSequenceClassification": 1e-13, "FalconForCausalLM": 1e-13}
ROUNDED = {"LlamaForCausalLM": 1e-6, "T5ForConditionalGeneration": 1e-6, "GPTJForCausalLM": 1e-8}
# The last layers of the branches, in the order of the junctions of one layer.
LAST = {
    "GPT2LMHeadModel": ("transformer.h.{}", [["attn.c_proj"], ["mlp.c_proj"]]),
    "LlamaForCausalLM": ("model.layers.{}", [["self_attn.o_proj"], ["mlp.down_proj"]]),
    "OPTForCausalLM": ("model.decoder.layers.{}", [["self_attn.out_proj"], ["fc2"]]),
    "BloomForCausalLM": ("transformer.h.{}", [["self_attention.dense"], ["mlp.dense_4h_to_h"]]),
    "BertForSequenceClassification": (
        "bert.encoder.layer.{}",
        [["attention.output.dense"], ["output.dense"]],
    ),
    "GPTNeoXForCausalLM": ("gpt_neox.layers.{}", [["attention.dense", "mlp.dense_4h_to_h"]]),
}


def network(transformers, name):
    torch.manual_seed(0)
    configuration, options, *_ = FAMILIES[name]
    return getattr(transformers, name)(getattr(transformers, configuration)(**options)).eval()


def batch(name):
    generator = torch.Generator().manual_seed(1)
    if "Image" in name:
        return {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}
    words = {"input_ids": torch.randint(3, WORDS - 1, (2, 7), generator=generator)}
    if "T5" in name:
        words["decoder_input_ids"] = torch.randint(3, WORDS - 1, (2, 5), generator=generator)
    return words if "Classification" in name else words | {"use_cache": False}


@pytest.mark.parametrize("name", FAMILIES)
def test_counts(transformers, name):
    model, inputs = network(transformers, name), batch(name)
    *_, count, branches = FAMILIES[name]
    for frozen in (False, True):
        model.requires_grad_(not frozen)
        for training in (False, True):
            with left_as_found(model):
                model.train(training)
                found = trace(model, lambda given: model(**given), inputs).junctions
            outer = [j for j in found if j.level == 0]
            assert len(outer) == count and all(len(j.branches) == branches and j.graded for j in outer)


def problem_of(transformers, name):
    model = network(transformers, name).double()
    return Problem(
        model, (batch(name), torch.zeros(2)), lambda output, target: output.flatten(1).square().sum(1)
    )


def at_the_embedding(problem):
    """The gradient at what the first embedding makes, by its output alone."""
    inputs, targets = problem.first_batch()
    outputs = []
    handles = [
        module.register_forward_hook(lambda module, arguments, output: outputs.append(output))
        for module in problem.model.modules()
        if isinstance(module, torch.nn.Embedding)
    ]
    with problem.prepared():
        value = problem.value(inputs, targets)
    for handle in handles:
        handle.remove()
    return torch.autograd.grad(value, outputs[0])[0].double()


@pytest.mark.parametrize("name", EXACT | ROUNDED)
def test_path_gradients_sum_to_the_gradient(transformers, name):
    problem = problem_of(transformers, name)
    before = snapshot(problem.model)
    graded = path_gradients(problem)
    assert_as_found(problem.model, before)
    whole = at_the_embedding(problem)
    torch.testing.assert_close(
        graded.sum(dim=0), whole, rtol=0, atol=float(whole.abs().max()) * (EXACT | ROUNDED)[name]
    )


def test_lengths_by_detaching_every_set_of_branches(transformers):
    problem = problem_of(transformers, "GPT2LMHeadModel")
    branches = [
        part for layer in problem.model.transformer.h for part in (layer.attn.c_proj, layer.mlp.c_proj)
    ]
    through = {}
    for opened in itertools.product((False, True), repeat=len(branches)):
        handles = [
            branch.register_forward_hook(lambda module, arguments, output: output.detach())
            for branch, is_open in zip(branches, opened, strict=True)
            if not is_open
        ]
        through[opened] = at_the_embedding(problem)
        for handle in handles:
            handle.remove()
    expected = torch.zeros(len(branches) + 1, *through[opened].shape, dtype=torch.float64)
    for crossed, within in itertools.product(through, repeat=2):
        if all(c or not w for c, w in zip(crossed, within, strict=True)):
            expected[sum(crossed)] += (-1) ** (sum(crossed) - sum(within)) * through[within]
    torch.testing.assert_close(
        path_gradients(problem), expected, rtol=0, atol=1e-13 * float(expected.abs().max())
    )


@pytest.mark.parametrize("name", LAST)
def test_a_lesion_is_the_branch_with_its_last_layer_zero(transformers, name):
    model, inputs = network(transformers, name), batch(name)
    path, parts = LAST[name]
    before = snapshot(model)
    with torch.no_grad():
        intact = model(**inputs).logits
        for junction in junctions(model, **inputs):
            zeroed = copy.deepcopy(model)
            layer = zeroed.get_submodule(path.format(junction.index // len(parts)))
            for last in parts[junction.index % len(parts)]:
                for parameter in layer.get_submodule(last).parameters():
                    parameter.zero_()
            with lesion(model, junction):
                lesioned = model(**inputs).logits
            assert torch.equal(lesioned, zeroed(**inputs).logits) and not torch.equal(lesioned, intact)
        assert torch.equal(model(**inputs).logits, intact)
    assert_as_found(model, before)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "BertForSequenceClassification", "OPTForCausalLM"])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_correlation_of_integer_inputs(transformers, name, frozen):
    frame = gradient_correlation((network(transformers, name).requires_grad_(not frozen), batch(name)))
    read = frame[frame["status"] == "ok"]
    assert read["site"].iloc[0] == "input" and read["value"].between(-1 - 1e-6, 1 + 1e-6).all()
    # OPT's second feed-forward layer works on flattened tokens: no row for each example.
    assert set(frame["status"]) == ({"ok", "skipped"} if name.startswith("OPT") else {"ok"})
