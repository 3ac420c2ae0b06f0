"""What does one product with the Hessian cost, in gradients, and how far is that from what arithmetic allows?

By rules and by double backward, graphs kept: one vector at a time. Streaming: nothing kept between calls, one vector or
ten through each batch. Beside them the plain recipe, which builds the gradient's graph for every product, and the
tools of `peers_curvature.py` that are installed. Processor time of one thread, so that other processes do not bias the
ratios; rounds take all contenders in turn, each divided by its own gradient; medians and ranges over rounds.

The limit is the gradient's time, times the products of matrices in a Hessian product with everything of the
gradient kept over those in a gradient, both counted.

    OMP_NUM_THREADS=1 python benchmarks/hessian_products.py --rounds 5
    OMP_NUM_THREADS=1 python benchmarks/hessian_products.py --memory     peaks, each in a fresh process
"""

import argparse
import ctypes
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from peers_curvature import installed
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gradscope.curvature import HessianOperator, hessian
from gradscope.problem import Problem

Runs = dict[str, tuple[Callable[[], object], int]]
EXAMPLES = 128


class Block(nn.Module):
    """Two 3x3 convolutions beside an identity or strided, zero-padded shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = outputs // inputs
        self.first = nn.Conv2d(inputs, outputs, 3, self.stride, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])

    def forward(self, x: Tensor) -> Tensor:
        branch = torch.relu(self.norms[0](self.first(x)))
        branch = self.norms[1](self.second(branch))
        extra = branch.shape[1] - x.shape[1]
        shortcut = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, extra))
        return torch.relu(branch + shortcut)


def resnet20() -> nn.Sequential:
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    blocks = [Block(before, after) for before, after in pairwise(widths)]
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def mlp() -> nn.Sequential:
    widths = [3072, 512, 512, 512, 10]
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


class Block1d(nn.Module):
    """Causal attention and two dense layers, each behind a layer norm and beside an identity."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.queries, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.queries(self.norms[0](x)).chunk(3, dim=2)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.mixed(seen.transpose(1, 2).flatten(2))
        return x + self.narrow(nn.functional.gelu(self.wide(self.norms[1](x))))


class Transformer(nn.Module):
    """Four blocks of width 128 on 64 tokens of a vocabulary of 512, embedding and head tied."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(512, 128), nn.Embedding(64, 128)
        self.blocks = nn.Sequential(*[Block1d(128, 4) for _ in range(4)])
        self.norm = nn.LayerNorm(128)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return nn.functional.linear(self.norm(self.blocks(x)), self.tokens.weight)


def images(examples: int) -> tuple[Tensor, Tensor]:
    return torch.randn(examples, 3, 32, 32), torch.randint(0, 10, (examples,))


def texts(examples: int) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 512, (examples, 64)), torch.randint(0, 512, (examples, 64))


def token_loss(output: Tensor, target: Tensor) -> Tensor:
    losses = nn.functional.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none")
    return losses.view(target.shape).sum(1)


NETS: dict[str, Callable[[], nn.Module]] = {"resnet20": resnet20, "mlp": mlp, "transformer": Transformer}


def problem_of(name: str) -> Problem:
    """A network at its initialisation with running statistics of its one batch."""
    torch.manual_seed(0)
    model = NETS[name]()
    text = name == "transformer"
    inputs, targets = texts(16) if text else images(EXAMPLES)
    model(inputs)
    model.eval()
    return Problem(
        model,
        (inputs, targets),
        token_loss if text else "cross_entropy",
        batch_norm="running" if name == "resnet20" else "auto",
    )


def gradient(problem: Problem) -> object:
    return grad(problem.value(*problem.first_batch()), list(problem.model.parameters()))


def plain_product(problem: Problem, vector: Tensor) -> object:
    parameters = list(problem.model.parameters())
    pieces = [
        p.view_as(q) for p, q in zip(vector.split([q.numel() for q in parameters]), parameters, strict=True)
    ]
    # Fused attention has no second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        value = problem.value(*problem.first_batch())
    return grad(grad(value, parameters, create_graph=True), parameters, pieces)


def operator_of(problem: Problem, engine: str, budget: int) -> HessianOperator:
    return hessian(problem, check="none", engine=engine, budget_bytes=budget)


def contenders(name: str, problem: Problem, only: str | None = None) -> Runs:
    """Name, what to run, and how many products that makes (the gradient counts as one)."""
    size = sum(parameter.numel() for parameter in problem.model.parameters())
    # One after the other in memory: turning a [P, 10] matrix round would cost a gradient.
    vectors = torch.randn(10, size, generator=torch.Generator().manual_seed(0)).T
    vector = vectors[:, 0]
    makers: dict[str, tuple[Callable[[], Callable[[], object]], int]] = {
        "gradient": (lambda: partial(gradient, problem), 1),
        "gradscope, rules": (lambda: partial(operator_of(problem, "rules", 2**34).matvec, vector), 1),
        "gradscope, double backward": (
            lambda: partial(operator_of(problem, "double backward", 2**34).matvec, vector),
            1,
        ),
        "gradscope, rules, streaming 1": (
            lambda: partial(operator_of(problem, "rules", 0).matvec, vector),
            1,
        ),
        "gradscope, rules, streaming 10": (
            lambda: partial(operator_of(problem, "rules", 0).matmat, vectors),
            10,
        ),
        "plain double backward": (lambda: partial(plain_product, problem, vector), 1),
    }
    if name != "transformer":  # the tools are asked for the mean cross-entropy of classes
        for label, make in installed().items():
            makers[label] = (
                lambda make=make: partial(make(problem.model, [problem.first_batch()]).product, vector),
                1,
            )
    return {label: (make(), products) for label, (make, products) in makers.items() if only in (None, label)}


def multiplications(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def measure(name: str, rounds: int) -> None:
    problem = problem_of(name)
    timed = contenders(name, problem)
    kept = timed["gradscope, double backward"][0]
    kept()
    limit = multiplications(kept) / multiplications(timed["gradient"][0])
    ratios: dict[str, list[float]] = {label: [] for label in timed}
    gradients = []
    for index in range(rounds + 1):
        seconds = {}
        for label, (run, products) in timed.items():
            repeats = 1 if products > 1 or name == "resnet20" else 3
            start = time.process_time()
            for _ in range(repeats):
                run()
            seconds[label] = (time.process_time() - start) / (repeats * products)
        if index:  # the first round warms up
            gradients.append(seconds["gradient"])
            for label, value in seconds.items():
                ratios[label].append(value / seconds["gradient"])
    size = sum(parameter.numel() for parameter in problem.model.parameters())
    print(
        f"\n{name}, {problem.examples} examples, {size / 1e6:.2f} M parameters, {rounds} rounds; gradient "
        f"{statistics.median(gradients) * 1e3:.1f} ms; limit {limit:.2f} gradients"
    )
    print(f"{'one product':<32}{'gradients':>10}{'least':>8}{'most':>8}{'x limit':>9}")
    for label, values in ratios.items():
        ratio = statistics.median(values)
        print(f"{label:<32}{ratio:>10.2f}{min(values):>8.2f}{max(values):>8.2f}{ratio / limit:>9.2f}")


def peak(name: str, label: str) -> None:
    """Print the peak memory of a contender above network and data, in MB: of its first product, and of later ones."""
    problem = problem_of(name)
    before = _fresh()
    ((run, _),) = contenders(name, problem, label).values()
    run()
    first = _status("VmHWM") - before
    _fresh()
    run()
    print(f"{label:<32}{first:>12.0f}{_status('VmHWM') - before:>12.0f}")


def _fresh() -> float:
    """Hand back what is free, forget the peak, and say what is in use, in MB."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"This system does not report {field}, which --memory reads.")


def memory(name: str) -> None:
    print(f"\n{name}: peak memory in MB above network and data\n{'':<32}{'first':>12}{'later':>12}")
    labels = ["gradient", "gradscope, rules", "gradscope, double backward", "gradscope, rules, streaming 1"]
    labels += ["plain double backward", *([] if name == "transformer" else installed())]
    for label in labels:
        command = [sys.executable, __file__, "--nets", name, "--peak", label]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", help="one contender, whose peak memory is printed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        peak(options.nets[0], options.peak)
        return
    print(f"torch {torch.__version__}, {options.threads} thread(s), float32", flush=True)
    for name in options.nets:
        if options.memory:
            memory(name)
        else:
            measure(name, options.rounds)


if __name__ == "__main__":
    main()
