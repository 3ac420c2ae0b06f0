"""Cells on how deep the ensemble of paths is, in a fresh network and along its training."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from gradscope.problem import Problem
from gradscope.studies.frames import where
from gradscope.studies.path_observer import PathObserver
from gradscope.studies.path_spectrum import path_spectrum
from gradscope.studies.settings import data_set
from gradscope.studies.specimens import untrained
from gradscope.theory.path_lengths import initialisation_path_lengths, mean_path_length
from gradscope.theory.resnet_path_lengths import resnet_batch_norm_gains
from gradscope.training import fit

if TYPE_CHECKING:
    import pandas as pd


def at_start(
    layers: int, data: str, images: int, draws: int, seed: int, *, root: str | None
) -> "pd.DataFrame":
    """Squared path norms of a fresh ResNet in train mode by length, measured and as the law of its gains says.

    Quantities, in each of which `form` is `measured` or `law`: `squared_path_norms_share` by `path_length`, and
    `mean_path_length` under these shares.
    """
    import pandas as pd

    data_of = data_set(data, root)
    model = untrained("resnet", layers, seed, data_of)
    inputs, classes = data_of.train[0][:images], data_of.train[1][:images]
    spectrum = path_spectrum(Problem(model, (inputs, classes), batch_norm="train"), draws=draws, seed=seed)
    squares = where(spectrum, quantity="squared_path_norms").sort_values("path_length")
    whole = squares["value"].sum(skipna=False)
    blocks = (layers - 2) // 6
    gains = resnet_batch_norm_gains([blocks] * 3, _stem_variance(model, inputs))
    measured = squares.assign(
        quantity="squared_path_norms_share",
        form="measured",
        unit="1",
        **{name: squares[name] / whole for name in ("value", "low", "high")},
    )
    length = float((measured["value"] * measured["path_length"]).sum(skipna=False))
    law = initialisation_path_lengths(gains)
    rows = [
        {"quantity": "squared_path_norms_share", "form": "law", "path_length": k, "value": share, "unit": "1"}
        for k, share in enumerate(law)
    ]
    means = {"measured": length, "law": mean_path_length(gains)}
    rows += [
        {"quantity": "mean_path_length", "form": form, "value": value, "unit": "branches"}
        for form, value in means.items()
    ]
    exact = pd.DataFrame(rows).assign(status="ok", reason="")
    return pd.concat([measured, exact], ignore_index=True)


def along_training(
    layers: int,
    epochs: int,
    data: str,
    images: int,
    draws: int,
    observations: int,
    seed: int,
    *,
    root: str | None,
) -> "pd.DataFrame":
    """Path length and coherence of a ResNet while it learns, on fixed training images, batch norm in train mode.

    So many times along the training; beside them the signed share of each length (rows with a `path_length`).
    """
    import pandas as pd

    data_of = data_set(data, root)
    model = untrained("resnet", layers, seed, data_of)
    problem = data_of.train[0][:images], data_of.train[1][:images]
    steps = epochs * -(-len(data_of.train[0]) // 64)
    every = max(1, steps // observations)
    observer = PathObserver(problem, every=every, draws=draws, seed=seed, batch_norm="train")
    spectra: list[pd.DataFrame] = []

    def spectrum(model: nn.Module, step: int) -> None:
        if step % every == 0:
            frame = path_spectrum(Problem(model, problem, batch_norm="train"), draws=0)
            spectra.append(where(frame, quantity="signed_share").assign(step=step))

    fit(model, data_of, epochs=epochs, seed=seed, progress=False, observe=[observer, spectrum])
    return pd.concat([observer.frame(), *spectra], ignore_index=True)


def _stem_variance(model: nn.Module, inputs: torch.Tensor) -> list[float]:
    """Variance of each channel of the stem's output over batch and positions: what the first block normalises."""
    with torch.no_grad():
        out = model.get_submodule("stem")(inputs)
    variances: list[float] = out.double().var(dim=(0, 2, 3), correction=0).tolist()
    return variances
