"""A small network of every block of the literature, and the branches in it as its author would name them.

A branch is told by the modules through whose outputs every way that crosses it passes, once, so that paths can be
told apart without finding any junction (`path_enumeration.py`).
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from networks import (
    NETWORKS,
    Dense,
    DenseList,
    Highway,
    Residual,
    UNet,
    mlp,
    stack,
    transformer,
)
from path_blocks import (
    Bottleneck,
    Checkpointed,
    ChunkHighway,
    DenseStages,
    DroppedBlock,
    DroppedExamples,
    EulerStep,
    LerpHighway,
    Projected,
    Scaled,
    SplitPaths,
    Translator,
    Uncoupled,
    WideBlock,
    fractal,
    level_shortcuts,
)
from path_enumeration import through_each_set
from torch import Tensor, nn

from gradscope.problem import Problem


class PathNetwork(NamedTuple):
    """A network, its branches, and how many paths cross 0, 1, 2, ... of them.

    Attributes:
        make: The network.
        shape: One example; of "two sequences", what an encoder and a decoder read.
        branches: Per branch in forward order, the modules whose outputs hand on what crosses it; `path#2` is the
            third use of a module.
        counts: Number of sets of 0, 1, 2, ... branches that some path crosses, no more and no less. In a chain that is
            the number of paths of each length, the product of the blocks' polynomials.
        refused: Why there is nothing to count, where no skip can be told from a branch; empty otherwise.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...] | str
    branches: tuple[tuple[str, ...], ...]
    counts: tuple[int, ...]
    refused: str = ""

    def build(self) -> nn.Module:
        """The same network on each call, whatever was drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make().double().eval()

    def inputs(self, examples: int = 3) -> Tensor | dict[str, Tensor]:
        generator = torch.Generator().manual_seed(3)

        def normal(*shape: int) -> Tensor:
            return torch.randn(examples, *shape, generator=generator, dtype=torch.float64)

        if self.shape == "tokens":
            return torch.randint(0, 7, (examples, 5), generator=generator)
        if self.shape == "two sequences":
            return {"source": normal(5, 4), "target": normal(3, 4)}
        return normal(*self.shape)

    def targets(self, examples: int = 3) -> Tensor:
        return torch.randint(0, 3, (examples,), generator=torch.Generator().manual_seed(4))

    def problem(self, batch_norm: str = "auto", reduction: str = "mean") -> Problem:
        data = (self.inputs(), self.targets())
        return Problem(self.build(), data, batch_norm=batch_norm, reduction=reduction)


def each(*paths: str) -> tuple[tuple[str, ...], ...]:
    """One module a branch."""
    return tuple((path,) for path in paths)


def numbered(pattern: str, first: int, number: int) -> tuple[tuple[str, ...], ...]:
    """One module a branch, in consecutive blocks."""
    return each(*(pattern.format(place) for place in range(first, first + number)))


def convolutions(block: Callable[[], nn.Module], times: int) -> nn.Sequential:
    """Blocks of three channels; the statistics of their batch normalisation are not fresh."""
    blocks = [block() for _ in range(times)]
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)
    )
    net = net.double()
    for _ in range(3):
        net(torch.randn(8, 1, 4, 4, dtype=torch.float64) + 0.2)
    return net


FOUR, SIX = (1, 4, 6, 4, 1), (1, 6, 15, 20, 15, 6, 1)
NO_SKIP = "No residual addition"

PATH_NETWORKS: dict[str, PathNetwork] = {
    "plain": PathNetwork(NETWORKS["plain"].make, (4,), each("0", "2", "4"), (0, 0, 0, 1), NO_SKIP),
    "pre-activation": PathNetwork(
        NETWORKS["pre-activation"].make, (1, 6, 6), numbered("{}.branch", 2, 6), SIX
    ),
    "post-activation": PathNetwork(
        NETWORKS["post-activation"].make, (1, 6, 6), numbered("{}.bn2", 2, 6), SIX
    ),
    "projection": PathNetwork(
        lambda: nn.Sequential(Projected(4, 5), Projected(5, 4), Projected(4, 4), nn.Linear(4, 3)),
        (4,),
        numbered("{}.branch", 0, 3),
        (1, 3, 3, 1),
    ),
    "padding": PathNetwork(NETWORKS["padding"].make, (4,), each("1.branch", "2.branch"), (1, 2, 1)),
    "scaled": PathNetwork(lambda: stack(lambda: Scaled(4, 0.2), 4), (4,), numbered("{}.branch", 2, 4), FOUR),
    "multi-residual": PathNetwork(
        NETWORKS["multi-residual"].make,
        (4,),
        each(*(f"{block}.{branch}" for block in (2, 3, 4) for branch in ("first", "second"))),
        (1, 6, 12, 8),
    ),
    "ResNeXt, grouped": PathNetwork(
        lambda: convolutions(lambda: Bottleneck(3, groups=2), 4), (1, 4, 4), numbered("{}.branch", 1, 4), FOUR
    ),
    "ResNeXt, split": PathNetwork(
        lambda: stack(lambda: SplitPaths(4, 3), 2),
        (4,),
        each(*(f"{block}.paths.{path}" for block in (2, 3) for path in range(3))),
        (1, 6, 9),
    ),
    "squeeze and excitation": PathNetwork(
        lambda: convolutions(lambda: Bottleneck(3, excite=True), 4),
        (1, 4, 4),
        numbered("{}.excite", 1, 4),
        FOUR,
    ),
    "wide": PathNetwork(
        lambda: convolutions(lambda: WideBlock(3, 2), 4), (1, 4, 4), numbered("{}.conv2", 1, 4), FOUR
    ),
    "highway": PathNetwork(
        NETWORKS["highway"].make, (4,), tuple((f"{k}.plain", f"{k}.gate") for k in range(2, 6)), FOUR
    ),
    "highway by lerp": PathNetwork(
        lambda: stack(lambda: LerpHighway(4), 4),
        (4,),
        tuple((f"{k}.plain", f"{k}.gate") for k in range(2, 6)),
        FOUR,
    ),
    "highway, one layer": PathNetwork(
        lambda: stack(lambda: ChunkHighway(4), 4), (4,), numbered("{}.both", 2, 4), FOUR
    ),
    "uncoupled gates": PathNetwork(
        lambda: stack(lambda: Uncoupled(4), 4),
        (4,),
        tuple((f"{k}.plain", f"{k}.gate", f"{k}.carry") for k in range(2, 6)),
        FOUR,
    ),
    "stochastic depth, a coin a batch": PathNetwork(
        lambda: nn.Sequential(*[DroppedBlock(4, place != 1) for place in range(4)], nn.Linear(4, 3)),
        (4,),
        each("0.branch", "2.branch", "3.branch"),
        (1, 3, 3, 1),
    ),
    "stochastic depth, a coin an example": PathNetwork(
        lambda: stack(lambda: DroppedExamples(4, (True, False, True), 0.5), 4),
        (4,),
        numbered("{}.branch", 2, 4),
        FOUR,
    ),
    "DenseNet": PathNetwork(Dense, (4,), numbered("layers.{}", 0, 3), (1, 3, 3, 1)),
    "DenseNet, lists": PathNetwork(DenseList, (4,), numbered("layers.{}", 0, 3), (1, 3, 3, 1)),
    "DenseNet, transition": PathNetwork(
        DenseStages, (4,), each("first.0", "first.1", "second.0", "second.1"), FOUR
    ),
    "pre-norm transformer": PathNetwork(
        NETWORKS["pre-norm transformer"].make,
        (5, 4),
        each(*(f"{layer}.{part}" for layer in range(3) for part in ("attention", "mlp"))),
        SIX,
    ),
    "parallel transformer": PathNetwork(
        lambda: transformer(parallel=True, layers=3),
        (5, 4),
        each(*(f"{layer}.{part}" for layer in range(3) for part in ("attention", "mlp"))),
        (1, 6, 12, 8),
    ),
    "post-norm transformer": PathNetwork(
        NETWORKS["encoder layers"].make,
        (5, 4),
        each("0.dropout1", "0.dropout2", "1.dropout1", "1.dropout2"),
        FOUR,
    ),
    "tokens": PathNetwork(
        NETWORKS["tokens"].make, "tokens", each("blocks.0.attention", "blocks.0.mlp"), (1, 2, 1)
    ),
    # (1 + t)^2 through the encoder; then into the first cross-attention, t (1 + t)^4 with what lies behind it, or
    # past it into the second, t (1 + t). The first self-attention is not on any way from the encoder's input.
    "encoder-decoder": PathNetwork(
        Translator,
        "two sequences",
        each(
            *("encoder.dropout1", "encoder.dropout2"),
            *(f"decoder.{layer}.dropout{part}" for layer in (0, 1) for part in (1, 2, 3)),
        ),
        (0, 2, 9, 18, 21, 15, 6, 1, 0),
    ),
    "shared weights": PathNetwork(
        NETWORKS["shared weights"].make, (4,), tuple((f"2.block.branch#{use}",) for use in range(4)), FOUR
    ),
    "residual of residual": PathNetwork(
        lambda: stack(lambda: level_shortcuts(4), 2), (4,), each("2.branch", "3.branch"), (1, 2, 1)
    ),
    "FractalNet": PathNetwork(
        lambda: nn.Sequential(nn.Linear(4, 4), fractal(4, 3), nn.Linear(4, 3)),
        (4,),
        each(
            *("1.shallow", "1.deep.0.shallow", "1.deep.0.deep.0", "1.deep.0.deep.1"),
            *("1.deep.1.shallow", "1.deep.1.deep.0", "1.deep.1.deep.1"),
        ),
        (0, 1, 1, 2, 1),
        NO_SKIP,
    ),
    # Past everything, or up the outer half, at whose bottom a residual block may be crossed; what passes the inner
    # half is not told from what goes down into it, since the inner concatenation lies in the outer one's branch.
    "U-Net": PathNetwork(UNet, (4,), each("bottom.branch", "up.1"), (1, 1, 1)),
    "ODE step": PathNetwork(
        lambda: stack(lambda: EulerStep(4, 0.25), 4), (4,), numbered("{}.field", 2, 4), FOUR
    ),
    "checkpointed": PathNetwork(
        lambda: stack(lambda: Checkpointed(4), 3), (4,), numbered("{}.branch", 2, 3), (1, 3, 3, 1)
    ),
    # (1 + t)^6 (1 + 2t)
    "all kinds in series": PathNetwork(
        lambda: nn.Sequential(
            *(Residual(mlp(4, 3, 4)), Projected(4, 4), Highway(4), LerpHighway(4), SplitPaths(4, 2)),
            *(EulerStep(4, 0.25), ChunkHighway(4), nn.Linear(4, 3)),
        ),
        (4,),
        (
            *each("0.branch", "1.branch"),
            *(("2.plain", "2.gate"), ("3.plain", "3.gate")),
            *each("4.paths.0", "4.paths.1", "5.field", "6.both"),
        ),
        (1, 8, 27, 50, 55, 36, 13, 2),
    ),
}
COUNTED = [name for name, network in PATH_NETWORKS.items() if not network.refused]


@cache
def sets_of(name: str) -> Tensor:
    """The gradients at the input through exactly each set of branches, [2^n, ...]; not to be changed in place."""
    network = PATH_NETWORKS[name]
    (exactly,) = through_each_set(network.problem(), network.branches).values()
    return exactly
