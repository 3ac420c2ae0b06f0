"""The networks on which `layer_grams.py` takes Grams: a chain of dense layers, residual networks, a small GPT."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import gradscope as gs


class Case(NamedTuple):
    """A network and a batch; the loss is one number for each example."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, summed over an example's tokens."""
        each = functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none")
        return each.view(len(targets), -1).sum(dim=1)

    def total(self) -> Tensor:
        return self.losses(self.model(self.inputs), self.targets).sum()

    @property
    def owners(self) -> dict[str, nn.Module]:
        return {name: m for name, m in self.model.named_modules() if m._parameters}

    def first(self, examples: int) -> "Case":
        return Case(self.model, self.inputs[:examples], self.targets[:examples])


class Attention(nn.Module):
    """Causal, four heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.project(x).view(batch, tokens, 3, 4, width // 4)
        query, key, value = (part.transpose(1, 2) for part in parts.unbind(2))
        scores = query @ key.transpose(2, 3) / (width // 4) ** 0.5
        future = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
        seen = scores.masked_fill(future, float("-inf")).softmax(dim=3) @ value
        return self.out(seen.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Gpt(nn.Module):
    """A small GPT of plain modules, since peers have no rule for the layer that transformers makes its GPT-2 of."""

    def __init__(self, blocks: int, width: int, vocabulary: int, tokens: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(tokens, width)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(blocks)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device).expand(x.shape)
        return self.head(self.norm(self.blocks(self.words(x) + self.places(places))))


def case(
    name: str,
    examples: int,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.channels_last,
) -> Case:
    """`mlp-50` (layers of 256), `resnet-20` (batch normalisation by running statistics), `resnet-20-plain`, `gpt-4`."""
    torch.manual_seed(0)
    family, depth, *plain = name.split("-")
    if family == "mlp":
        layers: list[nn.Module] = []
        for _ in range(int(depth)):
            layers += [nn.Linear(256, 256), nn.ReLU()]
            nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")
        model, inputs = nn.Sequential(*layers, nn.Linear(256, 10)), torch.randn(examples, 256)
    elif family == "gpt":
        model, inputs = Gpt(int(depth), 128, 256, 64), torch.randint(256, (examples, 64))
        return Case(model.to(dtype).eval(), inputs, torch.randint(256, (examples, 64)))
    else:
        model = gs.nets.build("resnet", depth=int(depth), seed=0)
        if plain:
            for module in list(model.modules()):
                for child, norm in list(module.named_children()):
                    if isinstance(norm, nn.BatchNorm2d):
                        setattr(module, child, nn.Identity())
        _calibrate(model)
        model = model.to(memory_format=layout)
        inputs = torch.randn(examples, 3, 32, 32).contiguous(memory_format=layout)
    return Case(model.to(dtype).eval(), inputs.to(dtype), torch.arange(examples) % 10)


def _calibrate(model: nn.Module) -> None:
    """Running statistics of a batch, since those of a fresh network normalise nothing."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(64, 3, 32, 32))
