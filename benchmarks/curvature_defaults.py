"""How good is a largest eigenvalue or a trace when nothing is said about accuracy?

Two-layer ReLU networks of 2410 parameters on 256 digits, fresh and trained, whose dense Hessian is the truth.
gradscope and every tool in `peers_curvature.py` at its defaults; relative errors and the products they took.

    OMP_NUM_THREADS=1 python benchmarks/curvature_defaults.py
"""

import argparse
import statistics
import warnings

import torch
from curvature_tasks import contenders
from torch import Tensor, nn

import gradscope as gs


def network(seed: int, inputs: Tensor, targets: Tensor, steps: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimiser.step()
    optimiser.zero_grad()
    return model


def measure(steps: int, networks: int) -> None:
    inputs, targets = (tensor[:256] for tensor in gs.data.digits().train)
    found: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for seed in range(networks):
        model = network(seed, inputs, targets, steps)
        dense = gs.hessian(gs.Problem(model, (inputs, targets))).dense()
        largest = torch.linalg.eigvalsh(dense)[-1]
        truth = {"largest eigenvalue": largest.item(), "trace": dense.trace().item()}
        for label, build in contenders().items():
            peer = build(network(seed, inputs, targets, steps), [(inputs, targets)])
            for quantity, exact in truth.items():
                before = peer.counter.products
                error = abs(peer.defaults[quantity]() / exact - 1)
                found.setdefault((quantity, label), []).append((error, peer.counter.products - before))
    print(f"\nafter {steps} steps of Adam, {networks} networks: relative error, median and worst")
    for (quantity, label), values in sorted(found.items()):
        errors, products = zip(*values, strict=True)
        print(
            f"  {quantity:<20}{label:<22}{statistics.median(errors):>9.1e}{max(errors):>9.1e}"
            f"   products {min(products)} to {max(products)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=int, default=10)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Using backward")
    torch.set_num_threads(1)
    for steps in (0, 60):
        measure(steps, options.networks)


if __name__ == "__main__":
    main()
