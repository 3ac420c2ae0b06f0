"""States, lenses and exits of networks nobody here wrote, against their own hidden states."""

import pytest
import torch
from torch import Tensor, nn

from gradscope.problem import Problem
from gradscope.studies.refinement_study import refinement_study

pytestmark = pytest.mark.filterwarnings("default")

_SMALL = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
_LLAMA = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
FAMILIES = {
    "GPT2": ({"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32}, 2, lambda m: m.transformer.ln_f),
    "Llama": (_LLAMA | {"max_position_embeddings": 32, "pad_token_id": 0}, 2, lambda m: m.model.norm),
    "GPTNeoX": (_LLAMA | {"max_position_embeddings": 32}, 1, lambda m: m.gpt_neox.final_layer_norm),
}


def sentence_loss(output: Tensor, ids: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output[:, :-1].mT, ids[:, 1:], reduction="none").sum(dim=1)


def value_of(frame, quantity: str, index: int) -> float:
    rows = frame[(frame["quantity"] == quantity) & (frame["index"] == index)]
    return float(rows["value"].iloc[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_language_models_agree_with_their_hidden_states(transformers, family):
    options, junctions, norm_of = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**_SMALL, **options)
    model = transformers.AutoModelForCausalLM.from_config(config).double().eval()
    ids = torch.randint(3, 50, (4, 7))
    problem = Problem(
        model,
        [{"input_ids": ids, "labels": ids}],
        loss=sentence_loss,
        forward=lambda m, inputs: m(**inputs, use_cache=False).logits,
    )
    frame = refinement_study(problem, show=False)
    captured: list[Tensor] = []
    handle = norm_of(model).register_forward_pre_hook(lambda module, arguments: captured.append(arguments[0]))
    with torch.no_grad():
        states = list(model(ids, output_hidden_states=True, use_cache=False).hidden_states)
        handle.remove()
        # The library hands out the last state after the final normalisation.
        states[-1] = captured[0]
        unembedding = model.get_output_embeddings()
        for layer, state in enumerate(states):
            logits = unembedding(norm_of(model)(state))
            expected = float(sentence_loss(logits, ids).mean())
            assert value_of(frame, "lens_loss", layer * junctions - 1) == pytest.approx(expected)
    cosine = nn.functional.cosine_similarity
    angles = frame[frame["quantity"] == "angular_distance"].set_index(["index", "other_index"])["value"]
    for first in range(3):
        for last in range(first, 3):
            turned = cosine(states[first][:, -1], states[last + 1][:, -1], dim=-1).arccos().mean() / torch.pi
            place = first * junctions, (last + 1) * junctions - 1
            assert angles[place] == pytest.approx(float(turned))
    if junctions == 1:
        for layer in range(3):
            influence = 1 - cosine(states[layer], states[layer + 1], dim=-1).mean()
            assert value_of(frame, "block_influence", layer) == pytest.approx(float(influence))
    assert set(frame[frame["status"] != "ok"]["quantity"]) == {"early_exit_accuracy"}


def test_early_exit_and_lesions_of_a_torchvision_resnet(torchvision):
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=5).double()
    x, y = torch.randn(4, 3, 32, 32).double(), torch.arange(4)
    model.train()(x)
    model.eval()
    frame = refinement_study((model, (x, y)), show=False)
    loss = nn.CrossEntropyLoss()
    with torch.no_grad():
        stem = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        inputs = [stem]
        for block in [*model.layer1, *model.layer2, *model.layer3, *model.layer4]:
            inputs.append(block(inputs[-1]))
        exits = [float(loss(model.fc(state.mean(dim=(2, 3))), y)) for state in inputs[-2:]]
        assert [value_of(frame, "lens_loss", index) for index in (6, 7)] == pytest.approx(exits)
        intact = float(loss(model(x), y))
        flat = [state.flatten(1) for state in inputs]
        for index in (0, 1, 3, 5, 7):
            influence = 1 - nn.functional.cosine_similarity(flat[index], flat[index + 1]).mean()
            assert value_of(frame, "block_influence", index) == pytest.approx(float(influence))
        model.layer3[1].bn2.weight.zero_()
        model.layer3[1].bn2.bias.zero_()
        change = float(loss(model(x), y)) - intact
    assert value_of(frame, "lesion_loss_change", 5) == pytest.approx(change)
    assert frame[frame["quantity"] == "l2_ratio"]["stage"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
