"""Where training starts: the initialisations that the literature compares."""

import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradscope.nets.blocks import Parallel
from gradscope.nets.layers import CReLU
from gradscope.nets.options import choice

SCHEMES = ("he", "xavier", "orthogonal", "zero", "small", "zero_gamma", "looks_linear")
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
Model = TypeVar("Model", bound=nn.Module)
Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


@torch.no_grad()
def initialise(
    model: Model,
    scheme: str,
    *,
    seed: int | None = None,
    gain: float | None = None,
    scale: float | None = None,
) -> Model:
    """Draw the weights of the linear and convolutional layers anew, in place.

    Under every scheme biases become 0, normalisation scales 1 and shifts 0, and running statistics those of
    a fresh network. Draws are made on the CPU in float64, so that a seed means the same on every device.

    Args:
        model: The network.
        scheme: With n_in and n_out a layer's fan-in and fan-out,
            `he`: N(0, gain^2 / n_in), gain sqrt(2) (He et al. 2015, arXiv:1502.01852);
            `xavier`: N(0, 2 gain^2 / (n_in + n_out)), gain 1 (Glorot and Bengio 2010);
            `orthogonal`: gain times a matrix with orthonormal rows or columns, gain 1 (Saxe et al. 2013,
            arXiv:1312.6120); a kernel counts as the matrix [n_out channels, n_in];
            `zero`: 0;
            `small`: N(0, scale^2), the same for all layers;
            `zero_gamma`: as `he`, then 0 for the scale of the batch normalisation that ends each residual
            branch, so that every block starts as its shortcut (Goyal et al. 2017, arXiv:1706.02677);
            `looks_linear`: [W, -W] for a layer fed by CReLU and W for others, W orthogonal and, in a kernel,
            at its centre (Balduzzi et al. 2017, arXiv:1702.08591). CReLU is (relu(x), relu(-x)) here, thus
            W relu(x) - W relu(-x) = W x.
        seed: Fixes the draws; None takes torch's global generator.
        gain: For `he`, `xavier` and `orthogonal`.
        scale: For `small`, which needs it.

    Returns:
        `model` itself.

    Raises:
        ValueError: An unknown scheme; a `gain` or `scale` that the scheme has no use for; `small` without
            `scale`; a network without linear and convolutional layers, for `zero_gamma` without residual
            branches that end in batch normalisation, for `looks_linear` without CReLU.
    """
    choice("scheme", scheme, SCHEMES)
    if gain is not None and scheme not in ("he", "xavier", "orthogonal"):
        raise ValueError(f"gain is for he, xavier and orthogonal, not for {scheme!r}. Leave it out.")
    if (scale is not None) != (scheme == "small"):
        raise ValueError(f"'small' needs a scale, and no other scheme has one; got {scale} for {scheme!r}.")
    layers = [module for module in model.modules() if isinstance(module, WEIGHTED)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear and no convolutional layer to initialise.")
    last_norms = list(_last_norms(model)) if scheme == "zero_gamma" else []
    fed_by_crelu = _fed_by_crelu(model) if scheme == "looks_linear" else set()
    generator = torch.default_generator if seed is None else torch.Generator().manual_seed(seed)

    for module in model.modules():
        if isinstance(module, _BatchNorm | nn.GroupNorm | nn.LayerNorm):
            module.reset_parameters()
    for layer in layers:
        if layer.bias is not None:
            layer.bias.zero_()
        if scheme == "looks_linear":
            drawn = _looks_linear(layer, layer in fed_by_crelu, generator)
        elif scheme == "orthogonal":
            drawn = (1.0 if gain is None else gain) * _orthogonal(layer.weight.shape, generator)
        else:
            shape = layer.weight.shape
            drawn = torch.randn(shape, dtype=torch.float64, device="cpu", generator=generator)
            drawn *= _deviation(layer, scheme, gain, scale)
        layer.weight.copy_(drawn)
    for norm in last_norms:
        norm.weight.zero_()
    return model


def _deviation(layer: Layer, scheme: str, gain: float | None, scale: float | None) -> float:
    """Standard deviation of the layer's weights."""
    fan_in, fan_out = _fans(layer)
    if scheme == "small" and scale is not None:
        return scale
    if scheme == "zero":
        return 0.0
    if scheme == "xavier":
        return (1.0 if gain is None else gain) * math.sqrt(2 / (fan_in + fan_out))
    return (math.sqrt(2) if gain is None else gain) / math.sqrt(fan_in)


def _fans(layer: Layer) -> tuple[int, int]:
    """Numbers that feed one output of the layer, and numbers that one input feeds."""
    taps = layer.weight[0, 0].numel()
    return layer.weight.shape[1] * taps, layer.weight.shape[0] * taps


def _orthogonal(shape: Sequence[int], generator: Generator) -> Tensor:
    return nn.init.orthogonal_(torch.empty(shape, dtype=torch.float64, device="cpu"), generator=generator)


def _looks_linear(layer: Layer, fed_by_crelu: bool, generator: Generator) -> Tensor:
    weight = torch.zeros(layer.weight.shape, dtype=torch.float64, device="cpu")
    rows, columns = weight.shape[:2]
    matrix = _orthogonal((rows, columns // 2 if fed_by_crelu else columns), generator)
    centre = weight
    for size in weight.shape[2:]:
        centre = centre[:, :, size // 2]
    centre.copy_(torch.cat((matrix, -matrix), dim=1) if fed_by_crelu else matrix)
    return weight


def _fed_by_crelu(model: nn.Module) -> set[nn.Module]:
    """Layers that come next after a CReLU, in the order in which the modules are registered."""
    found: set[nn.Module] = set()
    doubled = False
    for module in model.modules():
        if isinstance(module, CReLU):
            doubled = True
        elif isinstance(module, WEIGHTED):
            if doubled:
                found.add(module)
            doubled = False
    if not found:
        raise ValueError(
            f"looks_linear needs layers fed by CReLU, and {type(model).__name__} has none. "
            "Build the network with activation='crelu'."
        )
    return found


def _last_norms(model: nn.Module) -> Iterator[_BatchNorm]:
    """The batch normalisation that ends each residual branch."""
    blocks = [block for block in getattr(model, "blocks", ()) if getattr(block, "shortcut", None) is not None]
    if not blocks:
        raise ValueError("zero_gamma is for residual networks, with blocks[*].branch and blocks[*].shortcut.")
    for function in (f for b in blocks for f in (b.branch if isinstance(b.branch, Parallel) else [b.branch])):
        last = list(function.modules())[-1]
        # A zero scale before a ReLU would be for ever: neither it nor the layer behind would get a gradient.
        if not isinstance(last, _BatchNorm) or not last.affine:
            raise ValueError(
                "zero_gamma needs residual branches that end in batch normalisation with a scale; this one "
                f"ends in {type(last).__name__}. Build the network with activation='post'."
            )
        yield last
