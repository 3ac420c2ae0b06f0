"""The residual branches whose crossings are counted, and the edges at which they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gradscope.instruments.gates.operands import listed
from gradscope.instruments.junctions import Edge, Junction, Junctions, Trace

Chosen = Junction | Sequence[Junction] | str | Callable[[Junction], bool] | None


@dataclass(frozen=True)
class Branch:
    """One branch of one junction in one forward pass.

    Attributes:
        junction: Where it ends.
        place: Which of the junction's branches, from 0.
        edges: Where its crossing is counted; a way from the loss to the input meets at most one of them.
        attention: Whether attention lies inside.
    """

    junction: Junction
    place: int
    edges: tuple[Edge, ...]
    attention: bool


def counted(
    found: Trace, chosen: Chosen = None
) -> tuple[list[Junction], list[Branch], list[tuple[Edge, ...]]]:
    """The junctions at which path lengths are counted, their branches, and the edges that pass them by.

    Args:
        found: One forward pass.
        chosen: Junctions (compared by name), a pattern of their names, or a function that says which. None: the
            outermost that have a skip, which are those in no branch of another junction that can be counted.

    Raises:
        ValueError: Nothing to count, with the reason; something else than junctions.
    """
    names = _names(found, chosen)
    junctions: list[Junction] = []
    branches: list[Branch] = []
    carries: list[tuple[Edge, ...]] = []
    for place, junction in enumerate(found.junctions):
        if names is not None:
            wanted = junction.name in names
        elif callable(chosen):
            wanted = chosen(junction)
        else:
            wanted = junction.outermost
        if not wanted or not found.crossings[place]:
            continue
        junctions.append(junction)
        carries.append(found.carries[place])
        branches += [
            Branch(junction, number, edges, attention)
            for number, (edges, attention) in enumerate(
                zip(found.crossings[place], found.attention[place], strict=True)
            )
        ]
    if names is not None:
        _refuse_missing(names, junctions, found)
    if not branches:
        raise ValueError(_nothing(found))
    return junctions, branches, carries


def _nothing(found: Trace) -> str:
    able = [j.name for j in found.junctions if j.counted]
    if able:
        return (
            "junctions= chooses none of the junctions at which path lengths can be counted: "
            f"{', '.join(able)}. Without it, the outermost of these are."
        )
    others = [junction.name for junction in found.junctions]
    seen = f" Junctions of other kinds: {', '.join(others)}." if others else ""
    return (
        "No residual addition with a branch was found, nor a gate or a concatenation with a skip, so all of the "
        f"gradient takes one path and there are no path lengths.{seen} What was found: gs.junctions(model, x)."
    )


def _names(found: Trace, chosen: Chosen) -> list[str] | None:
    """The names asked for; None where a rule decides."""
    if chosen is None or (callable(chosen) and not isinstance(chosen, Junction)):
        return None
    if isinstance(chosen, str):
        return [junction.name for junction in Junctions(found.junctions).matching(chosen)]
    return [junction.name for junction in listed(chosen)]


def _refuse_missing(names: list[str], junctions: list[Junction], found: Trace) -> None:
    missing = sorted(set(names) - {junction.name for junction in junctions})
    if missing:
        known = [j.name for j, crossings in zip(found.junctions, found.crossings, strict=True) if crossings]
        raise ValueError(
            f"Path lengths cannot be counted at {', '.join(missing)} in this forward pass. Where they can: "
            f"{', '.join(known) or 'nowhere'}."
        )
