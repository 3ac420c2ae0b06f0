"""How long are the paths through which the gradient flows?

Paths through n blocks are binomial in length, and the gradient is said to live in the short ones: 5 to 17 of
54 blocks (Veit et al. 2016, arXiv:1605.06431). Their estimate, number of paths times norm of one path, is
laid beside the exact split of the gradient by path length.

    python -m analyses.paths      a minute on two cores after analyses.lesions, whose networks it takes up
    writes reports/paths/: a page, verdicts, tables and figures
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

import gradscope as gs
from gradscope.cli.analysis import run
from gradscope.report import Picture, Section, judged
from gradscope.studies.cells import ensembles as cells
from gradscope.studies.frames import where
from gradscope.studies.settings import Settings


@dataclass(frozen=True)
class Preset:
    layers: int = 56
    epochs: int = 4
    images: int = 32
    draws: int = 4


PRESETS = {"quick": Preset(), "standard": Preset(layers=110, epochs=15, draws=16)}

READING = """
A path chooses, at every block, the branch or the skip; its length is the number of branches it crosses. The
gradient at the input is the sum over all paths, and splits exactly into one part for each length. The
signed share of a length is its part's projection on the whole gradient; the shares add up to 1, and one may
be negative.

Veit's product multiplies the number of paths with the norm of a typical one. It bounds the norm of the part
from above, and is tight only if all paths of that length are parallel. The incoherent norm is what would
remain if they were all orthogonal. Where training aligns paths, the truth lies between the two. Norms of
single paths are root mean squares, from random signs on the branches; bands are 95 % over draws.
"""


def main(settings: Settings) -> Section:
    """Measure, judge and draw."""
    size, images = PRESETS[settings.preset], settings.data_set()
    fixed = {"layers": size.layers, "epochs": size.epochs, "data": settings.data}
    frame = gs.sweep(
        cells.path_lengths,
        gs.grid(
            state=["initial", "trained"], **fixed, images=size.images, draws=size.draws, seed=settings.seeds
        ),
        key={"data": images.sha256},
        constants={"root": settings.root, "folder": settings.cache / "networks"},
        **settings.sweeping(),
    )
    counted = cells.paths_through(110, settings.data, root=settings.root)
    return Section(
        name="paths",
        title="How long are the paths?",
        question="Through how many residual blocks does the gradient flow on its way from the loss to the input?",
        reading=READING,
        verdicts=judged(
            {("V1", ""): [gs.theory.mass_between(counted, 19, 35)], **claims(frame)},
            settings=f"{settings.preset}; {settings.data}, ResNet-{size.layers} (V1: 110), {size.images} test images",
        ),
        pictures=pictures(frame, settings),
        tables={"paths": frame},
    )


def claims(frame: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """The statistic of each claim, one value a seed."""
    trained = where(frame, state="trained")
    blocks = int(trained["path_length"].max())
    shares = {
        name: where(trained, quantity=name).pivot(index="seed", columns="path_length", values="value")
        for name in ("signed_share", "coherent_norm_share", "veit_product_share")
    }
    signed = shares["signed_share"]
    upper = {
        name: table.apply(_quantile, axis=1, level=0.975)
        for name, table in shares.items()
        if name != "signed_share"
    }
    return {
        ("V6", "short paths"): (signed * signed.columns.to_numpy()).sum(axis=1, skipna=False) / blocks,
        ("V6", "range by Veit's product"): upper["veit_product_share"] / blocks,
        ("V6", "range of the exact norm"): (upper["veit_product_share"] - upper["coherent_norm_share"])
        / blocks,
    }


def _quantile(shares: pd.Series, level: float) -> float:
    """The path length below which a share `level` lies, interpolated; NaN where a share is undefined.

    A length k stands for the interval from k - 1/2 to k + 1/2, so that networks that differ by less than a block
    can be told apart.
    """
    if shares.isna().any():
        return float("nan")
    edges = np.arange(len(shares) + 1) - 0.5
    return float(np.interp(level, np.concatenate([[0.0], shares.cumsum()]), edges))


def pictures(frame: pd.DataFrame, settings: Settings) -> tuple[Picture, ...]:
    """The spectra of one seed, on a linear and on a logarithmic axis."""
    shown = [
        "signed_share",
        "coherent_norm_share",
        "incoherent_norm_share",
        "veit_product_share",
        "path_count_share",
    ]
    rows = where(frame, quantity=shown, seed=settings.seeds[0])
    return (
        Picture(
            "spectrum",
            gs.figures.path_lengths(rows),
            f"Share of the gradient by path length (seed {settings.seeds[0]}), beside the number of paths "
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
    )


if __name__ == "__main__":
    run(main, PRESETS)
