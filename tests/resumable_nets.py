"""Networks that are hard to enter in the middle: functional code, several ways through, numbers that Python sees."""

import torch
from networks import Residual, mlp, stack
from torch import nn


class AddsAtTheTop(nn.Module):
    """Functional code: additions, activations, a mask that every layer reads; an in-place addition and ReLU."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(4, 4) for _ in range(4)])
        self.position = nn.Embedding(3, 4)

    def forward(self, x):
        mask = torch.ones(x.shape[1], x.shape[1], dtype=x.dtype).tril_()
        mask /= mask.sum(dim=1, keepdim=True)
        positions = self.position(torch.arange(x.shape[1]))
        for place, weight in enumerate(self.weights):
            branch = mask @ (x + positions).tanh() @ weight
            if place % 2:
                branch += x
                x = branch.relu_()
            else:
                x = torch.add(x, branch, alpha=0.5)
        return x.sum(dim=1)


class EncoderDecoder(nn.Module):
    """Every layer of the decoder reads what the encoder made."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = stack(lambda: Residual(mlp(4, 3, 4)), 3, 4), nn.ModuleList()
        self.encoder[-1] = nn.Linear(4, 4)
        self.decoder.extend([mlp(8, 3, 4) for _ in range(5)])

    def forward(self, x):
        memory = self.encoder(x)
        x = x.tanh()
        for layer in self.decoder:
            x = x + layer(torch.cat([x, memory], dim=1))
        return x


class SharedModule(nn.Module):
    """One module called several times, with different layers in between, and a buffer counting its passes."""

    def __init__(self):
        super().__init__()
        self.shared, self.own = mlp(4, 3, 4), nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        for layer in self.own:
            x = x + self.shared(layer(x))
        return x


class Peeks(nn.Module):
    """What Python sees of the numbers decides what is computed later."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Residual(mlp(4, 3, 4)) for _ in range(4)])

    def forward(self, x):
        scale = 1.0
        for block in self.blocks:
            x = block(x)
            scale *= x.abs().max().item()
        return x * scale


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Residual(mlp(4, 3, 4)) for _ in range(3)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x) + torch.randn_like(x)
        return x


class Another(nn.Module):
    """Batches of more than four examples take another way."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm1d(4) for _ in range(4)])
        self.blocks = nn.ModuleList([Residual(mlp(4, 3, 4)) for _ in range(4)])

    def forward(self, x):
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = block(norm(x).tanh() if len(x) > 4 else norm(x))
        return x
