"""A chain of convolutions of one width, without skips and normalisation: what looks-linear networks are tried on."""

from torch import nn

from gradscope.nets.initialisation import initialise
from gradscope.nets.layers import activation_of
from gradscope.nets.network import Network, chain
from gradscope.nets.options import whole


def plain_conv(
    depth: int = 20,
    *,
    width: int = 16,
    channels: int = 3,
    classes: int = 10,
    activation: str = "relu",
    pooled: int = 1,
    bias: bool = False,
) -> Network:
    """`depth` - 1 units phi(conv3x3(x)) of `width` channels and stride 1, average pooling, a linear readout.

    The first unit is the stem. There is no normalisation, no skip, and no pooling before the head, so that the
    image keeps its size.

    Args:
        depth: Layers with weights, at least 3, as in `vgg` and `resnet`. `blocks` has two fewer, one unit each.
        width: Channels of every convolution's output. `crelu` makes two features of each, so that a convolution
            it feeds has twice the weights.
        channels: Channels of the images.
        classes: Numbers that come out.
        activation: phi: `relu`, `prelu`, `crelu` (relu(x), relu(-x)) or `linear`.
        pooled: Side of the grid to which average pooling reduces the image before the readout. 1 averages over the
            whole image, which leaves a looks-linear network nothing but the mean of each channel at the start, since
            its convolutions look at one pixel each; more keeps where things are.
        bias: Whether the convolutions have biases; they start at zero. The readout always has one.

    Returns:
        The network, weights drawn N(0, 2 / fan_in) from torch's global generator: [N, channels, H, W] to
        [N, classes]. That scale keeps the variance with `relu` and `crelu`; with `linear` it doubles it at every
        layer, for which `initialise(network, "he", gain=1)` is the remedy.

    Raises:
        ValueError: An option out of range.

    Source:
        After the training experiments of Balduzzi et al. (2017), The Shattered Gradients Problem,
        arXiv:1702.08591, section 5: convolutional networks without skip connections, of up to about 200 layers.
    """
    whole("depth", depth, least=3)
    sizes = {"width": width, "channels": channels, "classes": classes, "pooled": pooled}
    for option, value in sizes.items():
        whole(option, value, least=1)
    units, features = [], channels
    for _ in range(depth - 1):
        convolution = nn.Conv2d(features, width, 3, padding=1, bias=bias)
        phi, features = activation_of(activation, width)
        units.append(chain(conv=convolution, activation=phi))
    readout = nn.Linear(features * pooled**2, classes)
    head = chain(pool=nn.AdaptiveAvgPool2d(pooled), flatten=nn.Flatten(), linear=readout)
    return initialise(Network(units[0], units[1:], head), "he")
