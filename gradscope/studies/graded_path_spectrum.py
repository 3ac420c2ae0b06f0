"""Through how many branches of each of several groups does the gradient flow?"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from gradscope.gradients.branches import Chosen
from gradscope.gradients.live import open_paths
from gradscope.gradients.sources import Source
from gradscope.gradients.split import Paths
from gradscope.instruments.gates.polynomial import Powers
from gradscope.problem import as_problem
from gradscope.studies.paths.counts import AROUND, NO_PATH, Counts, as_float, counts_of
from gradscope.studies.paths.estimates import over_examples
from gradscope.studies.paths.float_range import lost_combinations
from gradscope.studies.paths.grouping import By, labels_of
from gradscope.studies.paths.norms import parts_of, scaled
from gradscope.studies.paths.rows import conditions, frame_of, gradient_unit, row
from gradscope.studies.paths.spectrum_rows import coherent_norms, signed_shares

if TYPE_CHECKING:
    import pandas as pd

MOST_COEFFICIENTS = 10_000


def graded_path_spectrum(
    problem: Any,
    *,
    by: By = "attention",
    lengths: str | Mapping[str, int] = "all",
    source: Source = "loss",
    norms: str = "batch",
    at: str = "input",
    junctions: Chosen = None,
    precision: torch.dtype | None = None,
    engine: str = "auto",
) -> "pd.DataFrame":
    """The gradient by how many branches of each group its paths cross: attention against the rest, stage by stage.

    With a formal variable for each group the split stays exact; adding up all combinations of one total length gives
    `path_spectrum`, adding up over all groups but one the spectrum of that group alone. There is one gradient, and
    about one backward pass, for each combination: with n branches in each of two groups (n + 1)^2.

    Args:
        problem: Problem or (model, data); the first batch is used.
        by: `attention` (labels `attention` and `other`), `stage` (`stage_0`, ...: runs of junctions of one shape),
            `kind` (of the junction), a function of a `Branch` that returns its label, or labels by the names of
            junctions.
        lengths: `all`, or the longest length for some labels; others are kept whole.
        source: As in `path_spectrum`.
        norms: As in `path_spectrum`.
        at: As in `path_spectrum`.
        junctions: Which are counted. None: the outermost that have a skip.
        precision: torch.float64 measures a copy in that precision. What float32 cannot hold is `undefined`.
        engine: As in `path_gradients`.

    Returns:
        Frame with columns `batch_norm`, `dtype`, `source`, `at`, `norms`, `quantity`, `unit`, `length_<label>` for each
        label in forward order (branches of that group crossed), `path_length` (their sum), `estimator`, `value`,
        `low`, `high`, `n` (norms averaged), `status`, `reason`. Quantities: `path_count` (of chains), `signed_share`,
        `coherent_norm`, `coherent_norm_share`, as in `path_spectrum`.

    Raises:
        ValueError: As `path_spectrum`; a grouping or lengths that do not fit; more than 10,000 combinations.

    Source:
        Derived: Taylor coefficients of the gradient in one gate for each group.

    Example:
        >>> frame = gs.graded_path_spectrum((transformer, (tokens, targets)), by="attention")
    """
    problem = as_problem(problem)
    with open_paths(problem, precision=precision, source=source, at=at, junctions=junctions) as paths:
        parts = parts_of(problem, paths, norms)
        labels = labels_of(paths.branches, by)
        groups = list(dict.fromkeys(labels))
        variables = [groups.index(label) for label in labels]
        degrees = _degrees(paths, variables, groups, lengths)
        split = paths.by_variable(variables, degrees, engine=engine)
        graded = scaled(parts.rows(split, leading=len(groups)).flatten(end_dim=len(groups) - 1))
        gradient = parts.rows(paths.backward(), leading=0)
        counted = counts_of(paths)
        counts = _counts(counted, variables, degrees)
        dtype = paths.loss.dtype
    shares, sizes = signed_shares(graded, gradient), coherent_norms(graded)
    norm = over_examples(sizes)
    bands = {
        "signed_share": ("1", over_examples(shares)),
        "coherent_norm": (gradient_unit(source, at), norm),
        "coherent_norm_share": ("1", tuple(band / norm[0].sum() for band in norm)),
    }
    powers = Powers(degrees)
    numbers = [None if counts is None else counts.get(index, 0) for index in powers.indices()]
    lost = lost_combinations((sizes.amax(dim=1) / parts.factor).tolist(), numbers, powers, dtype)
    rows = []
    for place, index in enumerate(powers.indices()):
        where: dict[str, Any] = {f"length_{group}": power for group, power in zip(groups, index, strict=True)}
        where["path_length"] = sum(index)
        number = numbers[place]
        value = math.nan if number is None else as_float(number)
        rows.append(row("path_count", "paths", value, undefined=counted.reason or AROUND, **where))
        for quantity, (unit, ends) in bands.items():
            value, low, high = (float(end[place]) for end in ends)
            said: dict[str, Any] = {
                "reason": NO_PATH if number == 0 else "",
                "n": sizes.shape[1],
                "low": low,
                "high": high,
            }
            if lost[place]:
                value, said["undefined"] = math.nan, lost[place]
            rows.append(row(quantity, unit, value, **said, **where))
    shared = conditions(problem, str(dtype).removeprefix("torch."), source, at, norms)
    return frame_of(rows, shared, [*(f"length_{group}" for group in groups), "path_length"])


def _degrees(
    paths: Paths, variables: list[int], groups: list[str], lengths: str | Mapping[str, int]
) -> tuple[int, ...]:
    """The longest length kept for each group."""
    every = {
        group: len({b.junction.index for b, v in zip(paths.branches, variables, strict=True) if v == number})
        for number, group in enumerate(groups)
    }
    asked: Mapping[str, int] = {} if lengths == "all" else lengths  # type: ignore[assignment]
    if not isinstance(asked, Mapping):
        raise ValueError(f"lengths is 'all' or the longest length for some labels, got {lengths!r}.")
    for group, length in asked.items():
        if group not in every:
            raise ValueError(f"lengths names {group!r}, but the groups are {', '.join(groups)}.")
        if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length <= every[group]:
            raise ValueError(
                f"The length of group {group} lies between 0 and {every[group]}, got {length!r}."
            )
    degrees = tuple(asked.get(group, every[group]) for group in groups)
    number = math.prod(degree + 1 for degree in degrees)
    if number > MOST_COEFFICIENTS:
        raise ValueError(
            f"Groups {', '.join(groups)} make {number:,} combinations of lengths, each of which takes a gradient; at "
            f"most {MOST_COEFFICIENTS:,} are computed. Take fewer groups, or lengths={{label: longest}}."
        )
    return degrees


def _counts(
    counted: Counts, variables: list[int], degrees: tuple[int, ...]
) -> dict[tuple[int, ...], int] | None:
    """Number of paths of each combination of lengths; None where the paths form no chain."""
    links = counted.links
    if links is None:
        return None
    counts = {(0,) * len(degrees): 1}
    for link in links:
        longer: dict[tuple[int, ...], int] = {}
        for index, number in counts.items():
            steps = [index] if link.carried else []
            steps += [
                tuple(power + (group == variables[branch]) for group, power in enumerate(index))
                for branch in link.branches
            ]
            for step in steps:
                if all(power <= degree for power, degree in zip(step, degrees, strict=True)):
                    longer[step] = longer.get(step, 0) + number
        counts = longer
    return counts
