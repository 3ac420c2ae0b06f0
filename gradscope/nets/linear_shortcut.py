"""The deep linear network whose Hessian at the zero point is known exactly."""

from itertools import pairwise

from torch import nn

from gradscope.nets.blocks import Residual
from gradscope.nets.initialisation import initialise
from gradscope.nets.network import Network
from gradscope.nets.options import whole


def linear_shortcut(
    layers: int, *, shortcut_length: int, width: int = 10, inner_width: int | None = None
) -> Network:
    """f(x) = (I + W^{L,n} ... W^{L,1}) ... (I + W^{1,n} ... W^{1,1}) x, without biases.

    Args:
        layers: Linear layers in all, n L.
        shortcut_length: n, the layers that a shortcut jumps over. 0 leaves out the shortcuts, so that f is
            the product of `layers` matrices.
        width: d, numbers in and out of every block.
        inner_width: h, units between the layers of a block: W^{l,1} is h x d, W^{l,n} is d x h. None for
            `width`; it needs `shortcut_length` of at least 2.

    Returns:
        The network, weights drawn N(0, 2 / fan_in) from torch's global generator; `initialise` has the
        zero point (`zero`) and others. [N, width] to [N, width]. Stem and head are empty.

    Raises:
        ValueError: `layers` is no multiple of `shortcut_length`, or an option is out of range.

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
    if shortcut_length == 0:
        return initialise(Network(nn.Identity(), _layers([width] * (layers + 1)), nn.Identity()), "he")
    if layers % shortcut_length:
        lower = layers // shortcut_length * shortcut_length
        raise ValueError(
            f"Blocks of {shortcut_length} layers do not fill {layers} layers. Take layers="
            f"{f'{lower} or ' if lower else ''}{lower + shortcut_length}."
        )
    widths = [width] + [inner_width or width] * (shortcut_length - 1) + [width]
    blocks = [
        Residual(nn.Sequential(*_layers(widths)), nn.Identity()) for _ in range(layers // shortcut_length)
    ]
    return initialise(Network(nn.Identity(), blocks, nn.Identity()), "he")


def _layers(widths: list[int]) -> list[nn.Linear]:
    return [nn.Linear(before, after, bias=False) for before, after in pairwise(widths)]
