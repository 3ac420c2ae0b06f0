"""How long are the paths through which the gradient flows?

Paths through n blocks are binomial in length, and the gradient is said to live in the short ones: 5 to 17 of
54 blocks (Veit et al. 2016, arXiv:1605.06431, figure 6). Their estimate, number of paths times norm of one path,
is laid beside the exact split of the gradient by path length, and the two differ by how far paths agree.

    python -m analyses.paths      half a minute on two cores after analyses.lesions, whose networks it takes up
    writes reports/paths/: a page, verdicts, tables and figures
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

import gradscope as gs
from gradscope.cli.analysis import run
from gradscope.report import Picture, Section, judged
from gradscope.studies.cells import paths as cells
from gradscope.studies.frames import where
from gradscope.studies.settings import Settings


@dataclass(frozen=True)
class Preset:
    layers: int = 56
    epochs: int = 4
    images: int = 32
    draws: int = 4
    sampled: int = 8


PRESETS = {"quick": Preset(), "standard": Preset(layers=110, epochs=15, draws=16, sampled=32)}

READING = """
A path chooses, at every block, the branch or the skip; its length is the number of branches it crosses. The
gradient at the input is the sum over all paths, and splits exactly into one part for each length. The
signed share of a length is its part's projection on the whole gradient; the shares add up to 1, and one may
be negative.

Veit's product multiplies the number of paths with the norm of a typical one. It bounds the norm of the part
from above, and is tight only if all paths of that length are parallel. The incoherent norm is what would
remain if they were all orthogonal. Coherence says which it is: 1 for orthogonal paths, the number of paths for
parallel ones. Fresh networks have orthogonal paths, and training aligns them, so that the truth lies between.

Norms of single paths are taken in two ways: root mean squares, exact up to random signs on the branches, and means
over paths that were drawn and followed one by one, as in the paper. Their sizes scatter over orders of magnitude, so
a mean over few draws is usually too low. Bands are 95 % over draws.
"""


def main(settings: Settings) -> Section:
    """Measure, judge and draw."""
    size, images = PRESETS[settings.preset], settings.data_set()
    fixed = {"layers": size.layers, "epochs": size.epochs, "data": settings.data, "images": size.images}
    sweeping = {
        "key": {"data": images.sha256},
        "constants": {"root": settings.root, "folder": settings.cache / "networks"},
        **settings.sweeping(),
    }
    frame = gs.sweep(
        cells.path_lengths,
        gs.grid(
            state=["initial", "trained"],
            **fixed,
            draws=size.draws,
            sampled=size.sampled,
            seed=settings.seeds,
        ),
        **sweeping,
    )
    seed = settings.seeds[0]
    blocks = gs.sweep(cells.participation, gs.grid(**fixed, seed=[seed]), **sweeping)
    stages = gs.sweep(cells.by_stage, gs.grid(**fixed, seed=[seed]), **sweeping)
    counted = gs.sweep(
        cells.counted,
        gs.grid(layers=110, data=settings.data, deleted=10, seed=[seed]),
        key=sweeping["key"],
        constants={"root": settings.root},
        **settings.sweeping(),
    )
    return Section(
        name="paths",
        title="How long are the paths?",
        question="Through how many residual blocks does the gradient flow on its way from the loss to the input?",
        reading=READING,
        verdicts=judged(
            {("V1", ""): [_share_of_paths(counted, 19, 35)], **claims(frame)},
            settings=f"{settings.preset}; {settings.data}, ResNet-{size.layers} (V1: 110), {size.images} test images",
        ),
        pictures=pictures(frame, blocks, stages, settings),
        tables={"paths": frame, "participation": blocks, "stages": stages, "counts": counted},
    )


def claims(frame: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """The statistic of each claim, one value a seed."""
    trained = where(frame, state="trained")
    blocks = int(trained["path_length"].max())
    shares = {
        name: _by_length(trained, name)
        for name in ("signed_share", "coherent_norm_share", "veit_product_share")
    }
    signed = shares["signed_share"]
    mean_length = (signed * signed.columns.to_numpy()).sum(axis=1, skipna=False)
    upper = {
        name: table.apply(_quantile, axis=1, level=0.975)
        for name, table in shares.items()
        if name != "signed_share"
    }
    norms = _by_length(trained, "mean_path_norm").apply(np.log)
    initially = _coherence_at_mean(where(frame, state="initial"))
    return {
        ("V5", "falls"): norms.apply(lambda row: np.exp(_line(row)[0]), axis=1),
        ("V5", "exponentially"): norms.apply(lambda row: _line(row)[1], axis=1),
        ("V6", "short paths"): mean_length / blocks,
        ("V6", "range by Veit's product"): upper["veit_product_share"] / blocks,
        ("V6", "range of the exact norm"): (upper["veit_product_share"] - upper["coherent_norm_share"])
        / blocks,
        ("V11", "initially"): initially,
        ("V11", "by training"): (_coherence_at_mean(trained) / initially).apply(np.log10),
    }


def _by_length(frame: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """One row a seed, one column a path length."""
    return where(frame, quantity=quantity).pivot(index="seed", columns="path_length", values="value")


def _line(row: pd.Series) -> tuple[float, float]:
    """Slope of the straight line through the values over their index, and the share of variance it explains."""
    lengths, values = row.index.to_numpy(dtype=float), row.to_numpy(dtype=float)
    if not np.isfinite(values).all():
        return float("nan"), float("nan")
    slope, level = np.polyfit(lengths, values, 1)
    return float(slope), float(1 - np.var(values - level - slope * lengths) / np.var(values))


def _coherence_at_mean(frame: pd.DataFrame) -> pd.Series:
    """Coherence at the length nearest to the mean path length, for each seed."""
    signed, coherence = _by_length(frame, "signed_share"), _by_length(frame, "coherence")
    nearest = (signed * signed.columns.to_numpy()).sum(axis=1, skipna=False).round()
    return pd.Series({seed: coherence.at[seed, length] for seed, length in nearest.items()})


def _share_of_paths(counted: pd.DataFrame, low: int, high: int) -> float:
    intact = where(counted, quantity="path_count_share")
    return float(intact.loc[intact["path_length"].between(low, high), "value"].sum())


def _quantile(shares: pd.Series, level: float) -> float:
    """The path length below which a share `level` lies, interpolated; NaN where a share is undefined.

    A length k stands for the interval from k - 1/2 to k + 1/2, so that networks that differ by less than a block
    can be told apart.
    """
    if shares.isna().any():
        return float("nan")
    edges = np.arange(len(shares) + 1) - 0.5
    return float(np.interp(level, np.concatenate([[0.0], shares.cumsum()]), edges))


def pictures(
    frame: pd.DataFrame, blocks: pd.DataFrame, stages: pd.DataFrame, settings: Settings
) -> tuple[Picture, ...]:
    """The spectra of one seed, Veit's three panels, and where along the network the gradient crosses branches."""
    seed = settings.seeds[0]
    rows = where(frame, seed=seed)
    return (
        Picture(
            "triptych",
            gs.figures.path_triptych(where(rows, state="trained")),
            f"Veit's figure 6 on a trained network (seed {seed}): how many paths there are, how large the gradient "
            "through one of them is, and the product of the two, with the exact curve over it.",
            "Three panels over path length: a binomial number of paths, a falling norm of single paths, and the "
            "product's share beside the exact share, which peaks at shorter paths.",
        ),
        Picture(
            "spectrum",
            gs.figures.path_lengths(rows),
            f"Share of the gradient by path length (seed {seed}), beside the number of paths "
            "(grey). The gradient arrives through far shorter paths than there are, in the trained "
            "network through shorter ones than Veit's product says.",
            "Shares by path length before and after training: signed, coherent, incoherent and Veit's "
            "product peak far to the left of the binomial number of paths.",
        ),
        Picture(
            "spectrum_log",
            gs.figures.path_lengths(rows, y_scale="log"),
            "The same on a logarithmic axis: long paths are many, and carry next to nothing.",
            "Shares by path length on a logarithmic axis, falling by orders of magnitude towards long paths.",
        ),
        Picture(
            "participation",
            gs.figures.block_participation(blocks),
            f"How much of the gradient crosses each block's branch (seed {seed}, trained): the shares add up to the "
            "mean path length.",
            "One mark a block, along the depth of the network: the share of the gradient through its branch.",
        ),
        Picture(
            "stages",
            gs.figures.bigraded_spectrum(stages),
            f"The same gradient by two counts at once (seed {seed}, trained): blocks crossed in the first stage and in "
            "the later ones.",
            "A heat map of signed shares over the number of blocks crossed in the first stage and in later stages.",
        ),
    )


if __name__ == "__main__":
    run(main, PRESETS)
