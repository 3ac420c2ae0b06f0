"""Other tools' Hessians behind one face, for the scripts that compare with them.

Each tool is one function from a network and its batches (mean cross-entropy) to a `Peer`; what it does not
offer is None. `installed()` names those that can be imported; all three belong in an environment of their own, for
they bring dependencies, and would bring another torch unless it is pinned:

    pip install "torch==2.13.0" PyHessian==0.1 hessian-eigenthings==1.0.0a5 curvlinops-for-pytorch==3.0.1
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import numpy
import torch
from torch import Tensor, nn

Batches = Sequence[tuple[Tensor, Tensor]]
KINDS = ("hessian", "gauss_newton", "empirical_fisher")


class Counter:
    """How many products were made."""

    def __init__(self) -> None:
        self.products = 0

    def around(self, product: Callable, width: Callable[..., int] = lambda *_: 1) -> Callable:
        """The same product, counted as `width` of its arguments."""

        def counted(*arguments):  # type: ignore[no-untyped-def]
            self.products += width(*arguments)
            return product(*arguments)

        return counted


@dataclass
class Peer:
    """A tool with a matrix A of one problem.

    Attributes:
        counter: Products made so far.
        product: A v, [P] to [P], in the order of the trainable parameters.
        density: (probes, steps) to nodes and weights, [probes, steps] each, of the eigenvalue density.
        trace: Number of products to an estimate of the trace.
        top: (k, tolerance, steps) to the k largest eigenvalues, descending; `steps` is for tools that take no
            tolerance.
        defaults: By name, what the tool gives when nothing is said: "largest eigenvalue" and "trace".
        wants_steps: Whether `top` goes by `steps` rather than by tolerance.
    """

    counter: Counter
    product: Callable[[Tensor], Tensor]
    density: Callable[[int, int], tuple[numpy.ndarray, numpy.ndarray]]
    trace: Callable[[int], float]
    top: Callable[[int, float, int], numpy.ndarray]
    defaults: dict[str, Callable[[], float]]
    wants_steps: bool = False


def pyhessian(model: nn.Module, batches: Batches) -> Peer:
    """PyHessian. It leaves eval mode, and gradients with their graphs, in the network it is given."""
    module = importlib.import_module("pyhessian.hessian")
    data = {"data": batches[0]} if len(batches) == 1 else {"dataloader": batches}
    tool = module.hessian(model, nn.CrossEntropyLoss(), cuda=False, **data)
    counter = Counter()
    over_batches = counter.around(tool.dataloader_hv_product)
    on_one_batch = counter.around(module.hessian_vector_product)
    tool.dataloader_hv_product = over_batches

    def product(vector: Tensor) -> Tensor:
        sizes = [parameter.numel() for parameter in tool.params]
        pieces = [part.view_as(p) for part, p in zip(vector.split(sizes), tool.params, strict=True)]
        if tool.full_dataset:
            parts = over_batches(pieces)[1]
        else:
            parts = on_one_batch(tool.gradsH, tool.params, pieces)
        return torch.cat([part.flatten() for part in parts])

    @contextmanager
    def counted() -> Iterator[None]:
        with mock.patch.object(module, "hessian_vector_product", on_one_batch):
            yield

    def density(probes: int, steps: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        with counted(), mock.patch.object(torch, "eig", _symmetric_eig):
            nodes, weights = tool.density(iter=steps, n_v=probes)
        return numpy.array(nodes), numpy.array(weights)

    def trace(products: int | None = None) -> float:
        with counted():
            if products is None:
                return float(numpy.mean(tool.trace()))
            # Its rule, the running mean moved by less than tol, would stop early.
            return float(numpy.mean(tool.trace(maxIter=products, tol=-float("inf"))))

    def top(k: int, tolerance: float, steps: int) -> numpy.ndarray:
        with counted():
            return numpy.sort(tool.eigenvalues(top_n=k, tol=tolerance)[0])[::-1]

    def largest() -> float:
        with counted():
            return float(tool.eigenvalues()[0][0])

    return Peer(counter, product, density, trace, top, {"largest eigenvalue": largest, "trace": trace})


def _symmetric_eig(matrix: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
    """`torch.eig`, which torch no longer has, for the symmetric matrices PyHessian gives it."""
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], dim=1), vectors


def hessian_eigenthings(model: nn.Module, batches: Batches, kind: str = "hessian") -> Peer:
    """hessian-eigenthings: Lanczos takes a number of steps and no tolerance that would end it."""
    tool = importlib.import_module("hessian_eigenthings")
    criterion = nn.functional.cross_entropy
    if kind == "hessian":
        operator = tool.HessianOperator(model, batches, tool.supervised_loss(criterion))
    elif kind == "gauss_newton":
        of_output = tool.supervised_loss_of_output(criterion)
        operator = tool.GGNOperator(model, batches, tool.supervised_forward, of_output)
    else:
        operator = tool.EmpiricalFisherOperator(model, batches, tool.supervised_per_sample_loss(criterion))
    counter = Counter()
    operator.matvec = counter.around(operator.matvec)

    def density(probes: int, steps: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        found = tool.spectral_density(operator, num_runs=probes, lanczos_steps=steps, seed=0)
        return found.raw_eigenvalues.numpy(), found.raw_weights.numpy()

    def trace(products: int) -> float:
        return tool.trace(operator, num_matvecs=products, method="hutchinson", seed=0).estimate

    def top(k: int, tolerance: float, steps: int) -> numpy.ndarray:
        # Above 50 steps it would not reorthogonalise unless told to, and count copies as eigenvalues.
        found = tool.lanczos(
            operator, k=k, max_iter=steps, tol=tolerance, which="LA", seed=0, reorthogonalize=True
        )
        return found.eigenvalues.numpy()

    return Peer(
        counter,
        operator.matvec,
        density,
        trace,
        top,
        {
            "largest eigenvalue": lambda: float(tool.lanczos(operator).eigenvalues.max()),
            "trace": lambda: tool.trace(operator).estimate,
        },
        wants_steps=True,
    )


def curvlinops(model: nn.Module, batches: Batches, kind: str = "hessian") -> Peer:
    """curvlinops: extreme eigenvalues through SciPy's eigsh, on its exported operator.

    Its density takes the spectrum's ends from the caller, or spends products of its own on them; here the Lanczos
    run alone is timed.
    """
    tool = importlib.import_module("curvlinops")
    spectrum = importlib.import_module("curvlinops.papyan2020traces.spectrum")
    sparse = importlib.import_module("scipy.sparse.linalg")
    classes = {
        "hessian": tool.HessianLinearOperator,
        "gauss_newton": tool.GGNLinearOperator,
        "empirical_fisher": tool.EFLinearOperator,
    }
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    operator = classes[kind](model, nn.CrossEntropyLoss(), parameters, list(batches))
    counter = Counter()
    operator._matmat = counter.around(operator._matmat, lambda parts: parts[0].shape[-1])

    def density(probes: int, steps: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        runs = [spectrum.fast_lanczos(operator, steps) for _ in range(probes)]
        nodes, weights = zip(*((values, vectors[0] ** 2) for values, vectors in runs), strict=True)
        return torch.stack(nodes).numpy(), torch.stack(weights).numpy()

    def top(k: int, tolerance: float, steps: int) -> numpy.ndarray:
        return sparse.eigsh(operator.to_scipy(), k, which="LA", tol=tolerance, return_eigenvectors=False)[
            ::-1
        ]

    def largest() -> float:
        return float(sparse.eigsh(operator.to_scipy(), 1, which="LA", return_eigenvectors=False)[0])

    return Peer(
        counter,
        lambda vector: operator @ vector,
        density,
        lambda products: tool.hutchinson_trace(operator, products).item(),
        top,
        # Its trace estimators have no default number of products; hessian-eigenthings' 100 is taken.
        {"largest eigenvalue": largest, "trace": lambda: tool.xtrace(operator, 100).item()},
    )


PEERS: dict[str, Callable[..., Peer]] = {
    "PyHessian": pyhessian,
    "hessian-eigenthings": hessian_eigenthings,
    "curvlinops": curvlinops,
}
PACKAGES = {
    "PyHessian": "pyhessian",
    "hessian-eigenthings": "hessian_eigenthings",
    "curvlinops": "curvlinops",
}


def installed(kind: str = "hessian") -> dict[str, Callable[..., Peer]]:
    """The tools that can be imported here and know this matrix."""
    found = {name: PEERS[name] for name, package in PACKAGES.items() if importlib.util.find_spec(package)}
    return {name: peer for name, peer in found.items() if kind == "hessian" or name != "PyHessian"}
