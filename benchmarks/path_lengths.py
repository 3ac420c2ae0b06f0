"""What does the exact split of the gradient by path length cost, beside sampling, interpolation and recursion by hand?

ResNets of the CIFAR kind, 32x32 images, batch normalisation frozen. The unit is one input-only backward pass without
hooks. The limit is what the recursion needs, counted in branch products: n (n + 1) / 2 of them for all lengths of n
blocks, hence (n + 1) / 2 passes; fewer when cut at K lengths. All contenders take turns in each round.

| contender | what it does |
|---|---|
| walk, passes, vmap | the engines of gradscope |
| plain passes | K + 1 backward passes without hooks, which split nothing |
| recursion by hand | torch.func.vjp of each block under vmap, on networks whose blocks are known |
| sampling | one random path for each length (Veit et al. 2016), times the number of paths |
| roots of unity | the gradient with every crossing times exp(2 pi i j / (n + 1)), and a discrete Fourier transform |

    python benchmarks/path_lengths.py --rounds 3 --images 4
    python benchmarks/path_lengths.py --growth --rounds 3 --csv growth.csv      in K and in depth
    python benchmarks/path_lengths.py --memory walk                             peak of one contender
"""

import argparse
import math
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import gradscope as gs
from gradscope.gradients.engines.vmapped import GateOfStack, vmapped
from gradscope.gradients.live import open_paths
from gradscope.gradients.split import Paths
from gradscope.instruments.gates.polynomial import Gate, Powers

LENGTHS = (1, 5, 10, 20)
Contender = Callable[[], Tensor]


def plain(paths: Paths, highest: int) -> Tensor:
    for _ in range(highest + 1):
        paths.graph.backward()
    return torch.full((highest + 1, *paths.shape), math.nan)


@torch.no_grad()
def by_hand(model: gs.nets.Network, batch: tuple[Tensor, Tensor], highest: int) -> Tensor:
    """c_k <- S'^T c_k + F'^T c_(k-1), block by block from the loss."""
    states = [batch[0]]
    with torch.no_grad():
        states.append(model.stem(states[0]))
        for block in model.blocks:
            states.append(block(states[-1]))

    def loss(state: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(model.head(state), batch[1])

    cotangents = torch.func.grad(loss)(states[-1])[None]
    for block, state in zip(reversed(model.blocks), reversed(states[1:-1]), strict=True):

        def parts(state: Tensor, block: gs.nets.Residual = block) -> tuple[Tensor, Tensor]:
            shared = state if block.before is None else block.before(state)
            return block.shortcut(shared), block.branch(shared)

        rows = min(len(cotangents), highest)
        zeros = torch.zeros_like(cotangents[:1])
        skipping = torch.cat([cotangents, zeros])[: highest + 1]
        crossing = torch.cat([zeros, cotangents[:rows]])[: highest + 1]
        (cotangents,) = torch.vmap(torch.func.vjp(parts, state)[1])((skipping, crossing))
    return torch.vmap(torch.func.vjp(model.stem, batch[0])[1])(cotangents)[0]


def sampled(paths: Paths, highest: int, generator: torch.Generator) -> Tensor:
    """Number of paths times the gradient through one random path, for each length."""
    branches = torch.zeros(highest + 1, paths.longest)
    for length, row in enumerate(branches):
        row[torch.randperm(paths.longest, generator=generator)[:length]] = 1
    numbers = torch.tensor([math.comb(paths.longest, length) for length in range(highest + 1)]).double()
    return paths.gated(branches, 1 - branches, engine="passes") * numbers.view(-1, *[1] * len(paths.shape))


def interpolated(paths: Paths) -> Tensor:
    """At half of the roots of unity, since the others are their conjugates: two real passes each."""
    count = paths.longest + 1
    total = torch.zeros(count, *paths.shape, dtype=torch.complex128)
    for root in range(count // 2 + 1):
        angle = 2 * math.pi * root / count

        def turned(pair: Tensor, angle: float = angle) -> Tensor:
            real, imaginary = pair
            return torch.stack(
                [
                    math.cos(angle) * real - math.sin(angle) * imaginary,
                    math.sin(angle) * real + math.cos(angle) * imaginary,
                ]
            )

        def hook(slot: int, turned: Callable[[Tensor], Tensor] = turned) -> Callable:
            return lambda inputs, _: tuple(
                GateOfStack.apply(g, turned) if place == slot else g for place, g in enumerate(inputs)
            )

        handles = [e.node.register_hook(hook(e.slot)) for branch in paths.branches for e in branch.edges]
        try:
            pair = torch.vmap(
                lambda seed: torch.autograd.grad(paths.loss, paths.found.source, seed, retain_graph=True)[0]
            )(torch.tensor([1.0, 0.0]))
        finally:
            for handle in handles:
                handle.remove()
        value = torch.complex(pair[0].double(), pair[1].double())
        phases = torch.exp(-1j * angle * torch.arange(count, dtype=torch.float64)).view(
            -1, *[1] * len(paths.shape)
        )
        total += phases * value if root in (0, count / 2) else 2 * (phases * value).real
    return total.real / count


def cpu(function: Callable[[], object]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


def setting(depth: int, images: int) -> tuple[gs.nets.Network, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(images, 3, 32, 32, generator=generator), torch.arange(images) % 10
    return gs.nets.build("resnet", depth=depth, seed=0).eval(), batch


def contenders(
    paths: Paths, model: gs.nets.Network, batch: tuple[Tensor, Tensor], highest: int, names: list[str]
) -> dict[str, Contender]:
    generator = torch.Generator().manual_seed(1)

    def engine(name: str) -> Tensor:
        # Each walk compares itself with the ordinary gradient anew, as the first one over a graph does.
        paths.graph.walked = False
        return paths.graded(highest, engine=name).gradients

    gates = {edge: Gate(0) for branch in paths.branches for edge in branch.edges}
    every: dict[str, Contender] = {
        "walk": lambda: engine("walk"),
        "passes": lambda: engine("passes"),
        # Without the powers of two by which walk and passes keep clear of underflow.
        "vmap": lambda: vmapped(paths.graph, gates, Powers((highest,)))[0][0],
        "plain passes": lambda: plain(paths, highest),
        "recursion by hand": lambda: by_hand(model, batch, highest),
        "sampling": lambda: sampled(paths, highest, generator),
        "roots of unity": lambda: interpolated(paths),
    }
    if highest < paths.longest:
        # Whatever is wanted, this one finds all lengths.
        every.pop("roots of unity")
    return {name: every[name] for name in names if name in every}


def measured(depth: int, highest: int | None, images: int, rounds: int, names: list[str]) -> list[dict]:
    """Rows of seconds, times the limit, and differences from `passes` at a few lengths, relative."""
    model, batch = setting(depth, images)
    rows = []
    with open_paths((model, batch)) as paths:
        blocks = paths.longest
        highest = blocks if highest is None else highest
        products = sum(min(block + 1, highest) for block in range(blocks))
        # The same forward pass: in another precision, ReLUs near zero would open and close.
        exact = paths.graded(highest, engine="passes").gradients
        chosen = contenders(paths, model, batch, highest, names)
        for number in range(-1, rounds):
            unit = statistics.median(cpu(paths.graph.backward) for _ in range(5))
            for name, run in chosen.items():
                found: list[Tensor] = []
                seconds = cpu(lambda run=run, found=found: found.append(run().detach()))
                if number < 0:
                    continue
                errors = {
                    f"error_{k}": float((found[0][k] - exact[k]).norm() / exact[k].norm())
                    for k in LENGTHS
                    if k <= highest
                }
                rows.append(
                    {
                        "contender": name,
                        "blocks": blocks,
                        "lengths": highest,
                        "images": images,
                        "round": number,
                    }
                    | {"quantity": "seconds", "value": seconds, "unit_seconds": unit}
                    | {"ratio_to_limit": seconds / (unit * products / blocks)}
                    | errors
                )
    return rows


def table(frame) -> str:
    """Medians over rounds, in markdown."""
    keys = ["blocks", "lengths", "contender"]
    errors = [f"error_{k}" for k in LENGTHS if f"error_{k}" in frame]
    lines = ["| blocks | lengths | contender | s | x limit | (range) | " + " | ".join(errors) + " |"]
    lines.append("|" + "---|" * (6 + len(errors)))
    for (blocks, lengths, name), part in frame.groupby(keys, sort=False):
        ratio = part["ratio_to_limit"]
        cells = [str(blocks), str(lengths), name, f"{part['value'].median():.2f}", f"{ratio.median():.2f}"]
        cells.append(f"{ratio.min():.2f} to {ratio.max():.2f}")
        cells += [_written(part[error].median()) for error in errors]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _written(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.1e}"


def peak(name: str, images: int) -> None:
    """The peak of memory of a process that runs this contender only."""
    model, batch = setting(110, images)
    with open_paths((model, batch)) as paths:
        paths.graph.backward()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        contenders(paths, model, batch, paths.longest, [name])[name]()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{name}: {(after - before) / 1000:.0f} MB above one backward pass, of which the result "
              f"{8 * (paths.longest + 1) * math.prod(paths.shape) / 1e6:.0f} MB")  # fmt: skip


ALL = ["walk", "passes", "vmap", "plain passes", "recursion by hand", "sampling", "roots of unity"]


def main() -> None:
    import pandas as pd

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--growth", action="store_true", help="in K at 54 blocks, and in depth")
    parser.add_argument("--memory", choices=ALL)
    parser.add_argument("--only", nargs="+", choices=ALL, default=ALL)
    parser.add_argument("--csv")
    parser.add_argument("--figure", help="where to draw the growth")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        peak(arguments.memory, arguments.images)
        return
    cases = [("lengths", 110, None), ("lengths", 110, 20)]
    if arguments.growth:
        cases = [("lengths", 110, highest) for highest in (5, 10, 20, 54)]
        cases += [("blocks", depth, None) for depth in (56, 110, 218)]
    rows = []
    for sweep, depth, highest in cases:
        found = measured(depth, highest, arguments.images, arguments.rounds, arguments.only)
        rows += [{"sweep": sweep} | row for row in found]
    frame = pd.DataFrame(rows)
    print(
        table(
            frame
            if not arguments.growth
            else frame.assign(contender=frame["sweep"] + ": " + frame["contender"])
        )
    )
    if arguments.csv:
        frame.to_csv(arguments.csv, index=False)
    if arguments.figure:
        gs.figures.path_cost(frame).savefig(arguments.figure)


if __name__ == "__main__":
    main()
