"""What does a lesion study cost, in passes of an optimised network?

ResNet-110 (54 blocks), 32x32 images, eval mode: each single lesion, and random sets of 1 to 20 branches.
Contenders: `gradscope.lesion` around full passes, a plain forward hook that zeroes each branch's output, and
the shared prefixes of `instruments.resume`, also with the model and the images in channels last, as a user can ask
of torch. The limit is an optimised full pass (channels last, norms behind convolutions folded in, ReLU in place,
no mode and no hook), written out below, times the branches that a trie of the sets leaves over those of a pass:
(n - 1) / 2 passes for single lesions. nnsight is timed where it is installed. Processor time of one thread,
median over rounds that take all contenders in turn, each round divided by its own limit; all outputs are
compared first.

    python benchmarks/lesions.py --rounds 3 --images 8
"""

import argparse
import copy
import importlib.util
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

import gradscope as gs
from gradscope.instruments.junctions import trace
from gradscope.instruments.quiet import left_as_found
from gradscope.instruments.resume.resumable import Resumable

Sets = list[frozenset[int]]


class Optimised:
    """The pre-activation ResNet by hand: norm2 folded into conv1, ReLUs in place, channels last."""

    def __init__(self, model: nn.Module) -> None:
        self.stem, self.head = model.stem, model.head
        self.blocks = [self.prepared(block) for block in model.blocks]

    def prepared(self, block: nn.Module) -> tuple:
        branch = dict(block.branch.named_children())
        norm = block.before.norm1 if block.before is not None else branch["norm1"]
        conv, after = branch["conv1"], branch["norm2"]
        weight, bias = fuse_conv_bn_weights(
            conv.weight, None, after.running_mean, after.running_var, after.eps, after.weight, after.bias
        )
        last = branch["conv2"].weight.contiguous(memory_format=torch.channels_last)
        first = weight.detach().contiguous(memory_format=torch.channels_last)
        projection = block.shortcut if block.before is not None else None
        return norm, first, bias.detach(), conv.stride, last, projection

    def block(self, x: Tensor, prepared: tuple, closed: bool) -> Tensor:
        norm, first, bias, stride, last, projection = prepared
        if closed and projection is None:
            return x
        shared = functional.relu_(norm(x))
        skip = x if projection is None else projection(shared)
        if closed:
            return skip
        inner = functional.relu_(functional.conv2d(shared, first, bias, stride, padding=1))
        return functional.conv2d(inner, last, padding=1).add_(skip)

    def __call__(self, x: Tensor, closed: frozenset[int] = frozenset()) -> Tensor:
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        for place, prepared in enumerate(self.blocks):
            x = self.block(x, prepared, place in closed)
        return self.head(x)


def branches_left(sets: Sets, count: int) -> int:
    """Open branches in a trie of the sets: each run of open branches that no earlier set shares."""
    prefixes = {tuple(p in s for p in range(end + 1)) for s in sets for end in range(count) if end not in s}
    return len(prefixes)


def hooked(model: nn.Module, images: Tensor, sets: Sets) -> list[Tensor]:
    outputs = []
    for closed in sets:
        handles = [
            model.blocks[place].branch.register_forward_hook(lambda m, a, output: torch.zeros_like(output))
            for place in closed
        ]
        outputs.append(model(images))
        for handle in handles:
            handle.remove()
    return outputs


def gated(model: nn.Module, images: Tensor, sets: Sets, closable: list) -> list[Tensor]:
    outputs = []
    for closed in sets:
        with gs.lesion(model, [closable[place] for place in closed]):
            outputs.append(model(images))
    return outputs


def shared(resumable: Resumable, images: Tensor, sets: Sets) -> list[Tensor]:
    outputs = dict(resumable.outputs(images, sets))
    return [outputs[place] for place in range(len(sets))]


def in_nnsight(model: nn.Module, images: Tensor, sets: Sets) -> list[Tensor]:
    from nnsight import NNsight

    wrapped = NNsight(model)
    outputs = []
    for closed in sets:
        with wrapped.trace(images):
            for place in sorted(closed):
                wrapped.blocks[place].branch.output[:] = 0
            saved = wrapped.output.save()
        outputs.append(saved)
    return outputs


def cpu(function: Callable[[], object]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--depth", type=int, default=110)
    parser.add_argument("--repeats", type=int, default=2, help="random sets for each size from 1 to 20")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    model = gs.nets.build("resnet", depth=arguments.depth, seed=0)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(32, 3, 32, 32, generator=generator))
    images = torch.randn(arguments.images, 3, 32, 32, generator=generator)
    with left_as_found(model), torch.no_grad():
        model.eval()
        traced = trace(model, model, images[:2])
        closable = [j for j in traced.junctions if j.level == 0 and j.graded and j.branches]
        began = time.process_time()
        resumable = Resumable(model, model, closable, traced, images[:2])
        print(
            f"recording and proving on 2 images: {time.process_time() - began:.2f} CPU s {resumable.reason}"
        )
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        last_images = images.contiguous(memory_format=torch.channels_last)
        last_resumable = Resumable(last, last, closable, traced, last_images[:2])
        count = len(closable)
        singles = [frozenset([place]) for place in range(count)]
        several = [
            frozenset(torch.randperm(count, generator=generator)[:size].tolist())
            for size in range(1, min(20, count) + 1)
            for _ in range(arguments.repeats)
        ]
        optimised = Optimised(model)
        for name, sets, passes in [
            ("single lesions", singles, (count - 1) / 2),
            ("random sets", several, branches_left(several, count) / count),
        ]:
            print(
                f"\n{name}: {len(sets)} on {arguments.images} images, the limit is {passes:.1f} optimised passes"
            )
            print(f"branches evaluated: {resumable.cost(sets)} of {len(sets) * count}")
            contenders = {
                "full passes under gradscope.lesion": lambda sets=sets: gated(model, images, sets, closable),
                "forward hooks": lambda sets=sets: hooked(model, images, sets),
                "shared prefixes": lambda sets=sets: shared(resumable, images, sets),
                "shared prefixes, channels last": lambda sets=sets: shared(last_resumable, last_images, sets),
            }
            if importlib.util.find_spec("nnsight") is not None:
                contenders["nnsight"] = lambda sets=sets: in_nnsight(model, images, sets)
            expected = gated(model, images, sets, closable)
            for contender in contenders.values():
                torch.testing.assert_close(contender(), expected, rtol=1e-3, atol=1e-3)
            assert all(map(torch.equal, shared(resumable, images, sets), expected))
            by_hand = [optimised(images, closed) for closed in sets]
            torch.testing.assert_close(by_hand, expected, rtol=1e-3, atol=1e-3)
            seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
            limits, plain = [], []
            for _ in range(arguments.rounds):
                limits.append(statistics.median(cpu(lambda: optimised(images)) for _ in range(5)) * passes)
                plain.append(statistics.median(cpu(lambda: model(images)) for _ in range(5)))
                for contender, function in contenders.items():
                    seconds[contender].append(cpu(function))
            print(
                f"optimised pass / plain pass: {statistics.median(limits) / passes / statistics.median(plain):.2f}"
            )
            loop = seconds["full passes under gradscope.lesion"]
            for contender, values in seconds.items():
                ratios = [value / limit for value, limit in zip(values, limits, strict=True)]
                ahead = statistics.median(whole / value for whole, value in zip(loop, values, strict=True))
                print(
                    f"{contender:<36}{statistics.median(values):>8.2f} s{statistics.median(ratios):>7.2f} x limit"
                    f"   ({min(ratios):.2f} to {max(ratios):.2f}){ahead:>7.2f} x as fast as full passes"
                )


if __name__ == "__main__":
    main()
