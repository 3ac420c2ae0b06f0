"""What does one product with the Hessian cost, in gradients?

Sequential: one vector at a time, gradient graphs kept between products. Streaming: graphs built and
freed in each call, ten vectors through each. Beside them the plain recipe, which builds the gradient's
graph for every product, and PyHessian and curvlinops where they are installed. Processor time of one
thread, so that other processes do not bias the ratios; median over rounds that take all contenders in
turn, each round divided by its own gradient.

    python benchmarks/hessian_products.py --rounds 5
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.autograd import grad

from gradscope.curvature import hessian
from gradscope.problem import Problem


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


NETS: dict[str, tuple[Callable[[], nn.Sequential], int]] = {"resnet20": (resnet20, 16), "mlp": (mlp, 128)}


def contenders(
    model: nn.Module, inputs: Tensor, targets: Tensor
) -> dict[str, tuple[Callable[[], object], int]]:
    """Name, what to run, and how many products that makes (the gradient counts as one)."""
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(0)
    size = sum(parameter.numel() for parameter in parameters)
    vectors = torch.randn(10, size, generator=generator)
    pieces = [
        piece.view_as(parameter)
        for piece, parameter in zip(
            vectors[0].split([p.numel() for p in parameters]), parameters, strict=True
        )
    ]
    problem = Problem(model, (inputs, targets), batch_norm="running")
    kept = hessian(problem, check="none", budget_bytes=2**34)
    streamed = hessian(problem, check="none", budget_bytes=0)
    kept.matvec(vectors[0])

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(inputs), targets)

    def plain_product() -> object:
        return grad(grad(loss(), parameters, create_graph=True), parameters, pieces)

    found: dict[str, tuple[Callable[[], object], int]] = {
        "gradient": (lambda: grad(loss(), parameters), 1),
        "gradscope, sequential": (lambda: kept.matvec(vectors[0]), 1),
        "gradscope, streaming 1": (lambda: streamed.matvec(vectors[0]), 1),
        "gradscope, streaming 10": (lambda: streamed.matmat(vectors.T), 10),
        "plain double backward": (plain_product, 1),
    }
    try:
        from pyhessian import hessian as pyhessian
        from pyhessian.utils import hessian_vector_product
    except ImportError:
        print("PyHessian is not installed; left out.")
    else:
        peer = pyhessian(model, nn.CrossEntropyLoss(), data=(inputs, targets), cuda=False)
        found["PyHessian"] = (lambda: hessian_vector_product(peer.gradsH, peer.params, pieces), 1)
    try:
        from curvlinops import HessianLinearOperator
    except ImportError:
        print("curvlinops is not installed; left out.")
    else:
        named = dict(model.named_parameters())
        operator = HessianLinearOperator(
            model, nn.CrossEntropyLoss(), named, [(inputs, targets)], check_deterministic=False
        )
        found["curvlinops"] = (lambda: operator @ vectors[0], 1)
    return found


def measure(name: str, rounds: int) -> None:
    torch.manual_seed(0)
    build, examples = NETS[name]
    model = build()
    inputs, targets = torch.randn(examples, 3, 32, 32), torch.randint(0, 10, (examples,))
    model(inputs)  # running statistics
    model.eval()
    timed = contenders(model, inputs, targets)
    ratios: dict[str, list[float]] = {label: [] for label in timed}
    gradients = []
    for index in range(rounds + 1):
        seconds = {}
        for label, (run, products) in timed.items():
            repeats = 1 if products > 1 else 3
            start = time.process_time()
            for _ in range(repeats):
                run()
            seconds[label] = (time.process_time() - start) / (repeats * products)
        if index:  # the first round warms up
            gradients.append(seconds["gradient"])
            for label, value in seconds.items():
                ratios[label].append(value / seconds["gradient"])
    gradient = statistics.median(gradients)
    print(f"\n{name}, {examples} examples, {rounds} rounds; gradient {gradient * 1e3:.1f} ms")
    print(f"{'one product':<26}{'gradients':>10}{'least':>8}{'most':>8}")
    for label, values in ratios.items():
        print(f"{label:<26}{statistics.median(values):>10.2f}{min(values):>8.2f}{max(values):>8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s), float32")
    for name in options.nets:
        measure(name, options.rounds)


if __name__ == "__main__":
    main()
