"""The deep network of n-layer shortcuts whose Hessian at the zero point is known exactly."""

from itertools import pairwise

from torch import nn

from gradscope.nets.blocks import Residual
from gradscope.nets.initialisation import initialise
from gradscope.nets.network import Network, chain
from gradscope.nets.options import choice, whole

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def linear_shortcut(
    layers: int,
    *,
    shortcut_length: int,
    width: int = 10,
    inner_width: int | None = None,
    bias: bool = False,
    kernel_size: int | None = None,
    pre_activation: str = "none",
    mid_activation: str = "none",
    post_activation: str = "none",
) -> Network:
    """f(x) = (I + W^{L,n} ... W^{L,1}) ... (I + W^{1,n} ... W^{1,1}) x, L blocks of n layers.

    With activations a block is x <- post(x + W^n mid(... mid(W^1 pre(x)))). `gradscope.theory` has the Hessian at zero
    weights for n >= 2 and for the linear n = 1, and at small weights (`initialise(network, "small", scale=1e-2)`) too.

    Args:
        layers: Linear layers in all, n L.
        shortcut_length: n, the layers that a shortcut jumps over. 0 leaves out the shortcuts, so that f is
            the product of `layers` matrices, with `mid_activation` between them.
        width: d, numbers in and out of every block; channels with `kernel_size`.
        inner_width: h, units between the layers of a block: W^{l,1} is h x d, W^{l,n} is d x h. None for
            `width`; it needs `shortcut_length` of at least 2.
        bias: Whether layers have biases, which start at zero. At the zero point they make the Hessian singular and its
            largest eigenvalue grow with depth.
        kernel_size: None for fully connected layers; an odd number k for k x k convolutions of images, stride 1,
            padded with zeros.
        pre_activation: What a branch makes of its input first: `none`, `relu`, `tanh` or `gelu`.
        mid_activation: What stands between the layers, of the same kinds.
        post_activation: What follows the addition: `none` or `relu`.

    Returns:
        The network, weights drawn N(0, 2 / fan_in) from torch's global generator; `initialise` has the
        zero point (`zero`), `small` and others. [N, width] to [N, width], or [N, width, H, W] to the same. Stem and
        head are empty.

    Raises:
        ValueError: `layers` is no multiple of `shortcut_length`, or an option is out of range or without a place.

    Source:
        Li et al. (2016), Demystifying ResNet, arXiv:1611.01186.
    """
    whole("layers", layers, least=1)
    whole("shortcut_length", shortcut_length, least=0)
    whole("width", width, least=1)
    if inner_width is not None:
        whole("inner_width", inner_width, least=1)
        if shortcut_length < 2:
            raise ValueError(
                f"inner_width is the width between the layers of a block; shortcut_length={shortcut_length} "
                "leaves nothing between. Leave inner_width out, or take shortcut_length >= 2."
            )
    if kernel_size is not None:
        whole("kernel_size", kernel_size, least=1)
        if kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size is odd, so that padding keeps the image's size; got {kernel_size}."
            )
    choice("pre_activation", pre_activation, ("none", *_ACTIVATIONS))
    choice("mid_activation", mid_activation, ("none", *_ACTIVATIONS))
    choice("post_activation", post_activation, ("none", "relu"))
    if shortcut_length == 0 and (pre_activation, post_activation) != ("none", "none"):
        raise ValueError(
            "shortcut_length=0 has no blocks for pre_activation and post_activation to stand in. Use mid_activation, "
            "which stands between the layers."
        )
    if shortcut_length == 1 and mid_activation != "none":
        raise ValueError(
            "mid_activation stands between the layers of a block, and shortcut_length=1 leaves nothing between. Use "
            "pre_activation or post_activation."
        )

    def layer(before: int, after: int) -> nn.Module:
        if kernel_size is None:
            return nn.Linear(before, after, bias=bias)
        return nn.Conv2d(before, after, kernel_size, padding=kernel_size // 2, bias=bias)

    if shortcut_length == 0:
        blocks: list[nn.Module] = [layer(width, width) for _ in range(layers)]
        if mid_activation != "none":
            blocks[1:] = [
                chain(activation=_ACTIVATIONS[mid_activation](), layer=after) for after in blocks[1:]
            ]
        return initialise(Network(nn.Identity(), blocks, nn.Identity()), "he")
    if layers % shortcut_length:
        lower = layers // shortcut_length * shortcut_length
        raise ValueError(
            f"Blocks of {shortcut_length} layers do not fill {layers} layers. Take layers="
            f"{f'{lower} or ' if lower else ''}{lower + shortcut_length}."
        )
    widths = [width] + [inner_width or width] * (shortcut_length - 1) + [width]

    def block() -> Residual:
        branch = _activation(pre_activation)
        for position, (before, after) in enumerate(pairwise(widths)):
            branch += [*(_activation(mid_activation) if position else ()), layer(before, after)]
        after_sum = nn.ReLU() if post_activation == "relu" else None
        return Residual(nn.Sequential(*branch), nn.Identity(), after=after_sum)

    blocks = [block() for _ in range(layers // shortcut_length)]
    return initialise(Network(nn.Identity(), blocks, nn.Identity()), "he")


def _activation(activation: str) -> list[nn.Module]:
    return [] if activation == "none" else [_ACTIVATIONS[activation]()]
