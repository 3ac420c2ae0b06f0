"""When a gradient found by other means is autograd's own, but for rounding."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.gradients.engines.graph import LiveGraph

# In units of rounding, what may separate two gradients of one tensor: of their own size, and of that of all targets
# together, for some are nothing but rounding. On float32 networks of up to 110 layers, 25 and 0.25 were needed.
_OWN, _ALL = 1e3, 10.0
# However coarse the rounding on the way: ResNets of 110 layers under bfloat16 autocast needed 0.023.
_OWN_AT_MOST, _ALL_AT_MOST = 0.1, 0.01
# In units of the smallest number there is, for each number of a gradient.
_SMALLEST = 1e2
# Of products of float32 that a backend may take in fewer digits.
_TENSOR_FLOAT = 2.0**-10
# Of the ungated gradient that is carried along: unlike that of any coefficient, lest batching rules that mix up rows
# mix up equal ones; and a power of two, which changes no digit.
UNGATED = -0.5
# Of the cotangent by which linearity is tried: larger, since clipping shows there.
_FACTOR = -4.0
_CAUSES = (
    "as a checkpointed part that draws anew or one that counts its calls, or its backward pass is not linear, as with "
    "a hook that clips gradients: measure it in a mode in which neither happens."
)


def disagreement(graph: LiveGraph, found: Sequence[Tensor], sizes: Sequence[float] | None = None) -> float:
    """By how much gradients differ from autograd's where that is more than rounding.

    Args:
        graph: The forward pass.
        found: The gradient at each target.
        sizes: For each the norm of what it was summed from, beside which its own may have cancelled. None: its own.

    Returns:
        The largest norm of a difference over that of what was summed; 0 if all differences are rounding, infinite if
        only what was found is not finite, NaN if autograd's gradient is not.
    """
    ordinary = [
        torch.zeros((), dtype=torch.float64, device=gradient.device)
        if expected is None
        else expected.double()
        for gradient, expected in zip(found, graph.ordinary, strict=True)
    ]
    given = [0.0] * len(found) if sizes is None else sizes
    sizes = [max(size, float(expected.norm())) for size, expected in zip(given, ordinary, strict=True)]
    if not all(expected.isfinite().all() for expected in ordinary):
        return math.nan
    rounding, smallest = _rounding(graph), _smallest(graph)
    of_all = min(_ALL * rounding, _ALL_AT_MOST) * math.hypot(*sizes)
    largest = 0.0
    for gradient, expected, size in zip(found, ordinary, sizes, strict=True):
        off = float((gradient.double() - expected).norm())
        allowed = min(_OWN * rounding, _OWN_AT_MOST) * size + of_all + smallest * math.sqrt(gradient.numel())
        if not math.isfinite(off):
            return math.inf
        if off > allowed:
            largest = max(largest, off / size if size else math.inf)
    return largest


def disagreement_of_sum(graph: LiveGraph, parts: Sequence[Tensor]) -> float:
    """The same for the sum over the leading axes of parts, [*leading, *shape] for each target."""
    sums = [
        part.flatten(0, part.ndim - len(target.shape) - 1).sum(dim=0)
        for part, target in zip(parts, graph.targets, strict=True)
    ]
    return disagreement(graph, sums, [float(part.norm()) for part in parts])


def refuse_change(graph: LiveGraph, parts: Sequence[Tensor]) -> None:
    """All path lengths, [lengths, *shape] for each target, add up to the gradient.

    Raises:
        RuntimeError: They do not: the graph gives another gradient each time, or not a linear one.
    """
    off = disagreement_of_sum(graph, parts)
    if off > 0:
        raise RuntimeError(
            f"The gradients of all path lengths add up to the gradient only to {off:.1e} of their size. Either the "
            f"network changes between backward passes, {_CAUSES} Or numbers on the way are below what their precision "
            "holds: precision=torch.float64 helps."
        )


def refuse_nonlinear(graph: LiveGraph) -> None:
    """What Python code does to gradients is linear, asked by one more backward pass where there is some.

    Raises:
        RuntimeError: Another cotangent of the loss does not give a gradient that is another by the same factor.
    """
    if graph.linear:
        return
    hooked = graph.hooks is not None and graph.hooks.on(graph.operands)
    if hooked or not all(callable(node) for node in graph.operands):
        gradients = zip(graph.backward(_FACTOR), graph.empty(), strict=True)
        off = disagreement(graph, [zero if g is None else g.double() / _FACTOR for g, zero in gradients])
        if off > 0:
            raise RuntimeError(
                f"A cotangent {_FACTOR:g} times as large gives a gradient that differs by {off:.1e} from one "
                f"{_FACTOR:g} times as large, and has no parts. Either the network changes between backward passes, "
                f"{_CAUSES}"
            )
    graph.linear = True


def _rounding(graph: LiveGraph) -> float:
    backends: Any = torch.backends
    if graph.loss.is_cuda:
        products = (backends.cuda.matmul, backends.cudnn.conv)
    else:
        products = (backends.mkldnn.matmul, backends.mkldnn.conv)
    # Not by the older switches, which raise when they are read after one of these was set.
    coarse = any(product.fp32_precision in ("tf32", "bf16") for product in products)
    if coarse and graph.rounding >= torch.finfo(torch.float32).eps:
        return max(graph.rounding, _TENSOR_FLOAT)
    return graph.rounding


def _smallest(graph: LiveGraph) -> float:
    """Of the loss' precision, not of a coarser one inside, in which whole gradients may be as small as that."""
    limits = torch.finfo(graph.loss.dtype)
    return _SMALLEST * limits.tiny * limits.eps
