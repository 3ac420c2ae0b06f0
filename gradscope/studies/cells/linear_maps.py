"""What a looks-linear network is at initialisation: a linear map, and an isometry."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.data import gaussian
from gradscope.nets import build, initialise
from gradscope.problem import Problem
from gradscope.studies.frames import where
from gradscope.studies.gradient_correlation import gradient_correlation

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 64


def looks_linear(depth: int, seed: int) -> "pd.DataFrame":
    """R of the input gradient, and the deviations from a linear map and from an isometry, of a CReLU network.

    64 inputs, units and outputs, float64, looks-linear initialisation.
    """
    import pandas as pd

    model = build(
        "plain_mlp", depth=depth, width=WIDTH, activation="crelu", outputs=WIDTH, seed=seed
    ).double()
    initialise(model, "looks_linear", seed=seed)
    x, z = gaussian(64, WIDTH, seed=seed, dtype=torch.float64).split(32)
    problem = Problem(model, torch.cat([x, z]))
    frame = where(
        gradient_correlation(problem, twin=False, theory=False), site="input", quantity="correlation_R"
    )
    with problem.prepared(), torch.no_grad():
        apart = 2 * model(x) - 3 * model(z)
        linear = float((model(2 * x - 3 * z) - apart).abs().max() / apart.abs().max())
    singular = torch.linalg.svdvals(_jacobian(model, x[:1]))
    rows: list[dict[str, Any]] = [
        {"quantity": "deviation_from_linear_map", "value": linear},
        {"quantity": "deviation_from_isometry", "value": float((singular - 1).abs().max())},
    ]
    others = pd.DataFrame(rows).assign(unit="1", reason="")
    others["status"] = others["value"].map(lambda value: "ok" if math.isfinite(value) else "undefined")
    return pd.concat([frame.drop(columns="depth"), others], ignore_index=True)


def _jacobian(model: torch.nn.Module, x: Tensor) -> Tensor:
    """d outputs / d inputs at one input, [outputs, inputs]."""
    with torch.enable_grad():
        jacobian: Tensor = torch.autograd.functional.jacobian(lambda inputs: model(inputs).sum(dim=0), x)
    return jacobian[:, 0]
