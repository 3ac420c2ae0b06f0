"""The problems that operators of second derivatives meet: those of every test, and further ones."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from cases import CASES, Residual, classes, plain_net, seeded
from torch import Tensor, nn

from gradscope.problem import Problem


class Tokens(nn.Module):
    """A layer over five tokens of width four, then the mean of the tokens and a readout."""

    def __init__(self, layer: nn.Module, width: int = 4) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.layer(x.view(len(x), 5, 4))
        return self.head((mixed[0] if isinstance(mixed, tuple) else mixed).mean(dim=1))


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` of its input with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Used(nn.Module):
    """One module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


class Classifier(nn.Module):
    """Takes a batch by keywords and answers with `.logits`, as Hugging Face models do."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        weights = attention_mask[..., None] / attention_mask.sum(dim=1)[:, None, None]
        return SimpleNamespace(logits=self.head(self.norm((self.embedding(input_ids) * weights).sum(dim=1))))


def dict_batches() -> Problem:
    generator = torch.Generator().manual_seed(3)
    batches = [
        {
            "input_ids": torch.randint(0, 6, (size, 4), generator=generator),
            "attention_mask": torch.ones(size, 4, dtype=torch.float64).tril(2),
            "labels": torch.randint(0, 3, (size,), generator=generator),
        }
        for size in (4, 3)
    ]
    return Problem(Classifier().double(), batches)


def images(layer: nn.Module) -> Problem:
    """A layer between a convolution and a readout."""
    layers = [nn.Conv2d(1, 4, 2), layer, nn.Tanh(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(4, 3)]
    return classes(nn.Sequential(*layers), 1, 4, 4)


def layered(layer: nn.Module) -> Problem:
    """A layer between two linear ones."""
    return classes(nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 3)), 4)


def fitted(loss: Any, targets: Callable[[Tensor], Tensor], **options: Any) -> Problem:
    """A plain net whose loss compares its three outputs with targets made from noise, [N, 3]; a short last batch."""
    generator = torch.Generator().manual_seed(4)
    batches = []
    for size in (5, 2):
        inputs = torch.randn(size, 4, generator=generator, dtype=torch.float64)
        noise = torch.randn(size, 3, generator=generator, dtype=torch.float64)
        batches.append((inputs, targets(noise)))
    return Problem(plain_net().double(), batches, loss, **options)


def log_cosh(output: Tensor, target: Tensor) -> Tensor:
    """A loss of nobody's table, one value per example."""
    return (output - target).cosh().log().sum(dim=1)


def largest(noise: Tensor) -> Tensor:
    return noise.argmax(dim=1)


def scaled(noise: Tensor) -> Tensor:
    return 3 * noise


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 1, dim_feedforward=4, dropout=0.1, batch_first=True)


CURVATURE_CASES: dict[str, Callable[[], Problem]] = CASES | {
    "layer norm": seeded(lambda: layered(nn.Sequential(nn.LayerNorm(6), nn.Tanh()))),
    "group norm": seeded(lambda: images(nn.GroupNorm(2, 4))),
    "instance norm": seeded(lambda: images(nn.InstanceNorm2d(4, affine=True))),
    "embedding": seeded(lambda: dict_batches()),
    "recurrent": seeded(lambda: classes(Tokens(nn.RNN(4, 2, batch_first=True), 2), 20)),
    "LSTM": seeded(lambda: classes(Tokens(nn.LSTM(4, 2, batch_first=True), 2), 20)),
    "GRU": seeded(lambda: classes(Tokens(nn.GRU(4, 2, batch_first=True), 2), 20)),
    "multi-head attention": seeded(lambda: classes(Tokens(SelfAttention()), 20)),
    "transformer encoder": seeded(lambda: classes(Tokens(encoder()), 20)),
    "PReLU": seeded(lambda: layered(nn.PReLU(6))),
    "GELU": seeded(lambda: layered(nn.GELU())),
    "SiLU": seeded(lambda: layered(nn.SiLU())),
    "module used twice": seeded(lambda: classes(Used(), 4, sizes=(5, 2))),
    "residual after a layer": seeded(
        lambda: classes(
            nn.Sequential(nn.Linear(4, 5), Residual(nn.Linear(5, 5)), nn.Tanh(), nn.Linear(5, 3)), 4
        )
    ),
    "soft targets": seeded(lambda: fitted("cross_entropy", lambda noise: noise.softmax(dim=1))),
    "label smoothing": seeded(lambda: fitted(nn.CrossEntropyLoss(label_smoothing=0.1), largest)),
    "binary cross-entropy": seeded(
        lambda: fitted(nn.BCEWithLogitsLoss(reduction="sum"), lambda noise: (noise > 0).double())
    ),
    "mean squared error": seeded(lambda: fitted(nn.MSELoss(), scaled)),
    "smooth L1": seeded(lambda: fitted(nn.SmoothL1Loss(), scaled)),
    "Huber": seeded(lambda: fitted(nn.HuberLoss(delta=0.5), scaled)),
    "a loss of one's own": seeded(lambda: fitted(log_cosh, scaled)),
    "sum over examples": seeded(lambda: fitted("half_squared_error", scaled, reduction="sum")),
}
