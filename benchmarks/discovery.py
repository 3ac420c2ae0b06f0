"""What does finding the junctions cost, in forward-backward passes?

Chains of 125 to 1000 residual blocks (layer norm, two linear layers), and what is installed of torchvision and
transformers, with random weights. The unit is one ordinary forward and backward pass of the same network on the
same batch. Processor time of one thread, median over rounds that take both in turn, each round divided by its own
pass.

    python benchmarks/discovery.py --rounds 5
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.instruments.junctions import junctions

LENGTHS = (125, 250, 500, 1000)


class Block(nn.Module):
    """x + F(x) on 64 units."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Dense(nn.Module):
    """Layers of four units, each of which reads all before it from one list."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64 + 4 * before, 4) for before in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, dim=1)).tanh())
        return torch.cat(features, dim=1)


def networks(lengths: list[int]) -> Iterator[tuple[str, nn.Module, Any]]:
    """Name, network and batch."""
    for length in lengths:
        yield (
            f"chain of {length} blocks",
            nn.Sequential(*[Block() for _ in range(length)]),
            torch.randn(128, 64),
        )
    yield "list of 128 dense layers", Dense(128), torch.randn(128, 64)
    try:
        import torchvision
    except (ImportError, RuntimeError):
        print("torchvision is not installed; left out.")
    else:
        for name in ("resnet50", "densenet121", "vit_b_16"):
            size = 224 if name.startswith("vit") else 64
            yield name, getattr(torchvision.models, name)(weights=None), torch.randn(2, 3, size, size)
    try:
        import transformers
    except ImportError:
        print("transformers is not installed; left out.")
    else:
        config = transformers.GPT2Config(use_cache=False)
        yield "GPT-2", transformers.GPT2LMHeadModel(config), torch.randint(0, 50000, (2, 64))


def passed(model: nn.Module, batch: Any) -> None:
    output = model(batch)
    output = output if isinstance(output, Tensor) else output.logits
    torch.autograd.grad(output.sum(), list(model.parameters()), allow_unused=True)


def cpu(function: Callable[[], object]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lengths", type=int, nargs="*", default=list(LENGTHS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {options.threads} thread(s), float32, {options.rounds} rounds")
    print(
        f"{'network':<26}{'junctions':>10}{'pass, s':>10}{'discovery, s':>14}{'passes':>8}{'least':>8}{'most':>8}"
    )
    for name, model, batch in networks(options.lengths):
        model.eval()
        ones, discoveries = [], []
        for index in range(options.rounds + 1):
            one, found = cpu(partial(passed, model, batch)), cpu(partial(junctions, model, batch))
            if index:  # the first round warms up
                ones.append(one)
                discoveries.append(found)
        count = len(junctions(model, batch))
        ratios = [found / one for found, one in zip(discoveries, ones, strict=True)]
        times = f"{statistics.median(ones):>10.3f}{statistics.median(discoveries):>14.3f}"
        spread = f"{statistics.median(ratios):>8.2f}{min(ratios):>8.2f}{max(ratios):>8.2f}"
        print(f"{name:<26}{count:>10}{times}{spread}", flush=True)


if __name__ == "__main__":
    main()
