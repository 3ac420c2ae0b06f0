"""`gradscope curvature`: how ill-conditioned is the Hessian, and where does its curvature lie?"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradscope import figures
from gradscope.cli.measure import Asked, kept, prepared
from gradscope.problem import Problem
from gradscope.studies.curvature_reading import curvature_reading
from gradscope.studies.curvature_study import curvature_study

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

BY = ("layer", "block", "stage", "parameter")
PROBES, MINIBATCHES = 5, 5
LONG = ("spectral_density", "eigenvalue", "minibatch_ratio")


@dataclass(frozen=True)
class Looking:
    """What the verb alone is asked.

    Attributes:
        k: Eigenvalues at each end.
        steps: Lanczos steps of the density's probes.
        learning_rate: Of the training, 0 for none.
        parameters: Globs or module paths, separated by commas; empty for all.
        by: Also blocks of this kind; empty for none.
        minibatches: Sizes of minibatches, separated by commas; empty for none.
        couplings: Also the norms between all pairs of these blocks.
    """

    k: int
    steps: int
    learning_rate: float = 0.0
    parameters: str = ""
    by: str = ""
    minibatches: str = ""
    couplings: bool = False


def curvature(asked: Asked, looking: Looking) -> None:
    """Eigenvalues, condition numbers by name, traces and density, read out; blocks and minibatches if asked for."""
    if looking.by and looking.by not in BY:
        raise ValueError(f"--by is one of {', '.join(BY)}, got {looking.by!r}.")
    if looking.learning_rate < 0:
        raise ValueError(f"--learning-rate is above 0, got {looking.learning_rate}.")
    if looking.couplings and not looking.by:
        raise ValueError("--couplings are those between blocks: say which with --by, such as --by block.")
    sizes = _sizes(looking.minibatches)
    model, data = prepared(asked)
    frame = curvature_study(
        Problem(model, asked.some(data.train)),
        k=looking.k,
        learning_rate=looking.learning_rate or None,
        by=looking.by or None,
        coupling=looking.couplings,
        sizes=sizes,
        draws=MINIBATCHES,
        parameters=[part.strip() for part in looking.parameters.split(",") if part.strip()] or None,
        probes=PROBES,
        steps=looking.steps,
        seed=asked.seed,
    )
    # Another run gives the same file but for its time, which the reading tells.
    print(curvature_reading(frame))
    frame = frame[frame["quantity"] != "seconds"].reset_index(drop=True)
    options = {name: value for name, value in vars(looking).items() if value}
    kept(asked, frame, data, options, _short(frame), **_pictures(frame, asked, looking))


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ValueError(
            f"--minibatches are whole numbers separated by commas, such as 16,64; got {text!r}."
        ) from error


def _pictures(frame: "pd.DataFrame", asked: Asked, looking: Looking) -> dict[str, "Figure"]:
    whole = frame[frame["block"].isna() & frame["batch_size"].isna()]
    pictures = {
        "density": figures.spectral_density(whole.assign(family=asked.model)),
        "condition_numbers": figures.condition_numbers(whole[whole["quantity"] == "condition_number"]),
    }
    if looking.by:
        pictures["blocks"] = figures.block_curvature(frame[frame["block"].notna()])
    if looking.minibatches:
        pictures["minibatches"] = figures.minibatch_curvature(frame[frame["batch_size"].notna()])
    return pictures


def _short(frame: "pd.DataFrame") -> "pd.DataFrame":
    """What a terminal shows: the whole network's numbers, and those of blocks."""
    rows = frame[~frame["quantity"].isin(LONG) | (frame["rank"].abs() <= 5)]
    named = [name for name in ("definition", "rank", "block", "other") if rows[name].notna().any()]
    return rows[["quantity", *named, "value", "low", "high", "status"]]
