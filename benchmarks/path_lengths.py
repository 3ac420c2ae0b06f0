"""What does the exact split of the gradient by path length cost, beside sampling paths one by one?

ResNet-110 (54 blocks), 32x32 images, all 55 lengths. The unit is one input-only backward pass; the least
that the recursion needs is 27.5 of them, counted in branch products. Sampling draws one path for each length
(Veit et al. 2016) and estimates the part of that length as the number of paths times its gradient; its error
beside the exact part is printed.

    python benchmarks/path_lengths.py --rounds 3 --images 4
"""

import argparse
import math
import statistics
import time

import torch

import gradscope as gs
from gradscope.gradients.paths import Paths, open_paths


def sampled(paths: Paths, length: int, generator: torch.Generator) -> torch.Tensor:
    """Number of paths times the gradient through one random path of `length` branches."""
    blocks = len(paths.junctions)
    chosen = set(torch.randperm(blocks, generator=generator)[:length].tolist())
    handles = []
    for place, (branches, skips) in enumerate(zip(paths.edges, paths.skip_edges, strict=True)):
        closed = {edge.slot: edge.node for edge in (skips if place in chosen else branches)}
        for slot, node in closed.items():

            def close(inputs, outputs, slot=slot):
                return tuple(torch.zeros_like(g) if place == slot else g for place, g in enumerate(inputs))

            handles.append(node.register_hook(close))
    try:
        return paths.backward() * math.comb(blocks, length)
    finally:
        for handle in handles:
            handle.remove()


def cpu(function) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--depth", type=int, default=110)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = gs.nets.build("resnet", depth=arguments.depth, seed=0)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(arguments.images, 3, 32, 32, generator=generator), torch.arange(arguments.images)
    with open_paths((model, batch)) as paths:
        blocks = len(paths.junctions)
        exact = paths.graded().gradients
        ratios: dict[str, list[float]] = {"delay line, all lengths": [], "sampling, one path a length": []}
        seconds: list[float] = []
        for _ in range(arguments.rounds):
            one = cpu(paths.backward)
            limit = one * (blocks + 1) / 2
            seconds.append(one)
            ratios["delay line, all lengths"].append(cpu(paths.graded) / limit)
            draws = cpu(lambda: [sampled(paths, k, generator) for k in range(blocks + 1)])
            ratios["sampling, one path a length"].append(draws / limit)
        print(
            f"one backward pass: {statistics.median(seconds):.3f} CPU s; limit {(blocks + 1) / 2:.1f} passes"
        )
        for name, values in ratios.items():
            print(
                f"{name:<30}{statistics.median(values):>7.2f} x limit  ({min(values):.2f} to {max(values):.2f})"
            )
        for length in (1, 5, 10, 20):
            if length <= blocks:
                error = (sampled(paths, length, generator) - exact[length]).norm() / exact[length].norm()
                print(f"relative error of one sampled path, length {length:>2}: {float(error):.2g}")


if __name__ == "__main__":
    main()
