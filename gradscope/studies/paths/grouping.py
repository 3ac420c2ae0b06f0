"""Groups of branches, whose crossings are counted apart."""

from collections.abc import Callable, Mapping, Sequence

from gradscope.gradients.branches import Branch
from gradscope.instruments.junctions import Junction

GROUPINGS = ("attention", "stage", "kind")
By = str | Callable[[Branch], str] | Mapping[str, str]


def labels_of(branches: Sequence[Branch], by: By) -> list[str]:
    """The label of each branch.

    Args:
        branches: In forward order.
        by: `attention`: `attention` where it lies inside, else `other`. `stage`: `stage_0`, `stage_1`, ...; a stage is
            a run of junctions of one shape, and begins anew with a skip that changes the state (`projection`,
            `nonparam-skip`); channels that are concatenated change no shape. `kind`: of the junction. A function of
            a branch; or labels by the junctions' names.

    Raises:
        ValueError: Another word; a junction without label; a label that is no text.
    """
    if by == "attention":
        return ["attention" if branch.attention else "other" for branch in branches]
    if by == "kind":
        return [branch.junction.kind for branch in branches]
    if by == "stage":
        return _stages([branch.junction for branch in branches])
    if isinstance(by, Mapping):
        missing = [branch.junction.name for branch in branches if branch.junction.name not in by]
        if missing:
            raise ValueError(
                f"by has no label for {', '.join(dict.fromkeys(missing))}. Give every counted junction one, or count "
                "fewer with junctions=."
            )
        labels = [by[branch.junction.name] for branch in branches]
    elif callable(by):
        labels = [by(branch) for branch in branches]
    else:
        raise ValueError(
            f"by is one of {', '.join(GROUPINGS)}, a function of a branch that returns its label, or labels by the "
            f"names of junctions, got {by!r}."
        )
    wrong = [label for label in labels if not isinstance(label, str) or not label]
    if wrong:
        raise ValueError(f"by gives every branch a label that is text, got {wrong[0]!r}.")
    return labels


def _stages(junctions: Sequence[Junction]) -> list[str]:
    stage, labels = 0, []
    before: Junction | None = None
    for junction in junctions:
        if before is not None and junction != before and _begins(before, junction):
            stage += 1
        before = junction
        labels.append(f"stage_{stage}")
    return labels


def _begins(before: Junction, junction: Junction) -> bool:
    if junction.kind in ("projection", "nonparam-skip"):
        return True
    if "concat" in (before.kind, junction.kind):
        return before.shape[2:] != junction.shape[2:]
    return before.shape[1:] != junction.shape[1:]
