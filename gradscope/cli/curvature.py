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
SHOWN_RANKS = 5
WHERE = ("definition", "rank", "block", "other", "batch_size")


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
        momentum: Of the training, for its limit of stability.
        nesterov: Whether that momentum is Nesterov's.
    """

    k: int
    steps: int
    learning_rate: float = 0.0
    parameters: str = ""
    by: str = ""
    minibatches: str = ""
    couplings: bool = False
    momentum: float = 0.0
    nesterov: bool = False


def curvature(asked: Asked, looking: Looking) -> None:
    """Eigenvalues, condition numbers by name, traces and density, read out; blocks and minibatches if asked for."""
    if looking.by and looking.by not in BY:
        raise ValueError(f"--by is one of {', '.join(BY)}, got {looking.by!r}.")
    if looking.learning_rate < 0:
        raise ValueError(f"--learning-rate is above 0, got {looking.learning_rate}.")
    if not 0 <= looking.momentum < 1:
        raise ValueError(f"--momentum is at least 0 and below 1, got {looking.momentum}.")
    if (looking.momentum or looking.nesterov) and not looking.learning_rate:
        raise ValueError("--momentum and --nesterov tell which --learning-rate is stable: give that, too.")
    if looking.nesterov and not looking.momentum:
        raise ValueError("--nesterov is a kind of momentum: say how much with --momentum, such as 0.9.")
    if looking.couplings and not looking.by:
        raise ValueError("--couplings are those between blocks: say which with --by, such as --by block.")
    sizes = _sizes(looking.minibatches)
    model, data = prepared(asked)
    frame = curvature_study(
        Problem(model, asked.some(data.train)),
        k=looking.k,
        learning_rate=looking.learning_rate or None,
        momentum=looking.momentum,
        nesterov=looking.nesterov,
        by=looking.by or None,
        coupling=looking.couplings,
        sizes=sizes,
        draws=MINIBATCHES,
        parameters=[part.strip() for part in looking.parameters.split(",") if part.strip()] or None,
        probes=PROBES,
        steps=looking.steps,
        seed=asked.seed,
        progress=True,
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
        "condition_numbers": figures.condition_numbers(frame),
    }
    if looking.by:
        pictures["blocks"] = figures.block_curvature(frame)
    if looking.minibatches:
        pictures["minibatches"] = figures.minibatch_curvature(frame[frame["batch_size"].notna()])
    return pictures


def _short(frame: "pd.DataFrame") -> "pd.DataFrame":
    """What a terminal shows: the numbers of the network, of its blocks, and of each size of minibatches.

    The curve of the density, eigenvalues further in and single draws are in the files only.
    """
    inner = (frame["quantity"] == "spectral_density") | (frame["rank"].abs() > SHOWN_RANKS)
    rows = frame[~inner & frame["draw"].isna()]
    named = [name for name in WHERE if rows[name].notna().any()]
    return rows.assign(**{name: rows[name].map(_name) for name in named})[
        ["quantity", *named, "value", "low", "high", "status"]
    ]


def _name(where: object) -> str:
    """A level of a condition, blank where a row has none."""
    if isinstance(where, str):
        return where
    return f"{where:g}" if isinstance(where, float) and where == where else ""
