"""What do the trace and the spectral density cost beside the products they are made of, and how near do they come?

Time: `--probes` x `--steps` products of stochastic Lanczos quadrature, and as many for the trace, on the MLP
3072-512-512-512-10 and ResNet-20 (batch 128, evaluation mode). "over its products" divides by the time of so many of
the same tool's own products, measured in the same round. Processor time of one thread, so that other processes do
not bias the ratios; median over rounds.

Accuracy: on a trained network of 515 parameters, whose Hessian is formed: relative error of the trace
(root mean square over seeds) and distance of the density to the eigenvalues (W1, over the largest one), at equal
products.

PyHessian, hessian-eigenthings and curvlinops are run where they are installed (`peers_curvature.py`).

    OMP_NUM_THREADS=1 python benchmarks/trace_and_density.py --rounds 3
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import numpy
import pandas
import torch
from hessian_products import mlp, resnet20
from peers_curvature import installed
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

import gradscope as gs
from gradscope.curvature.quadrature import recurrences

NETS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "resnet20": resnet20}
Batch = tuple[Tensor, Tensor]
Work = dict[str, Callable[[], object]]


def tasks(model: nn.Module, batch: Batch, probes: int, steps: int) -> dict[str, Work]:
    """For each tool: one product, the density and the trace, each of the latter of probes x steps products."""
    operator = gs.hessian(gs.Problem(model, batch), check="none", budget_bytes=2**34)
    vector = torch.randn(operator.shape[0], generator=torch.Generator().manual_seed(0))
    count = probes * steps
    never = {"accuracy": 1e-12, "max_products": count}
    found: dict[str, Work] = {
        "gradscope": {
            "product": lambda: operator.matvec(vector),
            "density": lambda: gs.spectral_density(operator, probes=probes, steps=steps),
            "trace, Hutchinson": lambda: gs.trace(operator, method="hutchinson", **never),
            "trace, XTrace": lambda: gs.trace(operator, method="xtrace", max_basis_bytes=2**34, **never),
        }
    }
    for name, make in installed().items():
        peer = make(copy.deepcopy(model), [batch])
        found[name] = {
            "product": lambda peer=peer: peer.product(vector),
            "density": lambda peer=peer: peer.density(probes, steps),
            "trace, Hutchinson": lambda peer=peer: peer.trace(count),
        }
    return found


def times(net: str, rounds: int, probes: int, steps: int, examples: int) -> pandas.DataFrame:
    torch.manual_seed(0)
    model = NETS[net]()
    batch = torch.randn(examples, 3, 32, 32), torch.randint(0, 10, (examples,))
    model(batch[0])  # running statistics
    model.eval()
    count = probes * steps
    rows = []
    for tool, work in tasks(model, batch, probes, steps).items():
        seconds: dict[str, list[float]] = {task: [] for task in work}
        for index in range(rounds + 1):
            for task, run in work.items():
                repeats = count // 2 if task == "product" else 1
                start = time.process_time()
                for _ in range(repeats):
                    run()
                if index:  # the first round warms up
                    seconds[task].append((time.process_time() - start) / repeats)
        for task, spent in seconds.items():
            over = [a / (count * b) for a, b in zip(spent, seconds["product"], strict=True)]
            row = {"net": net, "tool": tool, "task": task, "seconds": statistics.median(spent)}
            rows.append(
                row | {"over its products": float("nan") if task == "product" else statistics.median(over)}
            )
    return pandas.DataFrame(rows)


def trained(seed: int = 0) -> tuple[nn.Module, Batch]:
    """A small network after 300 steps on three noisy classes; most of its curvature is in few directions."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    targets = torch.randint(0, 3, (120,), generator=generator)
    centres = torch.randn(3, 8, generator=generator)
    inputs = centres[targets] + torch.randn(120, 8, generator=generator)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 18), nn.Tanh(), nn.Linear(18, 3))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(300):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimiser.step()
    return model, (inputs, targets)


def accuracy(products: int, seeds: int) -> pandas.DataFrame:
    model, batch = trained()
    operator = gs.hessian(gs.Problem(model, batch))
    values = torch.linalg.eigvalsh(operator.dense()).numpy()
    never = {"accuracy": 1e-12, "max_products": products}
    probes, steps = 2, products // 2

    def traces(method: str) -> list[float]:
        frames = [gs.trace(operator, method=method, seed=seed, **never) for seed in range(seeds)]
        return [float(frame["value"].iloc[0]) for frame in frames]

    def density(seed: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        runs, _ = recurrences(operator, probes, steps, seed)
        parts = [run.quadrature() for run in runs]
        return numpy.concatenate([p[0] for p in parts]), numpy.concatenate([p[1] for p in parts])

    found: dict[str, tuple[list[float], list[tuple[numpy.ndarray, numpy.ndarray]]]] = {
        "gradscope, auto": (traces("auto"), [density(seed) for seed in range(seeds)]),
        "gradscope, Hutchinson": (traces("hutchinson"), []),
    }
    for name, make in installed().items():
        peer = make(copy.deepcopy(model), [batch])
        some = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            nodes, weights = peer.density(probes, steps)
            some.append((nodes.ravel(), numpy.clip(numpy.real(weights).ravel(), 0, None)))
        # hessian-eigenthings' own seed is fixed: its error is that of one draw.
        found[name] = [peer.trace(products) for _ in range(seeds)], some
    rows = []
    for tool, (estimates, densities) in found.items():
        errors = numpy.array(estimates) / values.sum() - 1
        apart = [wasserstein_distance(values, numpy.real(n), None, w) / values.max() for n, w in densities]
        row = {"tool": tool, "products": products, "trace, error": float(numpy.sqrt(numpy.mean(errors**2)))}
        rows.append(row | {"density, W1": float(numpy.mean(apart)) if apart else float("nan")})
    return pandas.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="*", choices=NETS, default=list(NETS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--probes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, float32, {options.rounds} rounds")
    for net in options.nets:
        frame = times(net, options.rounds, options.probes, options.steps, options.examples)
        print(frame.to_string(index=False, float_format="%.3f"))
    for products in (20, 40):
        print(accuracy(products, options.seeds).to_string(index=False, float_format="%.4f"))


if __name__ == "__main__":
    main()
