"""Groups of parameters: each parameter in exactly one, under the name of what holds it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from gradscope.curvature.selection import Selection, select
from gradscope.instruments.junctions import Junction, Trace, trace
from gradscope.problem import Problem

Partition = str | Mapping[str, Selection]
KINDS = ("parameter", "layer", "block", "stage")


def partition(
    problem: Problem, parameters: Mapping[str, nn.Parameter], by: Partition = "layer"
) -> dict[str, list[str]]:
    """Names of parameters by group; groups, and names within them, are in the model's order.

    A tied tensor has one name, the first under which the model lists it, and goes where that goes; in a
    residual block, to the first junction whose branch uses it.

    Args:
        problem: Whose network is run once to find residual junctions, for `block` and `stage`.
        parameters: Those to be divided.
        by: As in `ProblemOperator.blocks`.

    Raises:
        ValueError: An unknown `by`; a mapping that leaves parameters out; no residual junctions.
    """
    if isinstance(by, Mapping):
        owners = _by_mapping(problem, parameters, by)
    elif by == "parameter":
        owners = {name: name for name in parameters}
    elif by == "layer":
        owners = _by_layer(problem, parameters)
    elif by in ("block", "stage"):
        owners = _by_layer(problem, parameters) | _by_junction(problem, parameters, by)
    else:
        raise ValueError(
            f"by is one of {', '.join(KINDS)}, or a mapping from names to parameters, got {by!r}."
        )
    groups: dict[str, list[str]] = {}
    for name in parameters:
        groups.setdefault(owners[name], []).append(name)
    return groups


def members(
    problem: Problem, parameters: Mapping[str, nn.Parameter], wanted: Selection, by: Partition | None = None
) -> list[str]:
    """Names of the parameters in the group of that name, or else of those selected.

    Args:
        problem: As in `partition`.
        parameters: Those to choose from.
        wanted: Name of a group of `partition(problem, parameters, by)`, or a selection.
        by: None: a residual block where the name has a colon, a stage where it says `stage`, or a layer.
    """
    if isinstance(wanted, str) and wanted not in parameters:
        kind = by or ("block" if ":" in wanted else "stage" if wanted.startswith("stage ") else "layer")
        groups = partition(problem, parameters, kind)
        if wanted in groups:
            return groups[wanted]
        if kind != "layer":
            raise ValueError(f"There is no block {wanted!r}. There are: {', '.join(groups)}.")
    return list(select(parameters, wanted, model=problem.model))


def _by_layer(problem: Problem, parameters: Mapping[str, nn.Parameter]) -> dict[str, str]:
    """The module that holds each parameter; of a parametrised weight, the module whose weight it is."""
    whole = type(problem.model).__name__
    return {
        name: name.split(".parametrizations.")[0].removeprefix("parametrizations.") or whole
        if "parametrizations." in name
        else name.rpartition(".")[0] or whole
        for name in parameters
    }


def _by_mapping(
    problem: Problem, parameters: Mapping[str, nn.Parameter], groups: Mapping[str, Selection]
) -> dict[str, str]:
    owners: dict[str, str] = {}
    for group, wanted in groups.items():
        for name in select(parameters, wanted, model=problem.model):
            owners.setdefault(name, group)
    left = [name for name in parameters if name not in owners]
    if left:
        raise ValueError(
            f"by= as a mapping puts every parameter in one block, but none takes {', '.join(left)}. Add a block for "
            "them, or choose fewer with parameters=."
        )
    return owners


def _by_junction(problem: Problem, parameters: Mapping[str, nn.Parameter], by: str) -> dict[str, str]:
    """The residual junction, or the stage, in whose branches each parameter is; without those in none.

    A stage begins where the shape changes or the skip is not the identity.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    owners: dict[str, str] = {}
    stage, before = -1, None
    with problem.prepared():
        found = trace(problem.model, problem.outputs, problem.first_batch()[0])
        for junction in found.junctions:
            if not junction.outermost:
                continue
            stage += before is None or _begins(junction, before)
            before = junction
            block = junction.name if by == "block" else f"stage {stage}"
            for parameter in _branch_parameters(found, junction):
                if id(parameter) in names:
                    owners.setdefault(names[id(parameter)], block)
    if before is None:
        raise ValueError(
            f"by={by!r} groups parameters by residual junctions, and the network has none that could be found. "
            "Use by='layer', or a mapping from names to parameters."
        )
    return owners


def _begins(junction: Junction, before: Junction) -> bool:
    """Whether a junction is the first of a stage."""
    if "concat" in (junction.kind, before.kind):
        # Concatenating adds channels every time.
        return junction.kind != before.kind or junction.shape[2:] != before.shape[2:]
    return junction.kind in ("projection", "nonparam-skip") or junction.shape[1:] != before.shape[1:]


def _branch_parameters(found: Trace, junction: Junction) -> list[nn.Parameter]:
    """What lies on the junction's branches and on no way through its skip."""
    place = found.found[junction.index]

    def reached(edges: Any, stop: Any) -> dict[int, nn.Parameter]:
        starts = [edge.node.next_functions[edge.slot][0] for edge in edges]
        return {id(leaf): leaf for leaf in _leaves(starts, lambda node: node is stop)}

    skip = reached(found.skip_edges[junction.index], None)
    if place.fork is not None:
        skip |= {id(leaf): leaf for leaf in _leaves([place.fork], lambda node: False)}
    branch = reached(found.branch_edges[junction.index], place.fork)
    return [leaf for key, leaf in branch.items() if key not in skip]


def _leaves(starts: list[Any], stops: Callable[[Any], bool]) -> Iterator[nn.Parameter]:
    """The leaves of the autograd graph that lead to these nodes, not through those that stop the walk."""
    waiting, seen = [node for node in starts if node is not None], set()
    while waiting:
        node = waiting.pop()
        if node in seen or stops(node):
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            yield leaf
        waiting.extend(operand for operand, _ in node.next_functions if operand is not None)
