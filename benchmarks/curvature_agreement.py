"""Do the curvature operators agree with other tools, and where do those refuse or differ?

For each network the dense matrix of every operator by plain automatic differentiation (a loop over entries of the
gradient, outputs or examples), in float64, and eight products with it by gradscope (its dense matrix too) and by each
peer in `peers_curvature.py` that is installed. Cells: the largest difference over the largest entry of the products; or
the first line of a refusal. "moves": what was changed in the network: values (parameters, buffers), modes, gradients.

    OMP_NUM_THREADS=1 python benchmarks/curvature_agreement.py
"""

import argparse
import copy
import functools
from collections.abc import Callable

import pandas
import torch
from peers_curvature import KINDS, Batches, installed
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import gradscope as gs

Case = tuple[nn.Module, Batches]


class Block(nn.Module):
    """A residual block with batch normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.branch(x))


class Encoder(nn.Module):
    """One transformer encoder layer over five tokens, and a readout of their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(dim=1))


class Tied(nn.Module):
    """One square weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(5, 5), nn.Linear(5, 3)
        self.again = nn.Linear(5, 5)
        self.again.weight = self.inner.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.again(torch.tanh(self.inner(x)))))


def mlp(rectified: bool = False) -> nn.Sequential:
    activation = nn.ReLU if rectified else nn.Tanh
    return nn.Sequential(nn.Linear(5, 6), activation(), nn.Linear(6, 5), activation(), nn.Linear(5, 3))


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    )


def residual() -> nn.Sequential:
    stem = [nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU()]
    return nn.Sequential(*stem, Block(3), Block(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))


def frozen() -> nn.Sequential:
    net = mlp()
    net[2].requires_grad_(False)
    return net


def case(net: nn.Module, *shape: int, sizes: tuple[int, ...] = (8,), train: bool = False) -> Case:
    """The network in float64 with used running statistics, and Gaussian inputs in batches of these sizes."""
    net = net.double()
    for _ in range(5):
        net(torch.randn(16, *shape, dtype=torch.float64) + 0.3)
    batches = [
        (torch.randn(size, *shape, dtype=torch.float64), torch.randint(0, 3, (size,))) for size in sizes
    ]
    return net.train(train), batches


CASES: dict[str, Callable[[], Case]] = {
    "MLP, tanh": lambda: case(mlp(), 5),
    "MLP, ReLU": lambda: case(mlp(rectified=True), 5),
    "convolutions, GELU": lambda: case(convolutional(), 1, 4, 4),
    "residual, batch norm in eval mode": lambda: case(residual(), 1, 4, 4),
    "residual, batch norm in train mode": lambda: case(residual(), 1, 4, 4, train=True),
    "transformer encoder layer": lambda: case(Encoder(), 5, 4),
    "transformer encoder layer, train mode": lambda: case(Encoder(), 5, 4, train=True),
    "tied weights": lambda: case(Tied(), 5),
    "frozen layer": lambda: case(frozen(), 5),
    "two equal batches": lambda: case(mlp(), 5, sizes=(4, 4)),
    "short last batch": lambda: case(mlp(), 5, sizes=(4, 4, 1)),
    "layer norm": lambda: case(
        nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)), 5
    ),
    "dropout in train mode": lambda: case(
        nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)), 5, train=True
    ),
}
WEIGHT_DECAY, VECTORS = 0.25, 8


def plain(net: nn.Module, batches: Batches, kind: str) -> Tensor:
    """The matrix by one derivative after the other."""
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    total = sum(len(targets) for _, targets in batches)

    def flat(gradients: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([gradient.flatten() for gradient in gradients])

    def rows(values: Tensor) -> Tensor:
        return torch.stack(
            [flat(grad(v, parameters, retain_graph=True, materialize_grads=True)) for v in values.flatten()]
        )

    matrix = torch.zeros(())
    for inputs, targets in batches:
        outputs = net(inputs)
        if kind == "hessian":
            loss = functional.cross_entropy(outputs, targets, reduction="sum")
            matrix = matrix + rows(flat(grad(loss, parameters, create_graph=True)))
        elif kind == "gauss_newton":
            chances = outputs.softmax(dim=1).detach()
            jacobian = rows(outputs).view(*outputs.shape, -1)
            curved = torch.diag_embed(chances) - chances[:, :, None] * chances[:, None, :]
            matrix = matrix + torch.einsum("nip,nij,njq->pq", jacobian, curved, jacobian)
        else:
            gradients = rows(functional.cross_entropy(outputs, targets, reduction="none"))
            matrix = matrix + gradients.T @ gradients
    return matrix / total


def ours(net: nn.Module, batches: Batches, kind: str, vectors: Tensor, **options: float) -> Tensor:
    """The dense matrix times the vectors; their products are made as well, and must be that."""
    mode = "train" if net.training else "running"
    problem = gs.Problem(net, list(batches), batch_norm=mode)
    with getattr(gs, kind)(problem, **options) as operator:
        found = operator.dense() @ vectors
        torch.testing.assert_close(operator.matmat(vectors), found)
    return found


def by_peer(name: str, net: nn.Module, batches: Batches, kind: str, vectors: Tensor) -> Tensor:
    options = {} if kind == "hessian" else {"kind": kind}
    product = installed(kind)[name](net, batches, **options).product
    return torch.stack([product(vector).detach() for vector in vectors.T], dim=1)


def in_math(name: str, net: nn.Module, batches: Batches, kind: str, vectors: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return by_peer(name, net, batches, kind, vectors)


def difference(found: Callable[[], Tensor], expected: Tensor) -> str:
    """The largest difference over the largest entry, or how it was refused."""
    try:
        products = found()
    except Exception as error:  # a peer may raise anything, and what it says is the result
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:70]}"
    return f"{((products - expected).abs().max() / expected.abs().max()).item():.1e}"


def moved(before: nn.Module, after: nn.Module) -> str:
    """What is different about a network."""
    values = zip(before.state_dict().values(), after.state_dict().values(), strict=True)
    changes = {
        "values": any(not torch.equal(one, other) for one, other in values),
        "modes": [m.training for m in before.modules()] != [m.training for m in after.modules()],
        "gradients": any(parameter.grad is not None for parameter in after.parameters()),
    }
    return ", ".join(name for name, changed in changes.items() if changed) or "nothing"


def compare(name: str, kind: str) -> list[dict[str, str]]:
    """One row a tool."""
    torch.manual_seed(0)
    net, batches = CASES[name]()
    reference = copy.deepcopy(net)
    if "dropout" in name:
        reference.eval()
    with sdpa_kernel(SDPBackend.MATH):
        matrix = plain(reference, batches, kind)
    vectors = torch.randn(len(matrix), VECTORS, dtype=torch.float64)
    tools: dict[str, Callable[[nn.Module], Tensor]] = {
        "gradscope": lambda given: ours(given, batches, kind, vectors)
    }
    for peer in installed(kind):
        tools[peer] = functools.partial(by_peer, peer, batches=batches, kind=kind, vectors=vectors)
        if "transformer" in name:
            math = functools.partial(in_math, peer, batches=batches, kind=kind, vectors=vectors)
            tools[f"{peer}, math kernel"] = math
    rows = []
    for tool, products in tools.items():
        given = copy.deepcopy(net)
        found = difference(functools.partial(products, given), matrix @ vectors)
        rows.append({"network": name, "operator": kind, "tool": tool, "difference": found})
        rows[-1]["moves"] = moved(net, given)
    if name == "MLP, tanh":
        shifted = matrix @ vectors + WEIGHT_DECAY * vectors
        found = difference(lambda: ours(net, batches, kind, vectors, weight_decay=WEIGHT_DECAY), shifted)
        rows.append({"network": f"{name}, weight decay", "operator": kind, "tool": "gradscope"})
        rows[-1] |= {"difference": found, "moves": "nothing"}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--operators", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    rows = [row for kind in options.operators for name in options.cases for row in compare(name, kind)]
    frame = pandas.DataFrame(rows)
    with pandas.option_context("display.max_colwidth", None, "display.width", None, "display.max_rows", None):
        for kind, part in frame.groupby("operator", sort=False):
            print(f"\n{kind}")
            print(part.drop(columns="operator").to_string(index=False))


if __name__ == "__main__":
    main()
