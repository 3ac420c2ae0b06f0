"""Tiny networks whose layers are used in ways that a module does not show."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class Wrapped(nn.Module):
    """A network from a function of itself and its input, with the modules given by name."""

    def __init__(self, forward: Callable[..., Tensor], **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self._run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._run(self, x)


class OwnRMSNorm(nn.Module):
    """As many language models write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Conv1D(nn.Module):
    """The transposed linear layer of GPT-2."""

    def __init__(self, width_out: int, width_in: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width_in, width_out) / 2)
        self.bias = nn.Parameter(torch.randn(width_out))

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return flat.view(*x.shape[:-1], -1)


class TinyGPT(nn.Module):
    """Causal attention by one packed projection, learned positions, a head tied to the embedding."""

    def __init__(
        self, tokens: int = 7, width: int = 6, length: int = 5, padding_idx: int | None = None
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width, padding_idx=padding_idx)
        self.positions = nn.Embedding(length + 3, width)
        self.norm = nn.LayerNorm(width)
        self.packed = Conv1D(3 * width, width)
        self.projection = nn.Linear(width, width)
        self.head = nn.Linear(width, tokens, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x) + self.positions(torch.arange(x.shape[1]))
        q, k, v = (
            t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.packed(self.norm(h)).chunk(3, dim=-1)
        )
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.projection(attended.transpose(1, 2).flatten(2))
        return self.head(h).mean(dim=1)


class Windows(nn.Module):
    """Swin-like: windows of 2 x 2, folded into the first axis, shifted, and taken apart again."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.inside = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.randn(9))
        self.register_buffer("index", torch.randint(0, 9, (4, 4)))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        x = torch.roll(x, (-1, -1), dims=(1, 2))
        windows = x.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        mixed = torch.softmax(windows @ windows.transpose(1, 2) + self.bias[self.index], dim=-1) @ windows
        mixed = self.inside(mixed)
        x = mixed.view(b, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return self.head(x.mean(dim=(1, 2)))


class ClassToken(nn.Module):
    """A vision transformer's beginning: patches, a token copied for every example, positions, a layer scale."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, width, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 5, width))
        self.scale = nn.Parameter(torch.rand(width))
        self.mix = nn.Linear(5, 5)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1) + self.positions
        x = x + self.scale * self.mix(x.transpose(1, 2)).transpose(1, 2).tanh()
        return self.head(x[:, 0])


class HandWritten(nn.Module):
    """Parameters used without any module: as matrices from the left and right, in pieces, and by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.randn(5, 4))
        self.packed = nn.Parameter(torch.randn(6, 5))
        self.spoken = nn.Parameter(torch.randn(2, 3, 6))
        self.shift = nn.Parameter(torch.randn(()))

    def forward(self, x: Tensor) -> Tensor:
        h = (self.left @ x.T).T + self.shift
        one, two = self.packed.chunk(2)
        h = torch.cat([functional.linear(h, one).tanh(), functional.linear(h, two)], dim=-1)
        return torch.einsum("bi,hoi->bho", h, self.spoken).sum(dim=1)


class OverlappingPieces(nn.Module):
    """Two slices of one matrix that have rows in common, and the whole of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.weight[:4].T.tanh() + functional.linear(x, self.weight[1:])
        return functional.linear(x.tanh(), self.weight)[:, :3]


class Mixture(nn.Module):
    """Experts chosen softly, in one stacked parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(3, 4, 5))
        self.gate = nn.Linear(4, 3)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.einsum("be,bd,edh->bh", self.gate(x).softmax(-1), x, self.experts))


class LowRank(nn.Module):
    """A weight with a low-rank part added, a scale through exp, a parameter used twice by entries."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 3)
        self.down = nn.Parameter(torch.randn(3, 2))
        self.up = nn.Parameter(torch.randn(2, 4))
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.blend = nn.Parameter(torch.rand(3))

    def forward(self, x: Tensor) -> Tensor:
        h = functional.linear(x, self.base.weight + self.down @ self.up, self.base.bias)
        h = h * self.scale.exp() + (1 + self.blend) * h.tanh()
        return torch.lerp(h, h.sin(), self.blend)


class Doubling(torch.autograd.Function):
    """Written in Python, so that no rule knows it: y = 2 x w for every row."""

    @staticmethod
    def forward(context, x, weight):
        context.save_for_backward(x, weight)
        return 2 * x * weight

    @staticmethod
    def backward(context, gradient):
        x, weight = context.saved_tensors
        return 2 * gradient * weight, (2 * gradient * x).sum(dim=0)


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.rand(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(Doubling.apply(self.below(x), self.weight))
