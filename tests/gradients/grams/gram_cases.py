"""Tiny networks by name, one for each kind of layer, in float64."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.gradients.grams.gram_nets import (
    ClassToken,
    Doubled,
    HandWritten,
    LowRank,
    Mixture,
    OverlappingPieces,
    OwnRMSNorm,
    TinyGPT,
    Windows,
    Wrapped,
)

EXAMPLES = 4


def _vector() -> Tensor:
    return torch.randn(EXAMPLES, 4)


def _sequence(length: int = 3) -> Tensor:
    return torch.randn(EXAMPLES, length, 4)


def _image(channels: int = 2, size: int = 4) -> Tensor:
    return torch.randn(EXAMPLES, channels, size, size)


def _tokens(length: int = 5) -> Tensor:
    return torch.randint(0, 7, (EXAMPLES, length))


def _pooled(*modules: nn.Module, width: int) -> nn.Module:
    body, head = nn.Sequential(*modules), nn.Linear(width, 3)
    return Wrapped(lambda self, x: self.head(self.body(x).flatten(2).mean(dim=2)), body=body, head=head)


def _averaged(*modules: nn.Module, width: int) -> nn.Module:
    body, head = nn.Sequential(*modules), nn.Linear(width, 3)
    return Wrapped(lambda self, x: self.head(self.body(x).mean(dim=1)), body=body, head=head)


def _recurrent(batch_first: bool) -> nn.Module:
    def run(self, x):
        if not batch_first:
            x = x.transpose(0, 1)
        out = self.rnn(x)[0]
        return self.head(out[:, -1] if batch_first else out[-1])

    return Wrapped(run, rnn=nn.LSTM(4, 3, batch_first=batch_first), head=nn.Linear(3, 3))


def _frames() -> nn.Module:
    return Wrapped(
        lambda self, x: self.head(self.body(x.flatten(0, 1)).unflatten(0, (-1, 2)).mean(dim=(1, 3, 4))),
        body=nn.Conv2d(2, 3, 2),
        head=nn.Linear(3, 3),
    )


def _sequence_first_tokens() -> nn.Module:
    return Wrapped(
        lambda self, x: self.head(self.mix(self.tokens(x.t())).tanh().mean(dim=0)),
        tokens=nn.Embedding(7, 4),
        mix=nn.Linear(4, 4),
        head=nn.Linear(4, 3),
    )


def _attention() -> nn.Module:
    def run(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(dim=1))

    return Wrapped(run, attention=nn.MultiheadAttention(4, 2, batch_first=True), head=nn.Linear(4, 3))


def _encoder(batch_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, batch_first=batch_first)

    def run(self, x):
        x = self.layer(x if batch_first else x.transpose(0, 1))
        return self.head(x.mean(dim=1 if batch_first else 0))

    return Wrapped(run, layer=layer, head=nn.Linear(4, 3))


def _reused() -> nn.Module:
    return Wrapped(
        lambda self, x: self.head(self.shared(torch.tanh(self.shared(x)))),
        shared=nn.Linear(4, 4),
        head=nn.Linear(4, 3),
    )


def _reused_convolution() -> nn.Module:
    return _pooled(shared := nn.Conv2d(2, 2, 3, padding=1), nn.Tanh(), shared, width=2)


def _two_strides() -> nn.Module:
    def run(self, x):
        small = functional.conv2d(x, self.kernel.weight, stride=2)
        large = functional.conv2d(x, self.kernel.weight, padding=1)
        return self.head(small.mean(dim=(2, 3)) + large.square().mean(dim=(2, 3)))

    return Wrapped(run, kernel=nn.Conv2d(2, 3, 3, bias=False), head=nn.Linear(3, 3))


def _old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))


def _parametrized() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))


CASES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "linear": lambda: (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3, bias=False)), _vector()),
    "linear sequence": lambda: (_averaged(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 4), width=4), _sequence()),
    "linear sequence of B": lambda: (_averaged(nn.Linear(4, 5), nn.Tanh(), width=5), _sequence(EXAMPLES)),
    "one output": lambda: (nn.Sequential(nn.Linear(4, 1), nn.Tanh(), nn.Linear(1, 3)), _vector()),
    "in place": lambda: (nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)), _vector()),
    "conv1d": lambda: (
        _pooled(
            nn.Conv1d(3, 4, 3, padding=2, dilation=2),
            nn.Tanh(),
            nn.Conv1d(4, 2, 3, stride=2, groups=2),
            width=2,
        ),
        torch.randn(EXAMPLES, 3, 9),
    ),
    "conv2d": lambda: (
        _pooled(
            nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(4, 4, (2, 1), groups=2), width=4
        ),
        _image(),
    ),
    "conv over frames": lambda: (_frames(), torch.randn(EXAMPLES, 2, 2, 4, 4)),
    "conv2d reflected": lambda: (
        _pooled(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.Conv2d(3, 2, 1), width=2),
        _image(),
    ),
    "conv3d": lambda: (_pooled(nn.Conv3d(2, 3, 2), width=3), torch.randn(EXAMPLES, 2, 3, 3, 3)),
    "conv transposed": lambda: (
        _pooled(nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1), nn.Tanh(), width=3),
        _image(),
    ),
    "embedding": lambda: (_averaged(nn.Embedding(7, 4, padding_idx=2), nn.Linear(4, 4), width=4), _tokens()),
    "layer norm": lambda: (_averaged(nn.LayerNorm(4), nn.Tanh(), width=4), _sequence()),
    "layer norm of images": lambda: (_pooled(nn.LayerNorm([2, 4, 4]), nn.Tanh(), width=2), _image()),
    "group norm": lambda: (_pooled(nn.GroupNorm(2, 4), nn.Tanh(), width=4), _image(4)),
    "rms norm": lambda: (_averaged(nn.RMSNorm(4), nn.Tanh(), OwnRMSNorm(4), width=4), _sequence()),
    "instance norm": lambda: (_pooled(nn.InstanceNorm2d(2, affine=True), nn.Tanh(), width=2), _image()),
    "bag of tokens": lambda: (nn.Sequential(nn.EmbeddingBag(7, 4), nn.Tanh(), nn.Linear(4, 3)), _tokens()),
    "sequence first tokens": lambda: (_sequence_first_tokens(), _tokens(EXAMPLES)),
    "mixture": lambda: (Mixture(), _vector()),
    "low rank": lambda: (LowRank(), _vector()),
    "prelu": lambda: (nn.Sequential(nn.Linear(4, 5), nn.PReLU(5), nn.Linear(5, 3)), _vector()),
    "bilinear": lambda: (
        Wrapped(lambda s, x: s.bilinear(x, x.tanh()), bilinear=nn.Bilinear(4, 4, 3)),
        _vector(),
    ),
    "lstm": lambda: (_recurrent(True), _sequence()),
    "lstm sequence first": lambda: (_recurrent(False), _sequence(EXAMPLES)),
    "attention": lambda: (_attention(), _sequence()),
    "encoder": lambda: (_encoder(True), _sequence(EXAMPLES)),
    "encoder sequence first": lambda: (_encoder(False), _sequence(EXAMPLES)),
    "gpt": lambda: (TinyGPT(), _tokens()),
    "gpt of B tokens": lambda: (TinyGPT(padding_idx=1), _tokens(EXAMPLES)),
    "windows": lambda: (Windows(), torch.randn(EXAMPLES, 4, 4, 3)),
    "class token": lambda: (ClassToken(), _image()),
    "hand written": lambda: (HandWritten(), _vector()),
    "overlapping pieces": lambda: (OverlappingPieces(), _vector()),
    "custom function": lambda: (Doubled(), _vector()),
    "re-used": lambda: (_reused(), _vector()),
    "re-used convolution": lambda: (_reused_convolution(), _image()),
    "two strides": lambda: (_two_strides(), _image()),
    "weight norm": lambda: (_old_weight_norm(), _vector()),
    "parametrized": lambda: (_parametrized(), _vector()),
}


def case(name: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(sum(map(ord, name)))
    net, x = CASES[name]()
    net = net.double()
    x = x.double() if x.is_floating_point() else x
    return net, (x, torch.tensor([0, 2, 1, 2]))
