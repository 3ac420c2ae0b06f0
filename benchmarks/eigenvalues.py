"""What do the ten largest eigenvalues of a Hessian cost, beside the products they need?

An MLP 3072-512-512-512-10 (or wider: 3.2 M parameters) after a few steps of training, batch 128. Beside
`extreme_eigenvalues`: SciPy's eigsh on the same operator, and hessian-eigenthings and curvlinops with eigsh
where they are installed. Processor time of one thread, medians over rounds that take all contenders in turn;
the unit is the time of as many products as gradscope makes, measured in the same round.

    python benchmarks/eigenvalues.py --rounds 3
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import numpy
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from gradscope.curvature import Lanczos, extreme_eigenvalues, hessian
from gradscope.problem import Problem

WIDTHS = {"2.1M": [3072, 512, 512, 512, 10], "3.2M": [3072, 700, 700, 700, 10]}


def trained(widths: list[int], steps: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """The network after some steps of gradient descent on random images in ten clusters."""
    torch.manual_seed(0)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers[:-1])
    targets = torch.randint(0, 10, (128,))
    inputs = torch.randn(10, widths[0])[targets] + torch.randn(128, widths[0])
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimiser.step()
    return model, inputs, targets


def contenders(
    model: nn.Module, inputs: Tensor, targets: Tensor, k: int, tolerance: float
) -> dict[str, Callable[[], tuple[int, float]]]:
    """Name, and what finds the eigenvalues: returns the products it made, and the largest value."""
    operator = hessian(Problem(model, (inputs, targets)), check="none", budget_bytes=2**33)
    operator.matvec(torch.randn(operator.shape[0]))
    bytes_each = 4 * operator.shape[0]

    def ours(vectors: int) -> tuple[int, float]:
        room = vectors * bytes_each
        frame = extreme_eigenvalues(
            operator, k, ends="largest", tolerance=tolerance, max_basis_bytes=room, max_products=1000
        )
        return int(frame["products"].iloc[0]), float(frame["value"].iloc[0])

    def arpack() -> tuple[int, float]:
        before = operator.products
        values = eigsh(operator.to_scipy(), k=k, which="LA", tol=tolerance, return_eigenvectors=False)
        return operator.products - before, float(max(values))

    found: dict[str, Callable[[], tuple[int, float]]] = {
        "gradscope, as it comes": lambda: ours(2**31 // bytes_each),
        "gradscope, 30 vectors": lambda: ours(30),
        "gradscope, 20 vectors": lambda: ours(20),
        "eigsh on our operator": arpack,
    }
    try:
        from curvlinops import HessianLinearOperator
    except ImportError:
        print("curvlinops is not installed; left out.")
    else:
        named = dict(model.named_parameters())
        peer = HessianLinearOperator(
            model, nn.CrossEntropyLoss(), named, [(inputs, targets)], check_deterministic=False
        )

        def curvlinops() -> tuple[int, float]:
            values = eigsh(peer.to_scipy(), k=k, which="LA", tol=tolerance, return_eigenvectors=False)
            return -1, float(max(values))

        found["curvlinops + eigsh"] = curvlinops
    try:
        from hessian_eigenthings import HVPOperator
        from hessian_eigenthings.algorithms import lanczos
    except ImportError:
        print("hessian-eigenthings is not installed; left out.")
    else:

        def eigenthings() -> tuple[int, float]:
            def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
                return nn.functional.cross_entropy(network(batch[0]), batch[1])

            other = HVPOperator(model=model, dataloader=[(inputs, targets)], loss_fn=loss)
            result = lanczos(other, k=k, tol=tolerance, max_iter=100)
            return -1, float(numpy.max(numpy.asarray(result.eigenvalues)))

        found["hessian-eigenthings"] = eigenthings
    return found


def seconds_of(run: Callable[[], object]) -> tuple[float, object]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def step_overhead(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Time of a Lanczos step over a product's, less one: median of the first thirty steps."""
    operator = hessian(Problem(model, (inputs, targets)), check="none", budget_bytes=2**33)
    vector = torch.randn(operator.shape[0])
    operator.matvec(vector)
    run, steps, products = Lanczos(operator), [], []
    for _ in range(30):
        steps.append(seconds_of(run.step)[0])
        products.append(seconds_of(lambda: operator.matvec(vector))[0])
    return statistics.median(steps) / statistics.median(products) - 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", choices=WIDTHS, default="2.1M")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--tolerance", type=float, default=1e-2)
    parser.add_argument("--steps", type=int, default=50, help="of training before")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, inputs, targets = trained(WIDTHS[options.net], options.steps)
    operator = hessian(Problem(model, (inputs, targets)), check="none", budget_bytes=2**33)
    vector = torch.randn(operator.shape[0])
    timed = contenders(model, inputs, targets, options.k, options.tolerance)
    table: dict[str, list[tuple[float, int, float]]] = {label: [] for label in timed}
    for index in range(options.rounds + 1):
        operator.matvec(vector)
        product, _ = seconds_of(lambda: [operator.matvec(vector) for _ in range(10)])
        for label, run in timed.items():
            seconds, (products, value) = seconds_of(run)  # type: ignore[misc]
            if index:  # the first round warms up
                table[label].append((seconds / (product / 10), products, value))
    print(f"torch {torch.__version__}, {options.threads} thread(s), float32, {operator.shape[0]} parameters")
    print(f"{'':<26}{'products':>10}{'time in products':>18}{'per product':>13}{'largest':>10}")
    for label, rows in table.items():
        cost, products = statistics.median(row[0] for row in rows), rows[-1][1]
        each = f"{cost / products:.2f}" if products > 0 else "-"
        print(f"{label:<26}{products:>10}{cost:>18.1f}{each:>13}{rows[-1][2]:>10.4f}")
    print(f"a step beyond its product: {step_overhead(model, inputs, targets):+.0%} of a product")


if __name__ == "__main__":
    main()
