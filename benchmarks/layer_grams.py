"""What do the Gram matrices of all layers cost, beside ways that hold per-example gradients?

For every module with parameters of its own: the B x B Gram of per-example parameter gradients, and of per-example
gradients at its output. The unit and the limit is one forward and backward pass of the same batch, for convolutions in
channels last. The networks are in `layer_grams_networks.py`, the contenders in `layer_grams_contenders.py`. Peers are
timed where they are installed, each in the layout in which it is faster (Opacus is wrong in the other). Before anything
is timed, all are compared in float64 on 8 examples with the loop over examples; who differs by more than 1e-10 of the
largest entry, or refuses, is named and left out. Processor time of one thread, all contenders in turn in each round,
each divided by its own round's limit; medians over rounds and their range, which for six rounds is a 97 % interval of
the median.

    python benchmarks/layer_grams.py --rounds 6 --csv grams.csv
    python benchmarks/layer_grams.py --growth --rounds 6              in the number of examples and in depth
    python benchmarks/layer_grams.py --memory                         peaks, each in a fresh process (Linux, glibc)
"""

import argparse
import ctypes
import gc
import importlib.util
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from layer_grams_contenders import CONTENDERS, Found, forward_backward, naive
from layer_grams_networks import Case, case

CASES = [
    ("mlp-50", 64),
    ("mlp-50", 256),
    ("resnet-20-plain", 64),
    ("resnet-20", 64),
    ("resnet-56", 64),
    ("gpt-4", 64),
]
GROWTH = [("mlp-50", b) for b in (16, 64, 256)] + [("resnet-20", b) for b in (16, 64, 256)]
GROWTH += [("gpt-4", b) for b in (16, 64, 256)]
GROWTH += [("mlp-25", 64), ("mlp-100", 64), ("resnet-38", 64), ("resnet-56", 64), ("gpt-8", 64)]
TOLERANCE = 1e-10
CHANNELS_FIRST = ("Opacus", "BackPACK")
PACKAGES = {"Opacus": "opacus", "BackPACK": "backpack"}
ONE_PASS = "forward and backward"


def made(name: str, examples: int, contender: str, dtype: torch.dtype = torch.float32) -> Case:
    first = contender in CHANNELS_FIRST
    return case(name, examples, dtype, torch.contiguous_format if first else torch.channels_last)


def cpu(function: Callable[[], object]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


def difference(found: Found, expected: Found) -> float:
    """Largest over all Grams, in their largest entry."""
    pairs = [(a, b) for name in found for a, b in zip(found[name], expected[name], strict=True)]
    return max(float((a.double() - b.double()).abs().max() / b.double().abs().max()) for a, b in pairs)


def agreeing(name: str, contenders: list[str]) -> list[str]:
    """Those that take the Grams of this network, and take them right."""
    expected, chosen = naive(made(name, 8, "naive loop", torch.float64)), []
    for contender in contenders:
        if contender in PACKAGES and importlib.util.find_spec(PACKAGES[contender]) is None:
            print(f"{name}: {contender} is not installed")
            continue
        try:
            # One has no float64 for embeddings; float32 then has to do, and a coarser comparison.
            dtype = torch.float32 if (contender, name[:3]) == ("BackPACK", "gpt") else torch.float64
            found = CONTENDERS[contender](made(name, 8, contender, dtype))
        except Exception as error:  # Whatever a peer refuses with is its answer.
            print(f"{name}: {contender} refuses: {' '.join(str(error).split())[:160]}")
            continue
        off, left = difference(found, expected), sorted(set(expected) - set(found))
        missing = f", without {len(left)} of {len(expected)} modules" if left else ""
        print(f"{name}: {contender} differs by {off:.0e} ({dtype}){missing}", flush=True)
        if off < (TOLERANCE if dtype == torch.float64 else 1e-4):
            chosen.append(contender)
    return chosen


def measured(name: str, examples: int, rounds: int, contenders: list[str]) -> list[dict]:
    """Rows of seconds and times the limit; the first round warms up."""
    unit = made(name, examples, ONE_PASS)
    cases = {contender: made(name, examples, contender) for contender in contenders}
    rows = []
    for number in range(-1, rounds):
        limit = statistics.median(cpu(lambda: forward_backward(unit)) for _ in range(3))
        for contender, own in cases.items():
            # Nobody pays for what another left.
            gc.collect()
            seconds = cpu(lambda own=own, run=CONTENDERS[contender]: run(own))
            if number < 0:
                continue
            rows.append(
                {"network": name, "examples": examples, "contender": contender, "round": number}
                | {
                    "quantity": "seconds",
                    "value": seconds,
                    "limit_seconds": limit,
                    "ratio_to_limit": seconds / limit,
                }
            )
    return rows


def table(frame) -> str:
    """Medians over rounds, in markdown."""
    lines = [
        "| network | B | limit, s | contender | s | x limit | (range) | times ours | (range) |",
        "|" + "---|" * 9,
    ]
    for (name, examples), part in frame.groupby(["network", "examples"], sort=False):
        ours = part[part["contender"] == "layer_grams"].set_index("round")["value"]
        for contender, own in part.groupby("contender", sort=False):
            ratio = own["ratio_to_limit"]
            cells = [name, str(examples), f"{own['limit_seconds'].median():.3f}", contender]
            cells += [
                f"{own['value'].median():.3f}",
                f"{ratio.median():.2f}",
                f"{ratio.min():.2f} to {ratio.max():.2f}",
            ]
            against = own.set_index("round")["value"] / ours
            cells += [f"{against.median():.2f}", f"{against.min():.2f} to {against.max():.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def peak(name: str, examples: int, contender: str) -> float:
    """Peak of this process above what it held before, MB, after a run on two examples that loads all code."""
    run = forward_backward if contender == ONE_PASS else CONTENDERS[contender]
    small = made(name, 2, contender)
    run(small)
    whole = made(name, examples, contender)
    # What is free goes back, and the system forgets the peak so far.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _kilobytes("VmRSS")
    run(whole)
    return (_kilobytes("VmHWM") - before) / 1000


def _kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def peaks(cases: list[tuple[str, int]], contenders: list[str]) -> list[dict]:
    rows = []
    for name, examples in cases:
        for contender in [ONE_PASS, *contenders]:
            command = [sys.executable, __file__, "--peak", name, str(examples), contender]
            done = subprocess.run(command, capture_output=True, text=True)
            value = float(done.stdout.split()[-1]) if done.returncode == 0 else float("nan")
            rows.append({"network": name, "examples": examples, "contender": contender})
            rows[-1] |= {"quantity": "peak_memory", "unit": "MB", "value": value}
            print(f"{name}, {examples} examples: {contender}: {value:.0f} MB", flush=True)
    return rows


def main() -> None:
    import pandas as pd

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--growth", action="store_true", help="layer_grams alone, in examples and in depth")
    parser.add_argument("--memory", action="store_true", help="peaks instead of times")
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--networks", nargs="+", help="only these, for example mlp-50")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="(opacus|backpack|torch).*")
    if arguments.peak:
        name, examples, contender = arguments.peak
        print(peak(name, int(examples), contender))
        return
    wanted = GROWTH if arguments.growth else CASES
    wanted = [(name, examples) for name, examples in wanted if name in (arguments.networks or [name])]
    if arguments.memory:
        rows = peaks(wanted, arguments.only)
    else:
        only = ["layer_grams"] if arguments.growth else arguments.only
        chosen = {name: agreeing(name, only) for name in dict.fromkeys(name for name, _ in wanted)}
        rows = []
        for name, examples in wanted:
            rows += measured(name, examples, arguments.rounds, chosen[name])
            print(f"{name}, {examples} examples: done", flush=True)
    frame = pd.DataFrame(rows)
    if not arguments.memory:
        print(table(frame))
    if arguments.csv:
        frame.to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()
