"""Cells of the shattering analysis: one fresh or trained network in, one frame out."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradscope.data import gaussian
from gradscope.gradients.input_gradients import input_gradients
from gradscope.instruments.listen import Heard, on_gradient
from gradscope.instruments.sites import sites
from gradscope.measures.correlation import correlation_R
from gradscope.nets import build
from gradscope.probes.co_activation import co_activation
from gradscope.problem import Problem
from gradscope.studies.frames import where
from gradscope.studies.gradient_correlation import gradient_correlation
from gradscope.studies.settings import data_set
from gradscope.studies.specimens import trained, untrained

if TYPE_CHECKING:
    import pandas as pd

WIDTH, EXAMPLES = 256, 128

NETWORKS: dict[str, dict[str, Any]] = {
    "plain, centred": {"name": "plain_mlp", "normalise": "mean"},
    "plain": {"name": "plain_mlp", "normalise": "none"},
    "plain, batch norm": {"name": "plain_mlp", "normalise": "batch"},
    "residual, centred": {"name": "residual_mlp", "normalise": "mean"},
    "residual, batch norm, beta 1": {"name": "residual_mlp", "normalise": "batch", "beta": 1.0},
    "residual, batch norm, beta 0.1": {"name": "residual_mlp", "normalise": "batch", "beta": 0.1},
    "highway, centred": {"name": "residual_mlp", "normalise": "mean"},
}


def network(family: str, depth: int, seed: int, width: int | None = None) -> nn.Module:
    """A fresh network of `NETWORKS`, He-initialised; a highway's factors are those of Corollary 1."""
    options = dict(NETWORKS[family])
    if family.startswith("highway"):
        # x <- gamma_1 x + gamma_2 F(x) is x <- alpha (x + beta F(x)).
        options |= {"alpha": math.sqrt(1 - 1 / depth), "beta": 1 / math.sqrt(depth - 1)}
    return build(**options, depth=depth, width=WIDTH if width is None else width, outputs=1, seed=seed)


def input_correlation(family: str, depth: int, seed: int) -> "pd.DataFrame":
    """R and the variance of the input gradient of one fresh network; in plain ones the co-activation by layer.

    256 units, 128 standard normal inputs of dimension 256, one output, He initialisation.
    """
    import pandas as pd

    inputs = gaussian(EXAMPLES, WIDTH, seed=seed)
    model = network(family, depth, seed)
    frame = _at_input(model, inputs)
    rows = pd.DataFrame([_variance(model, inputs)])
    frame = pd.concat([frame, rows], ignore_index=True)
    if NETWORKS[family]["name"] == "plain_mlp":
        problem = Problem(model, inputs)
        with problem.prepared(), co_activation(model, at="blocks.*") as readings, torch.no_grad():
            model(inputs)
        layers = readings.frame()
        layers = layers.assign(layer=layers["depth"] + 1)
        frame = pd.concat([frame, layers], ignore_index=True)
    return frame.drop(columns="depth")


def _at_input(model: nn.Module, inputs: Tensor) -> "pd.DataFrame":
    frame = gradient_correlation((model, inputs), twin=False, theory=False)
    return where(frame, site="input", quantity="correlation_R")


def _variance(model: nn.Module, inputs: Tensor) -> dict[str, Any]:
    """Mean square of the input gradient's numbers over that of the gradient behind the last block."""
    gradients = input_gradients(Problem(model, inputs)).double()
    value = float(gradients.square().mean() / _readout(model).square().mean())
    return {
        "quantity": "gradient_variance",
        "unit": "that behind the last block",
        "value": value,
        "status": "ok",
    }


def wide_correlation(depth: int, seed: int) -> "pd.DataFrame":
    """R of an uncentred plain network of 1024 units on 64 Gaussian inputs: where 256 units would be scatter."""
    model = network("plain", depth, seed, width=1024)
    return _at_input(model, gaussian(64, 1024, seed=seed)).drop(columns="depth")


def batch_norm_variance(depth: int, seed: int) -> "pd.DataFrame":
    """Variance of the input gradient of a plain batch-normalised network of 400 units on 256 Gaussian inputs."""
    import pandas as pd

    model = network("plain, batch norm", depth, seed, width=400)
    return pd.DataFrame([_variance(model, gaussian(256, 400, seed=seed))])


def summed_through_batch_norm(depth: int, seed: int) -> "pd.DataFrame":
    """R + 1 / (B - 1) of a sum differentiated through batch statistics: 64 units, 32 inputs, float64."""
    import pandas as pd

    model = network("plain, batch norm", depth, seed, width=64).double()
    inputs = gaussian(32, 64, seed=seed, dtype=torch.float64)
    value = float(correlation_R(input_gradients(Problem(model, inputs, batch_norm="train")))) + 1 / 31
    row = {
        "batch_norm": "train",
        "quantity": "deviation_from_law",
        "unit": "1",
        "value": value,
        "status": "ok",
    }
    return pd.DataFrame([row])


def log_norms(depths: tuple[int, ...], networks: int, width: int, seed: int) -> "pd.DataFrame":
    """Variance over fresh plain ReLU networks of the log of the squared gradient, by layers crossed.

    One input a network. A network of the largest depth is read at the outputs of those of its layers from which the
    depths asked for are left.
    """
    import pandas as pd

    draws = [_log_norms(depths, width, seed * networks + draw) for draw in range(networks)]
    rows = []
    for depth, values in zip(depths, zip(*draws, strict=True), strict=True):
        variance = float(torch.tensor(values, dtype=torch.float64).var())
        row = {
            "layers": depth,
            "quantity": "variance_of_log_norm",
            "unit": "1",
            "value": variance,
            "n": networks,
        }
        finite = math.isfinite(variance)
        rows.append(
            row | {"status": "ok" if finite else "undefined", "reason": "" if finite else "no gradient"}
        )
    return pd.DataFrame(rows)


def _log_norms(depths: tuple[int, ...], width: int, seed: int) -> list[float]:
    """Log of the squared gradient over that of the readout, for each number of layers crossed; -inf if it is zero."""
    deepest = max(depths)
    model = build("plain_mlp", depth=deepest, width=width, outputs=1, seed=seed)
    squares: dict[str, float] = {}

    def listen(where: Heard, gradient: Tensor) -> None:
        squares[where.site] = float(gradient.double().square().sum())

    names = {depth: f"blocks.{deepest - depth - 1}" for depth in depths if depth < deepest}
    with on_gradient(sites(model, [*names.values()]) if names else [], listen):
        listen(Heard("input", 0, 0), input_gradients(Problem(model, gaussian(1, width, seed=seed))))
    readout = float(_readout(model).square().sum())
    ratios = [squares[names.get(depth, "input")] / readout for depth in depths]
    return [math.log(ratio) if ratio > 0 else -math.inf for ratio in ratios]


def _readout(model: nn.Module) -> Tensor:
    """Weights of a head of one output: the gradient behind the last block, float64."""
    weight: Tensor = model.get_submodule("head").get_parameter("weight")
    return weight.detach().double()


def after_a_change(family: str, depth: int, change: float, seed: int) -> "pd.DataFrame":
    """Cosine between gradients before and after the first layer's weights change by noise of relative size `change`.

    At the first layer's output, mean over 128 Gaussian inputs; 256 units.
    """
    import pandas as pd

    model, inputs = network(family, depth, seed), gaussian(EXAMPLES, WIDTH, seed=seed)
    first = next(module for module in model.modules() if isinstance(module, nn.Linear))
    before = _behind(model, inputs)
    weight = first.weight.detach()
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        first.weight.add_(noise * (change * weight.norm() / noise.norm()))
    after = _behind(model, inputs)
    cosines = torch.nn.functional.normalize(before, dim=1, eps=0) * torch.nn.functional.normalize(
        after, dim=1, eps=0
    )
    value = float(cosines.sum(dim=1).mean())
    row = {"quantity": "mean_cosine", "unit": "1", "site": "blocks.0", "value": value, "n": EXAMPLES}
    return pd.DataFrame([row | {"status": "ok" if math.isfinite(value) else "undefined"}])


def _behind(model: nn.Module, inputs: Tensor) -> Tensor:
    """Gradients at the output of the first block, one row an example, float64."""
    heard: list[Tensor] = []
    with on_gradient(sites(model, "blocks.0"), lambda where, gradient: heard.append(gradient.double())):
        input_gradients(Problem(model, inputs))
    return heard[0]


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
    pair = (model, (inputs[:EXAMPLES], labels[:EXAMPLES]))
    frame = gradient_correlation(pair, at=convolutions, twin=False, theory=False)
    return where(frame, quantity="correlation_R", site=convolutions)
