"""Which engine runs a gated backward."""

from collections.abc import Mapping

from torch import Tensor

from gradscope.gradients.engines.graph import LiveGraph
from gradscope.gradients.engines.passes import passes
from gradscope.instruments.gates.polynomial import Gate, Powers
from gradscope.instruments.junctions import Edge

ENGINES = ("auto", "passes")


def run(
    graph: LiveGraph,
    gates: Mapping[Edge, Gate],
    powers: Powers,
    members: int = 1,
    *,
    lifted: bool = False,
    engine: str = "auto",
) -> tuple[list[Tensor], str]:
    """Coefficients at each target, [members, *powers.shape, *shape] in float64, and the engine that found them.

    Raises:
        ValueError: An unknown engine.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is one of {', '.join(ENGINES)}, got {engine!r}.")
    return passes(graph, gates, powers, members, lifted), "passes"
