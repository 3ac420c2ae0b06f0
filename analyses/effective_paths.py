"""Are short paths enough, and what do more of them buy?

If a residual network is an ensemble of its paths, training the short ones should do (Veit et al. 2016,
arXiv:1605.06431, section 5), deleting blocks should remove the long ones first, stochastic depth should change
little, and more residual functions a block should pay only in deep networks (Abdi & Nahavandi 2016,
arXiv:1609.05672). What "ensemble" means is settled first: the gradient splits into one term a path, the
function does not.

    python -m analyses.effective_paths      two minutes on two cores after analyses.lesions
    writes reports/effective_paths/: a page, verdicts, tables and figures
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

import gradscope as gs
from gradscope.cli.analysis import run
from gradscope.report import Picture, Section, judged
from gradscope.studies.cells import effective_paths as cells
from gradscope.studies.cells import paths as path_cells
from gradscope.studies.cells.expansion import expansion
from gradscope.studies.frames import per_seed, where
from gradscope.studies.settings import Settings


@dataclass(frozen=True)
class Preset:
    layers: int = 56
    epochs: int = 4
    images: int = 1000
    gradient_images: int = 32
    calibration: int = 256
    draws: int = 4
    shallow: int = 8
    deep: int = 32
    multi_epochs: int = 3


PRESETS = {
    "quick": Preset(),
    "standard": Preset(
        layers=110, epochs=15, images=10000, calibration=1024, draws=16, shallow=14, deep=110, multi_epochs=15
    ),
}

READING = """
A network of n residual blocks is called an ensemble of 2^n paths. For the gradient that is exact: the chain rule
makes it a sum with one term for each path. For the function it holds only if the branches are linear: followed one
by one, 2^n separate networks do not add up to one with ReLUs in its branches.

The other rows ask what follows for training. "23/54 of the blocks" draws exactly that share of the blocks anew for
every batch and skips the others in both passes; the whole network is tested. The paper does not say how: with all
branches at full size the stream grows beyond what training met, and batch-norm statistics gathered over changing
subsets of blocks are those of no network that is tested. So it is judged in three ways: as training left it, with
branches scaled by 23/54 as stochastic depth does, and with statistics estimated anew. Of the 27 blocks of a ResNet-56
that share is 12. Stochastic depth drops blocks by
independent coins, later ones more often; its survivors are scaled up in training.

Deleting blocks removes long paths first as a matter of counting. How far the gradient's own mean path length falls
depends on where along the network its paths cross branches.
"""


def main(settings: Settings) -> Section:
    """Measure, judge and draw."""
    size, images = PRESETS[settings.preset], settings.data_set()
    sweeping = {"key": {"data": images.sha256}, **settings.sweeping()}
    root = {"root": settings.root}
    networks = {**root, "folder": settings.cache / "networks"}
    shared = {"data": settings.data, "seed": settings.seeds}
    judging = {"images": size.images, "calibration": size.calibration}
    trainings = gs.sweep(
        cells.errors,
        gs.grid(
            training=[cells.ALL, cells.SOME, cells.DROPPED],
            layers=size.layers,
            epochs=size.epochs,
            **judging,
            **shared,
        ),
        constants=networks,
        **sweeping,
    )
    several = gs.sweep(
        cells.multi_residual,
        gs.grid(
            branches=[1, 2],
            layers=[size.shallow, size.deep],
            epochs=size.multi_epochs,
            **judging,
            **shared,
        ),
        constants=networks,
        **sweeping,
    )
    deletions = gs.sweep(
        path_cells.deletions,
        gs.grid(
            layers=size.layers,
            epochs=size.epochs,
            images=size.gradient_images,
            share=1 / 3,
            draws=size.draws,
            **shared,
        ),
        constants=networks,
        **sweeping,
    )
    counted = gs.sweep(
        path_cells.counted,
        gs.grid(layers=110, data=settings.data, deleted=[1, 10, 20], seed=settings.seeds[:1]),
        constants=root,
        **sweeping,
    )
    routes = gs.sweep(
        path_cells.multi_residual_counts,
        gs.grid(branches=[2, 3], layers=size.layers, data=settings.data, seed=settings.seeds[:1]),
        constants=root,
        **sweeping,
    )
    terms = gs.sweep(
        expansion,
        gs.grid(branches=["relu", "linear"], blocks=6, width=8, seed=settings.seeds),
        **settings.sweeping(),
    )
    measured: dict[tuple[str, str], Iterable[float]] = {
        **{("V9", "counted"): [_survivors(counted, 17) / _survivors(counted, 5)]},
        **{("V14", "counts"): [max(routes["value"], key=lambda ratio: abs(ratio - 1))]},
        **claims(trainings, several, deletions, terms, size),
    }
    told = (
        f"{settings.preset}; {settings.data}, ResNet-{size.layers}, {size.epochs} epochs (V14: ResNet-{size.shallow} "
        f"and -{size.deep}, {size.multi_epochs} epochs; V9 counted: ResNet-110; V15: six blocks of 8 units)"
    )
    return Section(
        name="effective_paths",
        title="Are short paths enough?",
        question="Is a residual network an ensemble of its paths, and do the short ones do the work?",
        reading=READING,
        verdicts=judged(dict(sorted(measured.items(), key=_number)), settings=told),
        pictures=pictures(counted),
        tables={
            "trainings": trainings,
            "multi_residual": several,
            "deletions": deletions,
            "counts": counted,
            "multi_residual_counts": routes,
            "expansion": terms,
        },
    )


def claims(
    trainings: pd.DataFrame,
    several: pd.DataFrame,
    deletions: pd.DataFrame,
    terms: pd.DataFrame,
    size: Preset,
) -> dict[tuple[str, str], pd.Series]:
    """The statistic of each claim, one value a seed."""
    stale = where(trainings, statistics="stale")

    def cost(statistics: str, reference: str) -> pd.Series:
        """Error with some of the blocks a batch less that with all of them, per seed."""
        error = where(trainings, quantity="whole_error")
        some = per_seed(error, training=cells.SOME, statistics=statistics)
        return some - per_seed(error, training=cells.ALL, statistics=reference)

    rise = {
        name: per_seed(stale, quantity="error_difference", training=name, deleted=1)
        for name in (cells.ALL, cells.DROPPED)
    }
    fall = {
        layers: _multi(several, 1, layers) - _multi(several, 2, layers)
        for layers in (size.shallow, size.deep)
    }
    length = where(deletions, quantity="mean_path_length")
    intact = per_seed(length[length["draw"] < 0])
    return {
        ("V7", "stored statistics"): cost("stale", "stale"),
        ("V7", "scaled branches"): cost("scaled", "stale"),
        ("V7", "new statistics"): cost("recalibrated", "recalibrated"),
        ("V8", "more"): rise[cells.ALL] - rise[cells.DROPPED],
        ("V8", "only slightly"): rise[cells.ALL] - rise[cells.DROPPED],
        ("V9", "mean length"): per_seed(length[length["draw"] >= 0]) / intact,
        ("V14", "threshold"): fall[size.deep] - fall[size.shallow],
        ("V15", "gradient"): per_seed(terms, quantity="gradient_error", branches="relu"),
        ("V15", "function, linear branches"): per_seed(terms, quantity="function_error", branches="linear"),
        ("V15", "function, ReLU branches"): per_seed(terms, quantity="function_error", branches="relu"),
    }


def _number(row: tuple[tuple[str, str], Iterable[float]]) -> int:
    """Of the claim: V9 before V14."""
    return int(row[0][0].removeprefix("V"))


def _multi(several: pd.DataFrame, branches: int, layers: int) -> pd.Series:
    return per_seed(several, quantity="whole_error", statistics="stale", branches=branches, layers=layers)


def _survivors(counted: pd.DataFrame, length: int, deleted: int = 10) -> float:
    """Share of the paths of one length that is left, counted on the graph."""
    left = where(counted, quantity="surviving_fraction", path_length=length, deleted=deleted)
    return float(left["value"].iloc[0])


def _law(counted: pd.DataFrame) -> pd.DataFrame:
    """C(n-d, x) / C(n, x) for the numbers deleted there."""
    n = int(counted["path_length"].max())
    rows = [
        {"deleted": d, "path_length": x, "value": gs.theory.surviving_fraction(n, int(d), x)}
        for d in sorted(set(counted["deleted"]))
        for x in range(n + 1)
    ]
    return pd.DataFrame(rows)


def pictures(counted: pd.DataFrame) -> tuple[Picture, ...]:
    """What deletion leaves of the paths of each length."""
    return (
        Picture(
            "survival",
            gs.figures.deletion_survival(
                where(counted, quantity="surviving_fraction"), theory=_law(counted), band=(5, 17)
            ),
            "Share of the paths of each length that is left after deleting random blocks of 54: the longer, the fewer. "
            "Lines: C(n-d, x) / C(n, x); marks: counted on the graph of the network with its blocks closed. Shaded: "
            "the effective paths of the paper.",
            "Falling curves of surviving share over path length, one for each number of deleted blocks, on marks.",
        ),
    )


if __name__ == "__main__":
    run(main, PRESETS)
