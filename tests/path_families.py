"""Small networks of torchvision and Hugging Face, and the modules that end their residual branches."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

WORDS = 40


class Family(NamedTuple):
    """A network of a family.

    Attributes:
        package: Where it comes from.
        make: The network, given the package.
        branches: The modules that end its branches, in the order in which they are added.
        source: The embedding of its input, if that is integers.
    """

    package: str
    make: Callable[[Any], nn.Module]
    branches: tuple[str, ...]
    source: str = ""


def residual(block: str, **options: int) -> Callable[[Any], nn.Module]:
    def make(torchvision: Any) -> nn.Module:
        kind = getattr(torchvision.models.resnet, block)
        return torchvision.models.ResNet(kind, [1, 1, 2, 1], num_classes=4, **options)

    return make


def densely(torchvision: Any) -> nn.Module:
    return torchvision.models.DenseNet(
        growth_rate=4, block_config=(3, 2), num_init_features=8, bn_size=2, num_classes=4
    )


def mobile(torchvision: Any) -> nn.Module:
    setting = [[1, 8, 1, 1], [6, 8, 3, 2], [6, 16, 3, 2]]
    return torchvision.models.MobileNetV2(num_classes=4, inverted_residual_setting=setting)


def efficient(torchvision: Any) -> nn.Module:
    block = torchvision.models.efficientnet.MBConvConfig
    stages = [block(1, 3, 1, 8, 8, 2, 1, 1), block(4, 3, 2, 8, 16, 3, 1, 1)]
    return torchvision.models.EfficientNet(stages, dropout=0.1, num_classes=4)


def convolving(torchvision: Any) -> nn.Module:
    block = torchvision.models.convnext.CNBlockConfig
    return torchvision.models.ConvNeXt([block(8, 16, 2), block(16, None, 2)], layer_scale=0.3, num_classes=4)


def windowed(torchvision: Any) -> nn.Module:
    return torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=8, depths=[2, 1], num_heads=[2, 2], window_size=[2, 2], num_classes=4
    )


def seeing(torchvision: Any) -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24, num_classes=4
    )


def configured(model: str, configuration: str, **options: object) -> Callable[[Any], nn.Module]:
    def make(transformers: Any) -> nn.Module:
        return getattr(transformers, model)(getattr(transformers, configuration)(**options))

    return make


def layered(pattern: str, parts: tuple[str, ...], layers: int = 2) -> tuple[str, ...]:
    return tuple(f"{pattern.format(layer)}.{part}" for layer in range(layers) for part in parts)


GPT = {"vocab_size": WORDS, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
GPT |= {"bos_token_id": 1, "eos_token_id": 2}
BERT = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 24, "max_position_embeddings": 16}
LLAMA = BERT | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
T5 = {"vocab_size": WORDS, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
BART = {"vocab_size": WORDS, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
BART |= {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 16}
STAGES = ("layer1.0", "layer2.0", "layer3.0", "layer3.1", "layer4.0")

FAMILIES = {
    "ResNet": Family("torchvision", residual("BasicBlock"), tuple(f"{block}.bn2" for block in STAGES)),
    "ResNeXt": Family(
        "torchvision",
        residual("Bottleneck", groups=4, width_per_group=4),
        tuple(f"{block}.bn3" for block in STAGES),
    ),
    "DenseNet": Family(
        "torchvision",
        densely,
        tuple(
            f"features.denseblock{b}.denselayer{k}.conv2"
            for b, n in ((1, 3), (2, 2))
            for k in range(1, n + 1)
        ),
    ),
    "MobileNetV2": Family("torchvision", mobile, tuple(f"features.{k}.conv" for k in (3, 4, 6, 7))),
    "EfficientNet": Family(
        "torchvision",
        efficient,
        tuple(f"features.{place}.stochastic_depth" for place in ("1.0", "1.1", "2.1", "2.2")),
    ),
    "ConvNeXt": Family(
        "torchvision", convolving, tuple(f"features.{s}.{k}.stochastic_depth" for s in (1, 3) for k in (0, 1))
    ),
    "Swin": Family(
        "torchvision",
        windowed,
        tuple(f"features.{place}.{part}" for place in ("1.0", "1.1", "3.0") for part in ("attn", "mlp")),
    ),
    "ViT": Family(
        "torchvision", seeing, layered("encoder.layers.encoder_layer_{}", ("self_attention", "mlp"))
    ),
    "GPT-2": Family(
        "transformers",
        configured("GPT2LMHeadModel", "GPT2Config", **GPT),
        layered("transformer.h.{}", ("attn.c_proj", "mlp.c_proj")),
        "transformer.wte",
    ),
    "GPT-J": Family(
        "transformers",
        configured("GPTJForCausalLM", "GPTJConfig", **GPT, rotary_dim=4),
        layered("transformer.h.{}", ("attn.out_proj", "mlp.fc_out")),
        "transformer.wte",
    ),
    "GPT-NeoX": Family(
        "transformers",
        configured("GPTNeoXForCausalLM", "GPTNeoXConfig", **LLAMA),
        layered("gpt_neox.layers.{}", ("mlp.dense_4h_to_h", "attention.dense")),
        "gpt_neox.embed_in",
    ),
    "Llama": Family(
        "transformers",
        configured("LlamaForCausalLM", "LlamaConfig", **LLAMA),
        layered("model.layers.{}", ("self_attn.o_proj", "mlp.down_proj")),
        "model.embed_tokens",
    ),
    "BERT": Family(
        "transformers",
        configured("BertForSequenceClassification", "BertConfig", **BERT, num_labels=4),
        layered("bert.encoder.layer.{}", ("attention.output.dense", "output.dense")),
        "bert.embeddings.word_embeddings",
    ),
    "DeiT": Family(
        "transformers",
        configured(
            "ViTForImageClassification", "ViTConfig", **VIT, image_size=32, patch_size=16, num_labels=4
        ),
        layered("vit.layers.{}", ("attention.o_proj", "mlp.fc2")),
    ),
    "T5": Family(
        "transformers",
        configured("T5ForConditionalGeneration", "T5Config", **T5),
        (
            *("encoder.block.0.layer.0.dropout", "encoder.block.0.layer.1.dropout"),
            *(f"decoder.block.0.layer.{part}.dropout" for part in range(3)),
        ),
        "encoder.embed_tokens",
    ),
    "BART": Family(
        "transformers",
        configured("BartForConditionalGeneration", "BartConfig", **BART),
        (
            *("model.encoder.layers.0.self_attn.out_proj", "model.encoder.layers.0.fc2"),
            *(
                f"model.decoder.layers.0.{part}"
                for part in ("self_attn.out_proj", "encoder_attn.out_proj", "fc2")
            ),
        ),
        "model.encoder.embed_tokens",
    ),
}
TWO_STREAMS = ("T5", "BART")
PARALLEL = ("GPT-J", "GPT-NeoX")
NORMALISED = ("ResNet", "ResNeXt", "DenseNet", "MobileNetV2", "EfficientNet")
