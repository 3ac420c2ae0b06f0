"""Blocks of the literature as people write them, beyond those of `networks.py`: a few units each."""

import torch
from networks import Residual, mlp
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Projected(nn.Module):
    """W x + F(x)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.shortcut, self.branch = nn.Linear(before, after), mlp(before, 3, after)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.branch(x)


class Scaled(nn.Module):
    """x + 0.1 F(x): Inception-ResNet, LayerScale, stochastic depth when it is not training."""

    def __init__(self, width: int, factor: float) -> None:
        super().__init__()
        self.branch, self.factor = mlp(width, 3, width), factor

    def forward(self, x: Tensor) -> Tensor:
        return x + self.factor * self.branch(x)


class EulerStep(nn.Module):
    """One explicit step of an ordinary differential equation."""

    def __init__(self, width: int, step: float) -> None:
        super().__init__()
        self.field, self.step = mlp(width, 3, width), step

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.field(x), alpha=self.step)


class Checkpointed(nn.Module):
    """0.8 x + F(x), F computed anew in each backward pass."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = mlp(width, 3, width)

    def forward(self, x: Tensor) -> Tensor:
        return 0.8 * x + checkpoint(self.branch, x, use_reentrant=False)


class DroppedExamples(nn.Module):
    """Stochastic depth while training, the draw kept: each example's branch is there or not."""

    def __init__(self, width: int, kept: tuple[bool, ...], survival: float) -> None:
        super().__init__()
        self.branch, self.survival = mlp(width, 3, width), survival
        self.register_buffer("kept", torch.tensor(kept, dtype=torch.float64)[:, None])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) * self.kept / self.survival


class DroppedBlock(nn.Module):
    """Stochastic depth as Huang et al. draw it, one coin for the batch: a block that is not there."""

    def __init__(self, width: int, kept: bool) -> None:
        super().__init__()
        self.branch, self.kept = mlp(width, 3, width), kept

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.kept else x


class SplitPaths(nn.Module):
    """x + T_1(x) + ... + T_C(x), ResNeXt before its branches are put into one grouped convolution."""

    def __init__(self, width: int, paths: int) -> None:
        super().__init__()
        self.paths = nn.ModuleList([mlp(width, 2, width) for _ in range(paths)])

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.stack([path(x) for path in self.paths]).sum(dim=0)


class Excite(nn.Module):
    """Each channel times a gate that reads all channels (squeeze and excitation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Linear(channels, 2), nn.Linear(2, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(self.reduce(x.mean(dim=(2, 3))).relu()).sigmoid()
        return x * gate[:, :, None, None]


class Bottleneck(nn.Module):
    """relu(x + F(x)) with a grouped convolution inside; with `excite`, squeeze and excitation behind it."""

    def __init__(self, channels: int, *, groups: int = 1, excite: bool = False) -> None:
        super().__init__()
        inside = 2 * groups
        self.branch = nn.Sequential(
            nn.Conv2d(channels, inside, 1, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU(inplace=True),
            nn.Conv2d(inside, inside, 3, padding=1, groups=groups, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU(inplace=True),
            nn.Conv2d(inside, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.excite = Excite(channels) if excite else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        if self.excite is not None:
            out = self.excite(out)
        out += x
        return out.relu_()


class WideBlock(nn.Module):
    """Pre-activation, `times` as many channels inside, dropout between the convolutions."""

    def __init__(self, channels: int, times: int) -> None:
        super().__init__()
        wide = channels * times
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(wide)
        self.conv1 = nn.Conv2d(channels, wide, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(wide, channels, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.bn1(x).relu())
        out = self.conv2(self.dropout(self.bn2(out).relu()))
        return torch.add(x, out)


class LerpHighway(nn.Module):
    """(1 - T) x + T H in one call."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.plain, self.gate = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(x, self.plain(x).tanh(), self.gate(x).sigmoid())


class ChunkHighway(nn.Module):
    """T H + (1 - T) x as minimal gated units have it: one layer makes both, and z is the carry."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.both = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        plain, gate = self.both(x).chunk(2, dim=-1)
        carry = gate.sigmoid()
        return (1 - carry) * plain.tanh() + carry * x


class Uncoupled(nn.Module):
    """T H + C x: the carry has a gate of its own, which reads the state too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.plain, self.gate, self.carry = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x).sigmoid() * self.plain(x).tanh() + self.carry(x).sigmoid() * x


class DenseStages(nn.Module):
    """Two dense blocks of two layers each that keep lists, and a transition between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList([mlp(4, 2), mlp(6, 2)])
        self.transition = nn.Linear(8, 4)
        self.second = nn.ModuleList([mlp(4, 2), mlp(6, 2)])
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self._dense(self.first, x)
        return self.out(self._dense(self.second, self.transition(x).tanh()))

    def _dense(self, layers: nn.ModuleList, x: Tensor) -> Tensor:
        features = [x]
        for layer in layers:
            features.append(layer(torch.cat(features, 1)).tanh())
        return torch.cat(features, 1)


class Translator(nn.Module):
    """An encoder layer and two decoder layers that attend to what it made, post-norm as in Vaswani et al."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.1, batch_first=True)
        self.decoder = nn.ModuleList(
            [nn.TransformerDecoderLayer(4, 2, 5, dropout=0.1, batch_first=True) for _ in range(2)]
        )
        self.out = nn.Linear(4, 3)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory = self.encoder(source)
        for layer in self.decoder:
            target = layer(target, memory)
        return self.out(target.mean(dim=1))


def level_shortcuts(width: int) -> nn.Module:
    """Residual networks of residual networks: a shortcut around all, one a group, one a block; two of each."""
    groups = [Residual(nn.Sequential(*[Residual(mlp(width, 3, width)) for _ in range(2)])) for _ in range(2)]
    return Residual(nn.Sequential(*groups))


class Join(nn.Module):
    """FractalNet: the mean of one layer and of two fractals of one column less, one after the other."""

    def __init__(self, width: int, columns: int) -> None:
        super().__init__()
        self.shallow = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        self.deep = nn.Sequential(fractal(width, columns - 1), fractal(width, columns - 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.shallow(x), self.deep(x)]).mean(dim=0)


def fractal(width: int, columns: int) -> nn.Module:
    if columns == 1:
        return nn.Sequential(nn.Linear(width, width), nn.Tanh())
    return Join(width, columns)
