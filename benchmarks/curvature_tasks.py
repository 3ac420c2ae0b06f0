"""What do density, trace and top eigenvalues of a Hessian cost, beside other tools?

Networks and a batch of 128 as in `hessian_products.py`; tools as in `peers_curvature.py`. Processor time of one thread;
all contenders in turn in every round, each round divided by its own gradient. The limit is what the products alone
take: their number times the gradients that one needs by counted operations. No contender stops early on a
density or a trace; for top eigenvalues the number is the fewest Lanczos steps of hessian-eigenthings that reach 1 %,
found by trying, which is also what it is given, since it takes no tolerance.

    OMP_NUM_THREADS=1 python benchmarks/curvature_tasks.py --rounds 3
    OMP_NUM_THREADS=1 python benchmarks/curvature_tasks.py --memory     peaks of products, each in a fresh process
"""

import argparse
import ctypes
import functools
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from hessian_products import mlp, resnet20
from peers_curvature import Batches, Counter, Peer, installed
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn
from torch.autograd import grad

import gradscope as gs

EXAMPLES = 128
NETS = {"mlp": mlp, "resnet20": resnet20}
TASKS = {"mlp": ["product", "density", "trace", "top"], "resnet20": ["product", "density"]}
DENSITY = {"mlp": (2, 20), "resnet20": (1, 8)}
TRACE_PRODUCTS = 40
QUICK = {"mlp": 3, "resnet20": 1}  # how often a gradient or a single product is repeated to be timed
TOP, TOLERANCE = 10, 0.01


def gradscope(model: nn.Module, batches: Batches) -> Peer:
    """This package behind the same face."""
    operator = gs.hessian(gs.Problem(model, list(batches), batch_norm="running"), budget_bytes=2**33)
    counter = Counter()
    operator._rows = counter.around(operator._rows, len)

    def density(probes: int, steps: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        from gradscope.curvature.quadrature import recurrences

        if probes > 1:
            gs.spectral_density(operator, probes=probes, steps=steps)
            return numpy.empty(0), numpy.empty(0)
        nodes, weights = recurrences(operator, probes, steps, 0)[0][0].quadrature()
        return nodes[None], weights[None]

    def trace(products: int | None = None) -> float:
        asked = {"accuracy": 1e-9, "method": "hutchinson", "max_products": products}
        frame = gs.trace(operator, **(asked if products else {}))
        return float(frame.loc[frame["quantity"] == "trace", "value"].iloc[0])

    def top(k: int, tolerance: float, steps: int) -> numpy.ndarray:
        return gs.extreme_eigenvalues(operator, k, ends="largest", tolerance=tolerance)["value"].to_numpy()

    def largest() -> float:
        return float(gs.extreme_eigenvalues(operator)["value"].iloc[0])

    return Peer(
        counter, operator.matvec, density, trace, top, {"largest eigenvalue": largest, "trace": trace}
    )


def contenders() -> dict[str, Callable[[nn.Module, Batches], Peer]]:
    return {"gradscope": gradscope, **installed()}


def problem(name: str) -> tuple[nn.Module, Batches]:
    torch.manual_seed(0)
    model = NETS[name]()
    inputs, targets = torch.randn(EXAMPLES, 3, 32, 32), torch.randint(0, 10, (EXAMPLES,))
    model(inputs)  # running statistics
    return model.eval(), [(inputs, targets)]


def gradient(model: nn.Module, batches: Batches) -> object:
    (inputs, targets) = batches[0]
    return grad(nn.functional.cross_entropy(model(inputs), targets), list(model.parameters()))


def gradients_a_product(model: nn.Module, inputs: Tensor) -> float:
    """Operations of one product over those of one gradient: 6 passes a layer over 3, in the first layer 2 over 2."""
    sizes: list[int] = []

    def count(module: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        sizes.append(module.weight.numel() * output.numel() // output.shape[1])

    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    model(inputs[:1])
    for handle in handles:
        handle.remove()
    return (2 * sizes[0] + 6 * sum(sizes[1:])) / (2 * sizes[0] + 3 * sum(sizes[1:]))


def seconds(run: Callable[[], object], repeats: int = 1) -> tuple[float, object]:
    start = time.process_time()
    for _ in range(repeats):
        result = run()
    return (time.process_time() - start) / repeats, result


def measure(name: str, tasks: list[str], rounds: int, chosen: list[str]) -> None:
    peers = {label: contenders()[label](*problem(name)) for label in chosen}  # a network of its own for each
    model, batches = problem(name)
    vector = torch.randn(
        sum(p.numel() for p in model.parameters()), generator=torch.Generator().manual_seed(0)
    )
    limit = gradients_a_product(model, batches[0][0])
    print(
        f"\n{name}, {EXAMPLES} examples, {rounds} rounds; a product needs {limit:.2f} gradients", flush=True
    )
    exact, steps, fewest = {}, {}, 0
    if "top" in tasks:
        exact = references(model, batches)
        steps = {label: needed_steps(peer, exact) for label, peer in peers.items()}
        fewest = max(steps.values())
    for task in tasks:
        calls: dict[str, Callable[[str], object]] = {
            "product": lambda label: peers[label].product(vector),
            "density": lambda label: peers[label].density(*DENSITY[name]),
            "trace": lambda label: peers[label].trace(TRACE_PRODUCTS),
            "top": lambda label: peers[label].top(TOP, TOLERANCE, steps[label]),
        }
        probes, length = DENSITY[name]
        products = {"product": 1, "density": probes * length, "trace": TRACE_PRODUCTS, "top": fewest}
        needed = products[task]
        found, answers, made = timed(
            task, calls[task], peers, rounds, lambda: gradient(model, batches), QUICK[name]
        )
        report(task, found, needed * limit, made)
        if task == "top":
            for label, answer in answers.items():
                print(
                    f"  {label}: largest relative error of the {TOP} values {error(answer, label, exact):.1e}"
                )
        if task == "trace":
            print("  estimates:", {label: f"{answer:.4g}" for label, answer in answers.items()}, flush=True)


def timed(
    task: str,
    call: Callable[[str], object],
    peers: dict[str, Peer],
    rounds: int,
    one_gradient: Callable[[], object],
    quick: int,
) -> tuple[dict[str, list[tuple[float, float]]], dict[str, object], dict[str, int]]:
    """By contender: seconds, and seconds of a gradient just before, of each round; the last answer; its products."""
    repeats, warm_up = (quick, 1) if task == "product" else (1, 0)
    found: dict[str, list[tuple[float, float]]] = {label: [] for label in peers}
    answers, made = {}, {}
    for index in range(rounds + warm_up):
        for label, peer in peers.items():
            base = seconds(one_gradient, quick)[0]
            before = peer.counter.products
            taken, answers[label] = seconds(functools.partial(call, label), repeats)
            made[label] = (peer.counter.products - before) // repeats
            if index >= warm_up:
                found[label].append((taken, base))
    return found, answers, made


def report(
    task: str, found: dict[str, list[tuple[float, float]]], limit: float, made: dict[str, int]
) -> None:
    """Medians over rounds; gradients are those of the whole round."""
    pooled = [statistics.median(base for _, base in row) for row in zip(*found.values(), strict=True)]
    print(f"{task}: limit {limit:.1f} gradients of {statistics.median(pooled) * 1e3:.1f} ms")
    print(f"  {'':<22}{'products':>9}{'seconds':>9}{'x limit':>9}{'least':>7}{'most':>7}{'x gradscope':>13}")
    first = [time_taken for time_taken, _ in next(iter(found.values()))]
    for label, values in found.items():
        ratios = [t / base / limit for (t, _), base in zip(values, pooled, strict=True)]
        against = statistics.median(t / own for (t, _), own in zip(values, first, strict=True))
        print(
            f"  {label:<22}{made[label]:>9}{statistics.median(t for t, _ in values):>9.3f}"
            f"{statistics.median(ratios):>9.2f}{min(ratios):>7.2f}{max(ratios):>7.2f}{against:>13.2f}"
        )


def references(model: nn.Module, batches: Batches) -> dict[str, numpy.ndarray]:
    """The largest eigenvalues, by value and by size, by SciPy to about the square of 1e-3."""
    with gs.hessian(gs.Problem(model, list(batches), batch_norm="running"), check="none") as operator:
        matrix = operator.to_scipy()
        largest = eigsh(matrix, TOP, which="LA", tol=1e-3, return_eigenvectors=False)
        by_size = eigsh(matrix, TOP, which="LM", tol=1e-3, return_eigenvectors=False)
    return {"LA": numpy.sort(largest)[::-1], "LM": numpy.sort(by_size)[::-1]}


def error(answer: object, label: str, exact: dict[str, numpy.ndarray]) -> float:
    """The largest relative error of the values; PyHessian gives the largest by size."""
    expected = exact["LM" if label == "PyHessian" else "LA"]
    return float(numpy.abs(numpy.asarray(answer) / expected - 1).max())


def needed_steps(peer: Peer, exact: dict[str, numpy.ndarray]) -> int:
    """For a tool that takes steps and no tolerance: the fewest, by tens, that give all values within 1 %, else 0."""
    if not peer.wants_steps:
        return 0
    for steps in range(2 * TOP, 20 * TOP, TOP):
        if (numpy.abs(peer.top(TOP, TOLERANCE, steps) / exact["LA"] - 1) < TOLERANCE).all():
            return steps
    raise RuntimeError("200 Lanczos steps do not reach 1 %.")


def peak(name: str, label: str) -> float:
    """Peak of this process above what it held before one product, MB, all code loaded by a small one."""
    small = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    tiny = [(torch.randn(2, 12), torch.tensor([0, 1]))]
    vector = torch.randn(39)
    _ = gradient(small, tiny) if label == "gradient" else contenders()[label](small, tiny).product(vector)
    model, batches = problem(name)
    vector = torch.randn(sum(p.numel() for p in model.parameters()))
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _kilobytes("VmRSS")
    if label == "gradient":
        gradient(model, batches)
    else:
        peer = contenders()[label](model, batches)
        peer.product(vector)
        peer.product(vector)
    return (_kilobytes("VmHWM") - before) / 1000


def _kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def memory(names: list[str], chosen: list[str]) -> None:
    for name in names:
        for label in ["gradient", *chosen]:
            command = [sys.executable, "-W", "ignore", __file__, "--peak", name, label]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"{name}: {label}: {float(done.stdout):.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS["mlp"], default=TASKS["mlp"])
    parser.add_argument("--only", nargs="+", choices=list(contenders()), default=list(contenders()))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="peaks instead of times")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Using backward")
    torch.set_num_threads(1)
    if options.peak:
        print(peak(*options.peak))
    elif options.memory:
        memory(options.nets, options.only)
    else:
        for name in options.nets:
            tasks = [task for task in TASKS[name] if task in options.tasks]
            measure(name, tasks, options.rounds, options.only)


if __name__ == "__main__":
    main()
