"""Cell of the smoothness analysis: the Hessian's spectrum with and without skips, with and without batch norm."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gradscope.curvature.density import spectral_density
from gradscope.curvature.eigenpairs import extreme_eigenpairs
from gradscope.curvature.hessian import hessian
from gradscope.curvature.trace import trace
from gradscope.instruments.recalibrate import recalibrated
from gradscope.problem import Problem
from gradscope.studies.minibatch_curvature import minibatch_curvature
from gradscope.studies.settings import data_set
from gradscope.studies.specimens import trained, untrained

if TYPE_CHECKING:
    import pandas as pd

NETWORKS: dict[str, tuple[str, str]] = {
    "skips, batch norm": ("resnet", "batch"),
    "skips, none": ("resnet", "none"),
    "no skips, batch norm": ("plain", "batch"),
    "no skips, none": ("plain", "none"),
}
"""Network -> (family, normalisation)."""

LEARNING_RATE = 0.01
"""For all four, so that they differ by what is asked about alone: of 0.1, 0.03, 0.01 and 0.003 the only one at which,
on a pilot seed that no claim uses (1000), all four had a lower training loss after four epochs than chance."""

PROBES, ACCURACY = 2, 0.05
"""Probes of the density, whose bands lie over them; and the relative standard error aimed at for the trace."""


def spectrum(
    network: str,
    state: str,
    layers: int,
    epochs: int,
    data: str,
    images: int,
    lanczos_steps: int,
    seed: int,
    *,
    root: str | None,
    folder: Path | None,
) -> "pd.DataFrame":
    """Extreme eigenvalues, density and traces of the Hessian on a few training images, drawn by `seed`.

    Args:
        network: One of `NETWORKS`.
        state: "at initialisation" or "trained".
        layers, epochs, data: As in `nets.build` and `fit`.
        images: Fixed training images that the Hessian is about.
        lanczos_steps: Steps of the density; the eigenvalues may take as many products again.

    Returns:
        Rows of `extreme_eigenvalues` and `spectral_density`, the training loss on these images, `lambda_max` alone, and
        `mean_square_eigenvalue`, tr H^2 / P, with the ten extreme eigenvectors split off, so that no single large
        eigenvalue is left to the draw of probes. Batch normalisation with stored statistics: after training, its own;
        before, those of these images.
    """
    import pandas as pd

    model, inputs, labels = specimen(
        network, state, layers, epochs, data, images, seed, root=root, folder=folder
    )
    fresh = state == "at initialisation"
    with recalibrated(model, [inputs]) if fresh else nullcontext():
        problem = Problem(model, (inputs, labels), batch_norm="running")
        with torch.no_grad(), problem.prepared():
            loss = float(problem.value(inputs, labels))
        with hessian(problem) as operator:
            pairs = extreme_eigenpairs(operator, 5, max_products=4 * lanczos_steps)
            products = 10 + lanczos_steps
            traces = trace(
                operator, method="hutchinson", accuracy=ACCURACY, max_products=products, deflate=pairs.vectors
            )
            density = spectral_density(operator, probes=PROBES, steps=lanczos_steps)
    extremes = pairs.frame
    top = extremes[extremes["rank"] == 1].assign(quantity="lambda_max")
    told = pd.DataFrame([{"quantity": "loss", "unit": "nat", "value": loss, "status": "ok", "reason": ""}])
    square = traces[traces["quantity"] == "trace_of_square"].assign(quantity="mean_square_eigenvalue")
    square[["value", "low", "high", "standard_error"]] /= operator.shape[0]
    return pd.concat([told, top, square, extremes, density], ignore_index=True)


def bias(
    network: str,
    layers: int,
    epochs: int,
    data: str,
    images: int,
    sizes: tuple[int, ...],
    draws: int,
    seed: int,
    *,
    root: str | None,
    folder: Path | None,
) -> "pd.DataFrame":
    """The top eigenvalue on minibatches of these images against that on all of them, for a trained network."""
    model, inputs, labels = specimen(
        network, "trained", layers, epochs, data, images, seed, root=root, folder=folder
    )
    problem = Problem(model, (inputs, labels), batch_norm="running")
    return minibatch_curvature(problem, sizes=sizes, draws=draws, seed=seed)


def specimen(
    network: str,
    state: str,
    layers: int,
    epochs: int,
    data: str,
    images: int,
    seed: int,
    *,
    root: str | None,
    folder: Path | None,
) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """The network in its state, and the images it is looked at on."""
    if network not in NETWORKS or state not in ("at initialisation", "trained"):
        raise ValueError(
            f"network is one of {', '.join(NETWORKS)} and state 'at initialisation' or 'trained'; got {network!r} "
            f"and {state!r}."
        )
    family, normalise = NETWORKS[network]
    # The default is left unsaid, so that other analyses' networks are these.
    options: dict[str, Any] = {} if normalise == "batch" else {"normalise": normalise}
    data_of = data_set(data, root)
    inputs, labels = data_of.train
    chosen = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:images]
    if state == "trained":
        model = trained(
            family,
            layers,
            seed,
            data_of,
            epochs=epochs,
            folder=folder,
            learning_rate=LEARNING_RATE,
            **options,
        )
    else:
        model = untrained(family, layers, seed, data_of, **options).eval()
    return model, inputs[chosen], labels[chosen]
