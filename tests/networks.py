"""Networks that the instruments meet: a table from name to network, in float64, of a few units each.

`additions` tells what must be found in each: how many additions of which kind.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


def mlp(*widths: int, bias: bool = True) -> nn.Sequential:
    """Linear layers with tanh between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=bias), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class PostActivationBlock(nn.Module):
    """relu(skip + F(x)) as torchvision writes it: in-place ReLU, in-place `+=`."""

    in_place = True

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=self.in_place)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.down = None
        if before != after:
            self.down = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        skip = x if self.down is None else self.down(x)
        if self.in_place:
            out += skip
        else:
            out = skip + out
        return self.relu(out)


class OutOfPlaceBlock(PostActivationBlock):
    in_place = False


class PreActivationBlock(nn.Module):
    """x + F(BN-ReLU(x)); where the shape changes, branch and projection share the BN-ReLU."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(before)
        self.branch = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
        )
        self.down = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else None

    def forward(self, x: Tensor) -> Tensor:
        shared = self.norm(x).relu()
        return (x if self.down is None else self.down(shared)) + self.branch(shared)


def resnet(block: Callable[[int, int, int], nn.Module]) -> nn.Sequential:
    """Six blocks, of which two project; the statistics of their batch normalisation are not fresh."""
    blocks = [block(2, 2, 1), block(2, 3, 2), block(3, 3, 1), block(3, 3, 1), block(3, 4, 2), block(4, 4, 1)]
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).double()
    for _ in range(3):
        net(torch.randn(8, 1, 6, 6, dtype=torch.float64) + 0.2)
    return net.eval()


class Attention(nn.Module):
    """One head with a toy rotary embedding, whose addition has no weights and is no junction."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query_key_value(x).chunk(3, dim=-1)
        angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None]
        query, key = (q * angle.cos() + q.roll(1, dims=-1) * angle.sin() for q in (query, key))
        weight = (query @ key.transpose(-2, -1) / math.sqrt(x.shape[-1])).softmax(dim=-1)
        return self.out(weight @ value)


class TransformerLayer(nn.Module):
    def __init__(self, width: int, parallel: bool) -> None:
        super().__init__()
        self.parallel = parallel
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 5), nn.GELU(), nn.Linear(5, width))

    def forward(self, x: Tensor) -> Tensor:
        if self.parallel:
            normed = self.norm1(x)
            return x + self.attention(normed) + self.mlp(normed)
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class MeanHead(nn.Module):
    """Mean over tokens, then logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(x).mean(dim=1))


def transformer(*, parallel: bool, layers: int = 3) -> nn.Sequential:
    return nn.Sequential(*[TransformerLayer(4, parallel) for _ in range(layers)], MeanHead(4))


class MultiResidual(nn.Module):
    """x + F_1(x) + F_2(x) (Abdi and Nahavandi)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = mlp(width, 3, width), mlp(width, 3, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.first(x) + self.second(x))


class PythonSum(MultiResidual):
    """The same, by Python's `sum`, which begins with 0 + x."""

    def forward(self, x: Tensor) -> Tensor:
        return sum([x, self.first(x), self.second(x)])


class Highway(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.plain, self.gate = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x).sigmoid()
        return gate * self.plain(x).tanh() + (1 - gate) * x


class Padding(nn.Module):
    """Two more units; the skip is padded with zeros (option A of He et al.)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = mlp(width, 3, width + 2)

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x, (0, 2)) + self.branch(x)


class AddingLinear(nn.Linear):
    """A layer that is given the skip and adds it itself, as in BLOOM."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        return skip + super().forward(x)


class InsideBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide, self.back = nn.Linear(width, 3), AddingLinear(3, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.wide(x).tanh(), x)


class Residual(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Repeated(nn.Module):
    """One block used several times: weights shared over depth."""

    def __init__(self, block: nn.Module, times: int) -> None:
        super().__init__()
        self.block, self.times = block, times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.block(x)
        return x


class Tokens(nn.Module):
    """Position embeddings first, then those of the integer inputs, which are what counts as input."""

    def __init__(self) -> None:
        super().__init__()
        self.position, self.token = nn.Embedding(5, 4), nn.Embedding(7, 4)
        self.blocks = transformer(parallel=False, layers=1)

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.position(torch.arange(ids.shape[1]))
        return self.blocks(self.token(ids) + positions)


class Dense(nn.Module):
    """Concatenations, no additions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([mlp(width, 2) for width in (4, 6, 8)])
        self.out = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x).tanh()], dim=1)
        return self.out(x)


class Nested(nn.Module):
    """A long skip around two residual blocks: residual networks of residual networks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[Residual(mlp(4, 3, 4)) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.blocks(x)


class DenseList(nn.Module):
    """A DenseNet that keeps a list and concatenates all of it for every layer, as torchvision does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([mlp(width, 2) for width in (4, 6, 8)])
        self.out = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, dim=1)).tanh())
        return self.out(torch.cat(features, dim=1))


class UNet(nn.Module):
    """Two long skips, of which the outer one is cropped, and a residual block at the bottom."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.bottom = Residual(mlp(4, 3, 4))
        self.up = nn.ModuleList([nn.Linear(4, 4), nn.Linear(8, 4)])
        self.out = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        outer = self.down[0](x).tanh()
        inner = self.down[1](outer).tanh()
        x = torch.hstack([inner, self.up[0](self.bottom(inner)).tanh()])
        return self.out(torch.concat((outer[:, 1:], self.up[1](x).tanh()), 1))


class Shuffle(nn.Module):
    """Half of the units pass, the other half go through the branch (ShuffleNet V2); sizes alternate."""

    def __init__(self, pieces: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.branch, self.pieces = mlp(2, 3, 2), pieces

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.pieces(x)
        return (
            torch.cat([first, self.branch(second)], 1)
            .reshape(len(x), 2, 2)
            .transpose(1, 2)
            .reshape(len(x), 4)
        )


class SideBySide(nn.Module):
    """Inception: branches concatenated without a skip, which is no junction."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = mlp(4, 3, 2), mlp(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x).tanh()], dim=1)


class Written(nn.Module):
    """x and F(x), put together as `join` does it."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], width: int = 4) -> None:
        super().__init__()
        self.branch, self.join = mlp(width, 3, width), join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.branch(x))


class InPlaceOnView(nn.Module):
    """A linear layer with bias makes a view of three dimensions, and the skip is added to it in place."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = mlp(4, 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        out += x
        return out


class EncoderDecoder(nn.Module):
    """Two residual additions in each layer of the encoder, three in each layer of the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(4, 2, 2, 2, 5, dropout=0.1, batch_first=True)

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return self.transformer(*pair).mean(dim=1)[:, :3]


class LearnedQuery(nn.Module):
    """A learned vector that reads the input in two residual attentions, as the class token of CaiT."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, 4))
        self.position = nn.Parameter(torch.randn(4, 5, 4))
        self.attention = nn.ModuleList([Attention(4), Attention(4)])
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        # A position embedding of the input's very shape is a constant that is added, not a stream.
        x = x.tanh() + self.position[: len(x)]
        query = self.query.expand(len(x), -1, -1)
        for attention in self.attention:
            query = query + attention(torch.cat([query, x], dim=1))[:, :1]
        return self.out(query[:, 0])


def encoder_layers() -> nn.Sequential:
    layers = [nn.TransformerEncoderLayer(4, 2, 5, dropout=0.1, batch_first=True) for _ in range(2)]
    return nn.Sequential(*layers, MeanHead(4))


def frozen(net: nn.Module) -> nn.Module:
    return net.requires_grad_(False)


def stack(block: Callable[[], nn.Module], times: int, width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), *[block() for _ in range(times)], nn.Linear(width, 3))


class Specimen(NamedTuple):
    """A network to be made, the shape of one example, and the additions in it.

    `branches` has the number of residual branches of each graded junction of level 0, in forward order.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    kinds: dict[str, int]
    branches: tuple[int, ...] = ()

    def build(self) -> nn.Module:
        """The same network on each call, whatever was drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make().double().eval()

    def inputs(self, examples: int = 4) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        if self.shape == ("tokens",):
            return torch.randint(0, 7, (examples, 5), generator=generator)
        return torch.randn(examples, *self.shape, generator=generator, dtype=torch.float64)

    def targets(self, examples: int = 4) -> Tensor:
        return torch.randint(0, 3, (examples,), generator=torch.Generator().manual_seed(4))


SIX = {"identity": 4, "projection": 2}
NETWORKS: dict[str, Specimen] = {
    "plain": Specimen(lambda: mlp(4, 5, 5, 3), (4,), {}),
    "post-activation": Specimen(lambda: resnet(PostActivationBlock), (1, 6, 6), SIX, (1,) * 6),
    "out-of-place": Specimen(lambda: resnet(OutOfPlaceBlock), (1, 6, 6), SIX, (1,) * 6),
    "pre-activation": Specimen(lambda: resnet(PreActivationBlock), (1, 6, 6), SIX, (1,) * 6),
    "frozen": Specimen(lambda: frozen(resnet(PostActivationBlock)), (1, 6, 6), SIX, (1,) * 6),
    "pre-norm transformer": Specimen(lambda: transformer(parallel=False), (5, 4), {"identity": 6}, (1,) * 6),
    "frozen transformer": Specimen(
        lambda: frozen(transformer(parallel=False)), (5, 4), {"identity": 6}, (1,) * 6
    ),
    "parallel transformer": Specimen(lambda: transformer(parallel=True), (5, 4), {"identity": 3}, (2,) * 3),
    "encoder layers": Specimen(encoder_layers, (5, 4), {"identity": 4}, (1,) * 4),
    "multi-residual": Specimen(lambda: stack(lambda: MultiResidual(4), 3), (4,), {"identity": 3}, (2,) * 3),
    "Python sum": Specimen(lambda: stack(lambda: PythonSum(4), 3), (4,), {"identity": 3}, (2,) * 3),
    "highway": Specimen(lambda: stack(lambda: Highway(4), 4), (4,), {"gated": 4}),
    "padding": Specimen(
        lambda: nn.Sequential(nn.Linear(4, 4), Padding(4), Residual(mlp(6, 3, 6)), nn.Linear(6, 3)),
        (4,),
        {"nonparam-skip": 1, "identity": 1},
        (1, 1),
    ),
    "inside a module": Specimen(lambda: stack(lambda: InsideBlock(4), 3), (4,), {"identity": 3}, (1,) * 3),
    "shared weights": Specimen(
        lambda: stack(lambda: Repeated(Residual(mlp(4, 3, 4)), 4), 1), (4,), {"identity": 4}, (1,) * 4
    ),
    "tokens": Specimen(Tokens, ("tokens",), {"identity": 2}, (1, 1)),
    "dense": Specimen(Dense, (4,), {"concat": 3}),
    "dense list": Specimen(DenseList, (4,), {"concat": 3}),
    "U-Net": Specimen(UNet, (4,), {"concat": 2, "identity": 1}, (1,)),
    "shuffle": Specimen(lambda: stack(lambda: Shuffle(lambda x: x.chunk(2, 1)), 2), (4,), {"concat": 2}),
    "shuffle by slices": Specimen(
        lambda: stack(lambda: Shuffle(lambda x: (x[:, :2], x[:, 2:])), 2), (4,), {"concat": 2}
    ),
    "side by side": Specimen(lambda: stack(SideBySide, 2), (4,), {}),
    "in place on a view": Specimen(
        lambda: nn.Sequential(InPlaceOnView(), InPlaceOnView(), MeanHead(4)), (5, 4), {"identity": 2}, (1, 1)
    ),
    "learned query": Specimen(LearnedQuery, (5, 4), {"identity": 2, "concat": 1}, (1, 1)),
    "long skip": Specimen(lambda: stack(Nested, 2), (4,), {"identity": 6}, (1, 1)),
}
# Ways around the blocks, a stream that does not begin at the input: not what path counts are about.
APART = ("U-Net", "learned query")
RESIDUAL = [name for name, specimen in NETWORKS.items() if specimen.branches and name not in APART]
