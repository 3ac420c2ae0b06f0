"""Every initialisation by its name."""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradscope.nets.initialisation.branches import Branches, branch_layers, head_behind, last_norms_of
from gradscope.nets.initialisation.coverage import drawable_layers, refuse_uncovered
from gradscope.nets.initialisation.linearity import refuse_nonlinear
from gradscope.nets.initialisation.looks_linear import draw, planned
from gradscope.nets.initialisation.undisturbed import placed
from gradscope.nets.initialisation.weights import (
    Layer,
    delta_orthogonal,
    fans,
    gaussian,
    he_deviation,
    orthogonal,
    refuse_without_centre,
)
from gradscope.nets.options import choice

LOOKS_LINEAR = ("looks_linear", "looks_linear_relu")
SCHEMES = (
    *("he", "xavier", "orthogonal", "delta_orthogonal", "zero", "small", "zero_gamma", "fixup"),
    *LOOKS_LINEAR,
)
WITH_GAIN = ("he", "xavier", "orthogonal", "delta_orthogonal", *LOOKS_LINEAR)
Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def initialise(
    model: Model,
    scheme: str,
    *,
    seed: int | None = None,
    gain: float | None = None,
    scale: float | None = None,
    inputs: Tensor | None = None,
    branches: Branches | None = None,
    last_norms: str | Sequence[str] | None = None,
    untouched: str | Sequence[str] = (),
) -> Model:
    """Draw the weights of the linear and convolutional layers anew, in place.

    The `Conv1D` of transformers, which keeps [in, out], is a linear layer (not for `fixup` and both `looks_linear`).
    Embeddings stay as they are, and so does a layer that shares its weight with one.

    Under every scheme biases become 0, normalisation scales 1 and shifts 0, and running statistics those of
    a fresh network. Draws are made on the CPU in float64, so that a seed means the same on every device. dtypes,
    devices, `requires_grad` and hooks stay.

    Args:
        model: The network.
        scheme: With n_in and n_out a layer's fan-in and fan-out,
            `he`: N(0, gain^2 / n_in), gain sqrt(2) (He et al. 2015, arXiv:1502.01852);
            `xavier`: N(0, 2 gain^2 / (n_in + n_out)), gain 1 (Glorot and Bengio 2010);
            `orthogonal`: gain times a matrix with orthonormal rows or columns, gain 1 (Saxe et al. 2013,
            arXiv:1312.6120); a kernel counts as the matrix [n_out channels, n_in];
            `delta_orthogonal`: such a matrix at the centre of a kernel, zeros around it (Xiao et al. 2018,
            arXiv:1806.05393), of each group by itself; at stride 1 and with as much padding as keeps the size, a
            convolution with as many outputs as inputs preserves norms. Linear layers as `orthogonal`;
            `zero`: 0;
            `small`: N(0, scale^2), the same for all layers;
            `zero_gamma`: as `he`, then 0 for the scale of the normalisation that ends each residual
            branch, so that every block starts as its shortcut (Goyal et al. 2017, arXiv:1706.02677);
            `fixup`: as `he`, then the last layer of each residual branch 0, its others times L^(-1/(2m - 2)) for L
            branches of m layers, and the last linear layer behind all branches 0 (Zhang et al. 2019,
            arXiv:1901.09321; the scalar biases and multipliers of that paper are no matter of initialisation);
            `looks_linear`: [W, -W] for a layer fed by CReLU, W as in `delta_orthogonal` for others, slope 1 for every
            PReLU: the network starts as a linear map (Balduzzi et al. 2017, arXiv:1702.08591). For a CReLU
            (relu(x), relu(-x)) it is W relu(x) - W relu(-x) = W x; for (relu(x), -relu(-x)) the weight is [W, W].
            A pre-activation of exactly 0 (a blank pixel, a padded border) hands back no gradient all the same;
            `looks_linear_relu`: the same for plain ReLU: hidden layers [[W, -W], [-W, W]], the first [W; -W], the last
            [W, -W], of half the units (Burkholz and Dubatovka 2019, arXiv:1806.06362).
        seed: Fixes the draws; None takes torch's global generator.
        gain: For `he`, `xavier`, `orthogonal`, `delta_orthogonal` and both `looks_linear`.
        scale: For `small`, which needs it.
        inputs: For both `looks_linear`, a few examples [N, ...]: which layers are fed by rectifiers is then seen on a
            forward pass (through pooling, flattening and normalisation, whatever the modules are called), and the
            result is checked by `looks_linear_deviation`. Without, it goes by the order in which modules are
            registered, unchecked.
        branches: For `fixup` of a network without blocks[*].branch: a module's name for each residual branch, or
            the list of its layers' names.
        last_norms: For `zero_gamma` of a network without blocks[*].branch: names of the last normalisation of every
            branch, or patterns such as `layer*.bn2`.
        untouched: Names of parameters, or patterns, that no scheme has a rule for (attention's joint projection,
            recurrent layers, learned positions) and that may stay as they are; "*" for all.

    Returns:
        `model` itself.

    Raises:
        ValueError: An unknown scheme, or an option that the scheme has no use for; `small` without `scale`; a gain or
            scale that is no finite number of at least 0; parameters of two dimensions or more that nothing is said
            about; a network without linear and convolutional layers, for `zero_gamma` and `fixup` without residual
            branches, for `looks_linear` without rectifiers; kernels of even size where a centre is needed; grouped
            convolutions fed by a rectifier; with `inputs`, a network that is not linear in the end, which names what
            breaks it. The network is then as it was.

    Warns:
        UserWarning: A layer stays as it is, since its weight is an embedding's.
    """
    choice("scheme", scheme, SCHEMES)
    _refuse_useless(scheme, gain, scale, inputs, branches, last_norms)
    follows = scheme in (*LOOKS_LINEAR, "fixup")
    layers, transposed = drawable_layers(model, transposed=not follows)
    refuse_uncovered(model, scheme, [*layers.values(), *transposed.values()], untouched)
    norms = last_norms_of(model, last_norms) if scheme == "zero_gamma" else []
    parts = branch_layers(model, branches) if scheme == "fixup" else []
    if scheme in (*LOOKS_LINEAR, "delta_orthogonal"):
        refuse_without_centre(layers)
    if scheme in LOOKS_LINEAR:
        examples = None if inputs is None else placed(model, inputs)
        followed, slopes = planned(model, layers, examples, doubled=scheme == "looks_linear_relu")
    generator = torch.default_generator if seed is None else torch.Generator().manual_seed(seed)
    drawn: dict[str, Tensor] = {}
    for name, layer in layers.items():
        if scheme in LOOKS_LINEAR:
            drawn[name] = draw(layer, followed, 1.0 if gain is None else gain, generator)
        elif scheme == "delta_orthogonal":
            drawn[name] = delta_orthogonal(layer, 1.0 if gain is None else gain, generator)
        elif scheme == "orthogonal":
            drawn[name] = (1.0 if gain is None else gain) * orthogonal(layer.weight.shape, generator)
        else:
            drawn[name] = gaussian(layer, _deviation(layer, scheme, gain, scale), generator)

    tensors = [] if inputs is None else [*model.parameters(), *model.buffers()]
    before = [tensor.clone() for tensor in tensors]
    for module in model.modules():
        if isinstance(module, _BatchNorm | nn.GroupNorm | nn.LayerNorm):
            module.reset_parameters()
    for name in layers:
        module = model.get_submodule(name)
        if isinstance(module.bias, Tensor):
            module.bias.zero_()
        module.get_parameter("weight").copy_(drawn[name].T if name in transposed else drawn[name])
    for norm in norms:
        norm.weight.zero_()
    if scheme == "fixup":
        _fix_up(model, parts)
    if scheme in LOOKS_LINEAR:
        for slope in slopes:
            slope.fill_(1.0)
        if inputs is not None:
            try:
                refuse_nonlinear(model, layers, inputs, scheme)
            except BaseException:
                for tensor, value in zip(tensors, before, strict=True):
                    tensor.copy_(value)
                raise
    return model


def _refuse_useless(
    scheme: str, gain: float | None, scale: float | None, inputs: object, branches: object, last_norms: object
) -> None:
    for option, number in (("gain", gain), ("scale", scale)):
        if number is not None and not 0 <= number < math.inf:
            raise ValueError(f"{option} is a finite number of at least 0, got {number!r}.")
    if gain is not None and scheme not in WITH_GAIN:
        raise ValueError(
            "gain is for he, xavier and orthogonal weights, delta_orthogonal and looks_linear ones among them, not for "
            f"{scheme!r}. Leave it out."
        )
    if (scale is not None) != (scheme == "small"):
        raise ValueError(f"'small' needs a scale, and no other scheme has one; got {scale} for {scheme!r}.")
    for option, given, users in (
        ("inputs", inputs, LOOKS_LINEAR),
        ("branches", branches, ("fixup",)),
        ("last_norms", last_norms, ("zero_gamma",)),
    ):
        if given is not None and scheme not in users:
            raise ValueError(f"{option} is for {' and '.join(users)}, not for {scheme!r}. Leave it out.")


def _deviation(layer: Layer, scheme: str, gain: float | None, scale: float | None) -> float:
    """Standard deviation of the layer's weights."""
    if scheme == "small" and scale is not None:
        return scale
    if scheme == "zero":
        return 0.0
    if scheme == "xavier":
        return (1.0 if gain is None else gain) * math.sqrt(2 / sum(fans(layer)))
    return he_deviation(layer, gain)


def _fix_up(model: nn.Module, branches: list[list[Layer]]) -> None:
    for layers in branches:
        for layer in layers[:-1]:
            layer.weight.mul_(len(branches) ** (-1 / (2 * len(layers) - 2)))
        layers[-1].weight.zero_()
    head = head_behind(model, branches)
    if head is not None:
        head.weight.zero_()
