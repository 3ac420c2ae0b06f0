"""Which engine runs a gated backward."""

from collections.abc import Mapping

from torch import Tensor

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
) -> tuple[list[Tensor], str]:
    """Coefficients at each target, [members, *powers.shape, *shape] in float64, and the engine that found them.

    `auto` takes ordinary passes for up to four coefficients and members together and walks for more, or, where the
    walk meets something it cannot, takes passes. Measured on a CPU, the walk is 1.5 to 3.3 times as fast as passes for
    all lengths of networks of 9 to 54 blocks, and slower for two coefficients; `vmap` beat both only for networks of a
    few units and small attention (benchmarks/README.md). It was not timed on a GPU.

    Args:
        lifted: Keep float32 clear of underflow by powers of two.
        whole: The coefficients of each member add up to the ungated gradient.
        engine: One of `ENGINES`.

    Raises:
        ValueError: An unknown engine.
        RuntimeError: `walk` was asked for and cannot.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is one of {', '.join(ENGINES)}, got {engine!r}.")
    if engine == "vmap":
        return vmapped(graph, gates, powers, members, lifted), "vmap"
    if engine == "walk" or (engine == "auto" and members * len(powers) > FEW):
        try:
            return walk(graph, gates, powers, members, lifted=lifted, whole=whole), "walk"
        except CannotWalk as reason:
            if engine == "walk":
                raise RuntimeError(
                    f"This graph cannot be walked node by node: {str(reason).rstrip('.')}. Take engine='passes', or "
                    "'auto', which falls back to it."
                ) from reason
    return passes(graph, gates, powers, members, lifted), "passes"
