"""Blocks of networks as they come change places: which ones, and against the network rebuilt that way."""

import copy

import pytest
import torch
from as_found import assert_as_found, snapshot

from gradscope.instruments.gates.interchangeable import interchangeable
from gradscope.instruments.gates.rewiring import parallel, reorder, repeat, skipped
from gradscope.problem import Problem
from gradscope.studies.reordering_study import reordering_study

pytestmark = pytest.mark.filterwarnings("default")

WORDS = 50
_BERT = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
_BERT |= {"intermediate_size": 24, "max_position_embeddings": 32}
_LLAMA = _BERT | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GPT = {"vocab_size": WORDS, "n_embd": 16, "n_layer": 4, "n_head": 2, "n_positions": 32}
_GPT |= {"bos_token_id": 1, "eos_token_id": 2}
# Class, its configuration, the list of its blocks.
FAMILIES = {
    "GPT2LMHeadModel": ("GPT2Config", _GPT, "transformer.h"),
    "LlamaForCausalLM": ("LlamaConfig", _LLAMA, "model.layers"),
    "BertForSequenceClassification": ("BertConfig", _BERT, "bert.encoder.layer"),
}


def language_model(transformers, name):
    torch.manual_seed(0)
    configuration, options, at = FAMILIES[name]
    model = getattr(transformers, name)(getattr(transformers, configuration)(**options)).eval()
    for parameter in model.parameters():
        # From weights this small every order would give nearly the same output.
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    words = torch.randint(3, WORDS - 1, (2, 7), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": words}
    return model, inputs if "Classification" in name else inputs | {"use_cache": False}, at


def rebuilt(model, at, order):
    """A copy whose list of blocks holds them in another order."""
    twin = copy.deepcopy(model)
    blocks = twin.get_submodule(at)
    found = list(blocks)
    for place, source in enumerate(order):
        blocks[place] = found[source] if source in order[place:] else copy.deepcopy(found[source])
    return twin


@pytest.mark.parametrize("name", FAMILIES)
def test_language_models(transformers, name):
    model, inputs, at = language_model(transformers, name)
    names = [f"{at}.{i}" for i in range(4)]
    assert interchangeable(model, **inputs) == [names]
    before = snapshot(model)
    with torch.no_grad():
        intact = model(**inputs).logits
        for order in ([1, 3, 0, 2], [3, 2, 1, 0]):
            expected = rebuilt(model, at, order)(**inputs).logits
            with reorder(model, [names[i] for i in order]):
                assert torch.equal(model(**inputs).logits, expected)
            assert not torch.equal(expected, intact)
        expected = rebuilt(model, at, [2, 2, 2, 2])(**inputs).logits
        with repeat(model, names):
            assert torch.equal(model(**inputs).logits, expected)
        shorter = copy.deepcopy(model)
        kept = shorter.get_submodule(at)
        del kept[1:3]
        for config in {id(m.config): m.config for m in shorter.modules() if hasattr(m, "config")}.values():
            config.num_hidden_layers = 2
        with skipped(model, names[1:3]):
            assert torch.equal(model(**inputs).logits, shorter(**inputs).logits)
        with parallel(model, names[1:2], loops=1):
            torch.testing.assert_close(model(**inputs).logits, intact)
        with parallel(model, names[1:3], loops=2):
            assert not torch.allclose(model(**inputs).logits, intact)
        assert torch.equal(model(**inputs).logits, intact)
    assert_as_found(model, before)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM"])
def test_a_cache_is_refused_where_a_block_runs_twice(transformers, name):
    model, inputs, at = language_model(transformers, name)
    batch = {"input_ids": inputs["input_ids"], "labels": inputs["input_ids"]}
    (names,) = interchangeable(model, batch)
    assert names == [f"{at}.{i}" for i in range(4)]
    for gate in (repeat(model, names), parallel(model, names, loops=2)):
        with gate, torch.no_grad(), pytest.raises(RuntimeError, match=r"cache: call .* with use_cache=False"):
            model(**batch)
    with reorder(model, names[::-1]), torch.no_grad():
        assert torch.equal(model(**batch).logits, model(**batch, use_cache=False).logits)


def test_a_study_of_a_language_model(transformers):
    model, inputs, _ = language_model(transformers, "GPT2LMHeadModel")
    problem = Problem(
        model, [inputs | {"labels": torch.zeros(2)}], forward=lambda model, given: model(**given).logits
    )
    options = {"interventions": ["reverse", "parallel", "skip"], "metric": "kl", "show": False}
    frame = reordering_study(problem, swaps=[2], draws=3, **options)
    assert (frame["status"] == "ok").all()
    assert (frame[frame["quantity"] == "kl"].query("kendall_tau < 1")["value"] > 0).all()


# Groups of the blocks that keep the shape of their input.
STAGES = {
    "resnet34": [(1, 0, 3), (2, 1, 4), (3, 1, 6), (4, 1, 3)],
    "resnet50": [(1, 1, 3), (2, 1, 4), (3, 1, 6), (4, 1, 3)],
}


@pytest.mark.parametrize("name", STAGES)
def test_residual_networks(torchvision, name):
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None, num_classes=4)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 32, 32))
    model.eval()
    groups = interchangeable(model, x)
    assert groups == [
        [f"layer{stage}.{block}" for block in range(first, last)] for stage, first, last in STAGES[name]
    ]
    before = snapshot(model)
    twin = copy.deepcopy(model)
    for stage, first, last in STAGES[name]:
        layer = getattr(twin, f"layer{stage}")
        blocks = list(layer)
        for place in range(first, last):
            layer[place] = blocks[first + last - 1 - place]
    with torch.no_grad(), reorder(model, [block for names in groups for block in reversed(names)]):
        assert torch.equal(model(x), twin(x))
    assert_as_found(model, before)
