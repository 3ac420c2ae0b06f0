"""What weights are drawn as: Gaussian, orthogonal, and orthogonal at the centre of a kernel."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def weighted_layers(model: nn.Module, *, needed: bool = True) -> dict[str, Layer]:
    """The linear and convolutional layers by name, in the order of registration.

    Raises:
        ValueError: There is none, though `needed`; or one whose weight is no plain parameter, so that it cannot be
            written to.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, WEIGHTED)}
    if needed and not layers:
        raise ValueError(f"{type(model).__name__} has no linear and no convolutional layer to initialise.")
    for name, layer in layers.items():
        weight = layer._parameters.get("weight")
        if weight is None:
            raise ValueError(
                f"The weight of {name!r} is computed from other parameters (as weight_norm does), so what is written "
                "to it would be lost. Initialise first, parametrise afterwards."
            )
        if isinstance(weight, nn.parameter.UninitializedParameter):
            raise ValueError(
                f"{name!r} does not know its size yet. Run the network once on an example first."
            )
    return layers


def refuse_without_centre(layers: dict[str, Layer]) -> None:
    """Raise ValueError if a kernel has an even size, for then it has no centre to put a matrix at."""
    for name, layer in layers.items():
        if any(size % 2 == 0 for size in layer.weight.shape[2:]):
            raise ValueError(
                f"The kernel of {name!r} is {'x'.join(map(str, layer.weight.shape[2:]))}, and an even one has no "
                "centre to put an orthogonal matrix at. Take odd kernels, or another scheme."
            )


def fans(layer: Layer) -> tuple[int, int]:
    """Numbers that feed one output of the layer; and its outputs times the kernel's size.

    The latter is how many numbers one input feeds, but for convolutions in groups, where `torch.nn.init` counts the
    outputs of all groups, and so is followed here.
    """
    taps = layer.weight[0, 0].numel()
    return layer.weight.shape[1] * taps, layer.weight.shape[0] * taps


def gaussian(layer: Layer, deviation: float, generator: Generator) -> Tensor:
    """Independent normal weights of the layer's shape, float64 on the CPU."""
    shape = layer.weight.shape
    return deviation * torch.randn(shape, dtype=torch.float64, device="cpu", generator=generator)


def he_deviation(layer: Layer, gain: float | None = None) -> float:
    """gain / sqrt(n_in), of gain sqrt(2) unless told otherwise. He et al. (2015), arXiv:1502.01852."""
    return (math.sqrt(2) if gain is None else gain) / math.sqrt(fans(layer)[0])


def orthogonal(shape: Sequence[int], generator: Generator) -> Tensor:
    """Orthonormal rows or columns, whichever are fewer; a kernel counts as the matrix [n_out channels, n_in]."""
    return nn.init.orthogonal_(torch.empty(shape, dtype=torch.float64, device="cpu"), generator=generator)


def centred(layer: Layer, matrix: Tensor) -> Tensor:
    """The layer's weight with `matrix` [n_out, n_in] at the centre of the kernel and zeros around it."""
    weight = torch.zeros(layer.weight.shape, dtype=torch.float64, device="cpu")
    centre = weight
    for size in weight.shape[2:]:
        centre = centre[:, :, size // 2]
    centre.copy_(matrix)
    return weight


def delta_orthogonal(layer: Layer, gain: float, generator: Generator) -> Tensor:
    """An orthogonal matrix at the centre of the kernel, one for each group of channels; for Linear, just that.

    Source:
        Xiao et al. (2018), Dynamical isometry and a mean field theory of CNNs, arXiv:1806.05393, algorithm 1.
    """
    groups = getattr(layer, "groups", 1)
    rows, columns = layer.weight.shape[:2]
    blocks = [orthogonal((rows // groups, columns), generator) for _ in range(groups)]
    return centred(layer, gain * torch.cat(blocks))
