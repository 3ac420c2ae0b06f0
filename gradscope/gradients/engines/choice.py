"""Which engine runs a gated backward."""

from collections.abc import Mapping

from torch import Tensor

from gradscope.gradients.engines.agreement import refuse_nonlinear
from gradscope.gradients.engines.graph import LiveGraph
from gradscope.gradients.engines.passes import passes
from gradscope.gradients.engines.vmapped import vmapped
from gradscope.gradients.engines.walk import CannotWalk, walk
from gradscope.instruments.gates.polynomial import Gate, Powers
from gradscope.instruments.junctions import Edge

FEW = 4
ENGINES = ("auto", "walk", "vmap", "passes")


def run(
    graph: LiveGraph,
    gates: Mapping[Edge, Gate],
    powers: Powers,
    members: int = 1,
    *,
    lifted: bool = False,
    whole: bool = False,
    engine: str = "auto",
    few: int = FEW,
) -> tuple[list[Tensor], str]:
    """Coefficients at each target, [members, *powers.shape, *shape] in float64, and the engine that found them.

    `auto` takes ordinary passes for a few coefficients and members together and walks for more, or, where the
    walk meets something it cannot, takes passes. Measured on a CPU, the walk is 1.5 to 3.3 times as fast as passes for
    all lengths of networks of 9 to 54 blocks, and slower for two coefficients; `vmap` beat both only for networks of a
    few units and small attention (benchmarks/README.md). It was not timed on a GPU.

    Args:
        lifted: Keep float32 clear of underflow by powers of two. Passes can between two of them, in one variable.
        whole: The coefficients of each member add up to the ungated gradient.
        engine: One of `ENGINES`.
        few: Up to how many coefficients and members `auto` takes passes.

    Raises:
        ValueError: An unknown engine.
        RuntimeError: `walk` was asked for and cannot; `vmap` does not give autograd's gradient; the backward
            pass is not linear.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is one of {', '.join(ENGINES)}, got {engine!r}.")
    if not whole:
        refuse_nonlinear(graph)
    if engine == "vmap":
        return vmapped(graph, gates, powers, members, lifted, whole), "vmap"
    if engine == "walk" or (engine == "auto" and members * len(powers) > few):
        try:
            return walk(graph, gates, powers, members, lifted=lifted, whole=whole), "walk"
        except CannotWalk as reason:
            if engine == "walk":
                raise RuntimeError(
                    f"This graph cannot be walked node by node: {str(reason).rstrip('.')}. Take engine='passes', or "
                    "'auto', which falls back to it."
                ) from reason
    return passes(graph, gates, powers, members, lifted and len(powers.degrees) == 1), "passes"
