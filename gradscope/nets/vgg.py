"""The control of the lesion studies: a chain of convolutions, in which no layer can be spared."""

from torch import nn

from gradscope.nets.initialisation import initialise
from gradscope.nets.network import Network, chain
from gradscope.nets.options import whole


def vgg(depth: int = 15, *, channels: int = 3, classes: int = 10, width: int = 16) -> Network:
    """`depth` - 1 units relu(BN(conv3x3(x))) in three stages, average pooling, a linear readout.

    The stages have `width`, 2 `width` and 4 `width` channels, and units as evenly as they go, the earlier
    stages first. The first unit of the second and third stage begins with 2x2 max-pooling, which rounds up:
    a side of one pixel stays.

    Args:
        depth: Layers with weights, at least 4. `blocks` has one fewer, one unit each.
        channels: Channels of the images.
        classes: Numbers that come out.
        width: Channels of the first stage.

    Returns:
        The network, convolutions without biases, weights drawn N(0, 2 / fan_in) from torch's global
        generator: [N, channels, H, W] to [N, classes].

    Raises:
        ValueError: An option out of range.

    Source:
        After Simonyan and Zisserman (2014), arXiv:1409.1556; the 15 layers are those of the plain control of
        Veit et al. (2016), arXiv:1605.06431. The fully connected layers are replaced by average pooling.
    """
    whole("depth", depth, least=4)
    for option, value in {"channels": channels, "classes": classes, "width": width}.items():
        whole(option, value, least=1)
    units = depth - 1
    blocks, before = [], channels
    for stage in range(3):
        after = width * 2**stage
        for position in range(units // 3 + (stage < units % 3)):
            pools = stage > 0 and position == 0
            blocks.append(
                chain(
                    pool=nn.MaxPool2d(2, ceil_mode=True) if pools else None,
                    conv=nn.Conv2d(before, after, 3, padding=1, bias=False),
                    norm=nn.BatchNorm2d(after),
                    relu=nn.ReLU(),
                )
            )
            before = after
    head = chain(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=nn.Linear(before, classes))
    return initialise(Network(nn.Identity(), blocks, head), "he")
