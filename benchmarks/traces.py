"""What do input-gradient traces of many small networks cost, carried forward, beside backward passes?

Fresh mean-centred plain networks of a scalar, 256 points on [-2, 2], float32, one thread, CPU time. The limit is two
forward passes of all networks at once, their weights stacked before the clock starts: what values and derivatives need
at least, one product each. Contenders take turns in every round, and agree with autograd in float64 first.

| contender | what it does |
|---|---|
| gradscope | values and derivatives as one matrix, network by network; modules are read anew each time |
| loop of autograd.grad | one forward and one input-only backward pass a network |
| stack + vmap(grad) | `torch.func`: the weights stacked, then one pass for all networks |
| one pass for all depths | gradscope on one network of L blocks, with its readout after every block |
| one network for each depth | gradscope on L networks of 1 .. L blocks |
| loop of autograd.grad over depths | the same with backward passes |

    python benchmarks/traces.py --rounds 9
    python benchmarks/traces.py --rounds 9 --csv traces.csv
    python benchmarks/traces.py --rounds 9 --growth     in networks, layers and points, each doubled twice
    python benchmarks/traces.py --memory gradscope      peak of one contender, 20 networks of 50 layers
"""

import argparse
import copy
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import gradscope as gs
from gradscope.studies.depth_traces import network_traces

CASES = ((200, 1, 100), (200, 10, 100), (200, 50, 20), (64, 50, 100))
DEPTH_CASES = ((200, 10, 5), (200, 50, 2), (64, 50, 5))
Networks = list[gs.nets.Network]
Contender = Callable[[], Tensor]


def drawn(width: int, depth: int, count: int) -> Networks:
    options = {"width": width, "depth": depth, "inputs": 1, "outputs": 1, "normalise": "mean"}
    return [gs.nets.build("plain_mlp", seed=seed, **options).requires_grad_(False) for seed in range(count)]


def by_autograd(networks: Networks, grid: Tensor) -> Tensor:
    traces = []
    for network in networks:
        inputs = grid.clone().requires_grad_()
        traces.append(torch.autograd.grad(network(inputs).sum(), inputs)[0][:, 0])
    return torch.stack(traces)


def by_vmap(networks: Networks, grid: Tensor, skeleton: torch.nn.Module) -> Tensor:
    parameters, buffers = torch.func.stack_module_state(networks)

    def total(inputs: Tensor, weights: dict, others: dict) -> Tensor:
        return torch.func.functional_call(skeleton, (weights, others), (inputs,)).sum()

    gradient = torch.func.grad(total)
    return torch.vmap(gradient, in_dims=(None, 0, 0))(grid, parameters, buffers)[:, :, 0]


def forward(networks: Networks, grid: Tensor) -> Tensor:
    return torch.cat([network_traces(network, [len(network.blocks)], grid) for network in networks])


def stacked(networks: Networks) -> list[Tensor]:
    """[S, in, out] of each layer, the readout last."""
    layers = zip(*([block.linear for block in n.blocks] + [n.head] for n in networks), strict=True)
    return [torch.stack([layer.weight.detach().T for layer in level]).contiguous() for level in layers]


@torch.no_grad()
def two_forwards(weights: list[Tensor], grid: Tensor) -> Tensor:
    for _ in range(2):
        state = grid.expand(len(weights[0]), *grid.shape)
        for weight in weights[:-1]:
            state = torch.bmm(state, weight)
            state = state.sub_(state.mean(dim=1, keepdim=True)).relu_()
        result = torch.bmm(state, weights[-1])
    return result[:, :, 0]


def shallower(network: gs.nets.Network) -> Networks:
    """The networks of 1 .. L blocks that one network holds."""
    return [
        gs.nets.Network(network.stem, network.blocks[:depth], network.head)
        for depth in range(1, len(network.blocks) + 1)
    ]


def cpu(function: Callable[[], object]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


def agree(contenders: dict[str, Contender], doubled: dict[str, Contender]) -> None:
    """In float64 all traces are the same; in float32 single rectifiers near zero flip."""
    results = {name: run() for name, run in doubled.items()}
    reference = next(name for name in results if name.startswith("loop of autograd"))
    for name, result in results.items():
        torch.testing.assert_close(result, results[reference], rtol=1e-9, atol=0, msg=f"{name} differs")
    assert contenders.keys() == doubled.keys()


def single_depth(networks: Networks, grid: Tensor) -> dict[str, Contender]:
    skeleton = copy.deepcopy(networks[0]).to("meta")
    return {
        "gradscope": lambda: forward(networks, grid),
        "loop of autograd.grad": lambda: by_autograd(networks, grid),
        "stack + vmap(grad)": lambda: by_vmap(networks, grid, skeleton),
    }


def all_depths(networks: Networks, grid: Tensor) -> dict[str, Contender]:
    depths = range(1, len(networks[0].blocks) + 1)
    every = [shallower(network) for network in networks]
    return {
        "one pass for all depths": lambda: torch.cat([network_traces(n, depths, grid) for n in networks]),
        "one network for each depth": lambda: torch.cat([forward(nets, grid) for nets in every]),
        "loop of autograd.grad over depths": lambda: torch.cat([by_autograd(nets, grid) for nets in every]),
    }


def measured(case: tuple[int, int, int], rounds: int, setting: Callable) -> list[dict]:
    width, depth, count = case
    networks, grid = drawn(width, depth, count), gs.data.line(256)
    contenders = setting(networks, grid)
    few = [copy.deepcopy(network).double() for network in networks[:2]]
    agree(contenders, setting(few, grid.double()))
    if setting is single_depth:
        weights = stacked(networks)
        contenders = {"two stacked forwards": lambda: two_forwards(weights, grid)} | contenders
    rows = []
    for number in range(-1, rounds):
        # The order turns, so that none always runs on the other's warm memory.
        names = list(contenders)
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            seconds = cpu(contenders[name])
            if number >= 0:
                rows.append({"width": width, "depth": depth, "networks": count, "round": number})
                rows[-1] |= {"contender": name, "quantity": "seconds", "value": seconds}
    return rows


def growth(rounds: int) -> str:
    """How many times as long one pass for all depths takes when one size doubles, the others at their middle."""
    middle = {"networks": 10, "layers": 20, "points": 256}
    lines = ["| doubled | from, to | times as long | 95 % interval |", "|---|---|---|---|"]
    for size, usual in middle.items():
        steps = [usual // 2, usual, 2 * usual]
        passes = []
        for step in steps:
            sizes = middle | {size: step}
            networks, grid = drawn(200, sizes["layers"], sizes["networks"]), gs.data.line(sizes["points"])
            depths = range(1, sizes["layers"] + 1)
            passes.append(lambda nets=networks, x=grid, d=depths: [network_traces(n, d, x) for n in nets])
        seconds = [[cpu(run) for run in passes] for _ in range(rounds + 1)][1:]
        for place in (0, 1):
            middle_ratio, low, high = median_with_interval([row[place + 1] / row[place] for row in seconds])
            cells = [size, f"{steps[place]}, {steps[place + 1]}", f"{middle_ratio:.2f}"]
            lines.append("| " + " | ".join([*cells, f"{low:.2f} to {high:.2f}"]) + " |")
    return "\n".join(lines)


def peak(name: str) -> str:
    """The peak of memory of a process that runs this contender only, above one forward pass of one network."""
    networks, grid = drawn(200, 50, 20), gs.data.line(256)
    with torch.no_grad():
        networks[0](grid)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    single_depth(networks, grid)[name]()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weights = sum(p.numel() * p.element_size() for network in networks for p in network.parameters())
    return f"{name}: {(after - before) / 1000:.0f} MB; the weights take {weights / 1e6:.0f} MB"


def median_with_interval(values: list[float]) -> tuple[float, float, float]:
    """The median, and the ranks between which the true one lies in at least 95 of 100 cases, by the binomial."""
    from scipy.stats import binom

    ordered = sorted(values)
    rank = int(binom.ppf(0.025, len(ordered), 0.5))
    rank = max(rank, 1)
    return statistics.median(ordered), ordered[rank - 1], ordered[-rank]


def table(frame, unit: str) -> str:
    lines = [f"| case | contender | s | times {unit} | 95 % interval |", "|---|---|---|---|---|"]
    for (width, depth, networks), part in frame.groupby(["width", "depth", "networks"], sort=False):
        seconds = part.pivot(index="round", columns="contender", values="value")
        for name in part["contender"].drop_duplicates():
            middle, low, high = median_with_interval((seconds[name] / seconds[unit]).tolist())
            cells = [f"{width} units, L={depth}, {networks} networks", name, f"{seconds[name].median():.4f}"]
            cells += [f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    import pandas as pd

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--memory", choices=["gradscope", "loop of autograd.grad", "stack + vmap(grad)"])
    parser.add_argument("--csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.growth or arguments.memory:
        print(growth(arguments.rounds) if arguments.growth else peak(arguments.memory))
        return
    frames = []
    for cases, setting, unit in (
        (CASES, single_depth, "two stacked forwards"),
        (CASES, single_depth, "loop of autograd.grad"),
        (DEPTH_CASES, all_depths, "one pass for all depths"),
    ):
        if unit != "loop of autograd.grad":
            frames.append(
                pd.DataFrame([row for case in cases for row in measured(case, arguments.rounds, setting)])
            )
        print(table(frames[-1], unit), end="\n\n", flush=True)
    if arguments.csv:
        pd.concat(frames, ignore_index=True).to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()
