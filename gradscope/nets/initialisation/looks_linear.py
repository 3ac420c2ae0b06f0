"""Weights that make a rectifier network start as a linear map: [W, -W] behind a CReLU, and mirrored ReLU units."""

import torch
from torch import Generator, Tensor, nn

from gradscope.nets.initialisation.pairs import Fed, Followed, follow
from gradscope.nets.initialisation.rectifiers import doubled_in_order, fed_in_order, slopes
from gradscope.nets.initialisation.weights import Layer, centred, delta_orthogonal, orthogonal


def planned(
    model: nn.Module, layers: dict[str, Layer], inputs: Tensor | None, *, doubled: bool
) -> tuple[Followed, list[nn.Parameter]]:
    """Which layers are fed by pairs and which feed them, and the slopes to set to 1.

    Raises:
        ValueError: No rectifier that could be made to look linear, or a grouped convolution at one.
    """
    found_slopes = slopes(model)
    if inputs is not None:
        followed = follow(model, layers, inputs, doubled=doubled)
    else:
        followed = (doubled_in_order if doubled else fed_in_order)(model, layers)
    if not followed.fed and (doubled or not found_slopes):
        remedy = "Build the network with activation='crelu'" if not doubled else "Build it with nn.ReLU"
        others = (
            ", or take 'looks_linear_relu', which mirrors the units of a plain ReLU." if not doubled else "."
        )
        raise ValueError(
            f"looks_linear needs layers fed by {'ReLU' if doubled else 'CReLU (or PReLU)'}, and {type(model).__name__} "
            f"has none. {remedy}{others}"
        )
    for name, layer in layers.items():
        if getattr(layer, "groups", 1) > 1 and (layer in followed.fed or layer in followed.feeding):
            raise ValueError(
                f"{name!r} is a convolution in {layer.groups} groups, which would part the halves of the rectifier. "
                "Looks-linear weights need groups=1 there."
            )
    return followed, found_slopes


def draw(layer: Layer, followed: Followed, gain: float, generator: Generator) -> Tensor:
    """The weight of one layer: W, [W, -W], [W; -W] or [[W, -W], [-W, W]], at the centre of a kernel."""
    fed: Fed | None = followed.fed.get(layer)
    if fed is None and layer not in followed.feeding:
        return delta_orthogonal(layer, gain, generator)
    rows, columns = layer.weight.shape[:2]
    matrix = gain * orthogonal(
        (rows // 2 if layer in followed.feeding else rows, columns if fed is None else len(fed.first)),
        generator,
    )
    if layer in followed.feeding:
        matrix = torch.cat((matrix, -matrix))
    if fed is not None:
        whole = torch.zeros(rows, columns, dtype=torch.float64)
        whole[:, fed.first] = matrix
        whole[:, fed.second] = fed.mirror * matrix
        matrix = whole
    return centred(layer, matrix)
