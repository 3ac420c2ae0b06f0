"""The thirteen analyses at a size that a test can wait for: a few images, the smallest networks, two seeds."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from analyses import (
    conditioning,
    effective_paths,
    effective_rank,
    ensemble_depth,
    lesions,
    looks_linear,
    paths,
    refinement,
    reordering,
    shattering,
    smoothness,
    stability,
    traces,
)
from gradscope.data import DataSet, digits
from gradscope.report import Section
from gradscope.studies import settings as settings_module
from gradscope.studies.cells import effective_rank as rank_cells
from gradscope.studies.cells import shattering as shattering_cells
from gradscope.studies.cells import traces as trace_cells
from gradscope.studies.settings import Settings

ANALYSES = {
    **{"shattering": shattering, "traces": traces},
    **{"effective_rank": effective_rank, "looks_linear": looks_linear},
    **{"lesions": lesions, "reordering": reordering, "refinement": refinement},
    **{"paths": paths, "effective_paths": effective_paths, "ensemble_depth": ensemble_depth},
    **{"conditioning": conditioning, "stability": stability, "smoothness": smoothness},
}

# A group of blocks that change places needs ResNet-20, a trend within a stage ResNet-26. The depths that claims
# name must be there: 4, 20 and 50 layers, traces of 2, 24 and 50, and Hessians of 2 and two more.
TINY = {
    "shattering": shattering.Preset(
        depths=(1, 4, 20, 50), draws_per_seed=1, networks=3, changed=(2, 3), layers=8, epochs=1
    ),
    "traces": traces.Preset(layers=(2, 24, 50), draws_per_seed=1, patterns=(2, 3), recipes=3),
    "effective_rank": effective_rank.Preset(layers=(8, 50), minibatches=1, shown=8),
    "looks_linear": looks_linear.Preset(depth=4, layers=(8, 14), epochs=1),
    "lesions": lesions.Preset(
        layers=20, epochs=3, plain_layers=7, sets=(1, 6), subsets=2, calibration=64, images=64
    ),
    "reordering": reordering.Preset(
        layers=20, epochs=3, plain_layers=10, swaps=(1, 9), draws=6, calibration=64, images=64
    ),
    "refinement": refinement.Preset(
        layers=26, epochs=1, small_layers=8, small_images=8, scales=(1 / 16, 1 / 64), blocks=(3, 6), images=32
    ),
    "paths": paths.Preset(layers=8, epochs=1, images=4, draws=2, sampled=2),
    "effective_paths": effective_paths.Preset(
        layers=14,
        epochs=1,
        images=64,
        gradient_images=4,
        calibration=32,
        draws=1,
        shallow=8,
        deep=14,
        multi_epochs=1,
    ),
    "ensemble_depth": ensemble_depth.Preset(
        fresh_layers=14, layers=8, epochs=1, images=8, draws=2, observations=2
    ),
    "conditioning": conditioning.Preset(layers=(2, 3, 4), trained_layers=8, epochs=1, images=16, steps=6),
    "stability": stability.Preset(
        layers=6, steps=10, followed_layers=6, followed=(0, 5), rates=(0.25, 1.0), edge_steps=8, every=2
    ),
    "smoothness": smoothness.Preset(layers=8, epochs=1, images=16, steps=10, sizes=(4,), draws=2),
}


def few_digits() -> DataSet:
    """192 images to train and 64 to test with."""
    whole = digits()
    return DataSet(
        "digits",
        (whole.train[0][:192], whole.train[1][:192]),
        (whole.test[0][:64], whole.test[1][:64]),
        whole.classes,
    )


@contextmanager
def tiny_analyses() -> Iterator[None]:
    """Inside, every analysis has a preset `tiny`, and `digits` are few."""
    few = few_digits()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings_module, "digits", lambda: few)
        patch.setattr(shattering_cells, "WIDTH", 16)
        patch.setattr(shattering_cells, "EXAMPLES", 16)
        patch.setattr(shattering, "WIDE", (2, 3))
        patch.setattr(trace_cells, "WIDTH", 16)
        patch.setattr(rank_cells, "EXAMPLES", 32)
        for name, module in ANALYSES.items():
            patch.setitem(module.PRESETS, "tiny", TINY[name])
        yield


def tiny(out: Path, **more: object) -> Settings:
    """Settings of a tiny run in this process."""
    return Settings(**{"preset": "tiny", "seeds": (0, 1), "out": out, "workers": 1, "show": False, **more})


@cache
def first_run() -> tuple[tempfile.TemporaryDirectory, dict[str, Section]]:
    """The folder of one tiny run and its sections; run once a process, removed at its end."""
    folder = tempfile.TemporaryDirectory()
    with tiny_analyses():
        return folder, {name: module.main(tiny(Path(folder.name))) for name, module in ANALYSES.items()}
