"""Cells of the shattering analysis: one fresh or trained network in, one frame out."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.data import gaussian, line
from gradscope.measures.trace import autocorrelation, distinct_values, spectral_slope, von_neumann_ratio
from gradscope.nets import build, initialise
from gradscope.probes.co_activation import co_activation
from gradscope.studies.frames import where
from gradscope.studies.gradient_correlation import gradient_correlation
from gradscope.studies.input_trace import input_trace
from gradscope.studies.settings import data_set
from gradscope.studies.specimens import trained, untrained

if TYPE_CHECKING:
    import pandas as pd

WIDTH, EXAMPLES, POINTS, LAGS = 256, 128, 256, 15

NETWORKS: dict[str, dict[str, Any]] = {
    "plain, centred": {"name": "plain_mlp", "normalise": "mean"},
    "plain": {"name": "plain_mlp", "normalise": "none"},
    "residual, centred": {"name": "residual_mlp", "normalise": "mean"},
    "residual, batch norm, beta 1": {"name": "residual_mlp", "normalise": "batch", "beta": 1.0},
    "residual, batch norm, beta 0.1": {"name": "residual_mlp", "normalise": "batch", "beta": 0.1},
}
TRACED: dict[str, dict[str, Any]] = {
    "plain, centred": {"name": "plain_mlp", "normalise": "mean"},
    "residual, beta 1": {"name": "residual_mlp", "normalise": "batch", "beta": 1.0, "branch_layers": 2},
    "residual, beta 0.1": {"name": "residual_mlp", "normalise": "batch", "beta": 0.1, "branch_layers": 2},
}
NOISES = ("brown noise", "white noise")


def input_correlation(family: str, depth: int, seed: int) -> "pd.DataFrame":
    """R of the input gradient of one fresh network of `NETWORKS`; in plain ones the co-activation too.

    256 units, 128 standard normal inputs of dimension 256, one output, He initialisation.
    """
    import pandas as pd

    model = build(**NETWORKS[family], depth=depth, width=WIDTH, outputs=1, seed=seed)
    inputs = gaussian(EXAMPLES, WIDTH, seed=seed)
    frame = where(gradient_correlation((model, inputs)), site="input", quantity="correlation_R")
    if NETWORKS[family]["name"] == "plain_mlp":
        with co_activation(model, at="blocks.*") as readings, torch.no_grad():
            model(inputs)
        frame = pd.concat([frame, readings.frame()], ignore_index=True)
    return frame.drop(columns="depth")


def trace(family: str, layers: int, seed: int) -> "pd.DataFrame":
    """The gradient of one fresh network of a scalar along [-2, 2] (or a noise), with its statistics.

    200 units, 256 points, frozen statistics. For `NOISES`, `layers` has no meaning and is 0.
    """
    import pandas as pd

    grid = line(POINTS, dtype=torch.float64)
    if family in NOISES:
        white = torch.randn(POINTS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        values = white.cumsum(0) if family == "brown noise" else white
        frame = pd.DataFrame(
            {
                "quantity": "input_gradient",
                "unit": "1",
                "x": grid.flatten().tolist(),
                "value": values.tolist(),
            }
        )
    else:
        model = build(**TRACED[family], depth=layers, width=200, inputs=1, outputs=1, seed=seed).double()
        frame = input_trace(model, grid)
        values = torch.tensor(frame["value"].to_numpy())
    if family in NOISES:
        frame = frame.assign(batch_norm="none", status="ok", reason="")
    statistics = _trace_statistics(values).assign(batch_norm=frame["batch_norm"].iloc[0])
    both = pd.concat([frame, statistics], ignore_index=True)
    return both[["batch_norm", "quantity", "unit", "x", "lag", "distance", "value", "status", "reason"]]


def _trace_statistics(values: Tensor) -> "pd.DataFrame":
    import pandas as pd

    acf = autocorrelation(values, LAGS).tolist()
    rows: list[dict[str, Any]] = [
        {"quantity": "autocorrelation", "lag": lag, "distance": lag * 4 / (POINTS - 1), "value": r}
        for lag, r in enumerate(acf)
    ]
    rows.append({"quantity": "spectral_slope", "value": float(spectral_slope(values))})
    rows.append({"quantity": "von_neumann_ratio", "value": float(von_neumann_ratio(values))})
    few = distinct_values(values) < 10
    frame = pd.DataFrame(rows).assign(unit="1", reason="fewer than 10 distinct values" if few else "")
    return frame.assign(
        status=frame["value"].map(lambda value: "ok" if math.isfinite(value) else "undefined")
    )


def looks_linear(depth: int, seed: int) -> "pd.DataFrame":
    """R of the input gradient, and the deviation from a linear map, of a looks-linear CReLU network."""
    import pandas as pd

    model = build("plain_mlp", depth=depth, width=64, activation="crelu", outputs=1, seed=seed).double()
    initialise(model, "looks_linear", seed=seed)
    x, z = gaussian(64, 64, seed=seed, dtype=torch.float64).split(32)
    frame = where(gradient_correlation((model, torch.cat([x, z]))), site="input", quantity="correlation_R")
    with torch.no_grad():
        apart = 2 * model(x) - 3 * model(z)
        deviation = float((model(2 * x - 3 * z) - apart).abs().max() / apart.abs().max())
    row = {
        "quantity": "deviation_from_linear_map",
        "unit": "1",
        "value": deviation,
        "status": "ok",
        "reason": "",
    }
    return pd.concat([frame.drop(columns="depth"), pd.DataFrame([row])], ignore_index=True)


def layer_correlation(
    family: str, state: str, layers: int, epochs: int, data: str, seed: int, *, root: str | None, folder: Path
) -> "pd.DataFrame":
    """R at every convolution's output, of one network on 128 real test images.

    `state` is `initial` or `trained`. At initialisation, batch statistics are frozen at the batch's own;
    after training, the stored ones are used.
    """
    images = data_set(data, root)
    if state == "initial":
        model = untrained(family, layers, seed, images)
    else:
        model = trained(family, layers, seed, images, epochs=epochs, folder=folder)
    inputs, labels = images.test
    convolutions = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
    frame = gradient_correlation((model, (inputs[:EXAMPLES], labels[:EXAMPLES])), at=convolutions)
    return where(frame, quantity="correlation_R", site=convolutions)
