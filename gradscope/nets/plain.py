"""The plain twin of the residual network: the same layers, no shortcuts."""

from gradscope.nets.network import Network
from gradscope.nets.resnet import resnet


def plain(
    depth: int = 20,
    *,
    channels: int = 3,
    classes: int = 10,
    width: int = 16,
    activation: str = "pre",
    normalise: str = "batch",
) -> Network:
    """`resnet(..., shortcut="none")`: x <- F(x) in every block, under the names that `resnet` uses.

    Args:
        depth: Layers with weights, 6n + 2, as in `resnet`.
        channels: Channels of the images.
        classes: Numbers that come out.
        width: Channels of the first stage.
        activation: `pre` or `post`, as in `resnet`.
        normalise: `batch` or `none`, as in `resnet`.

    Returns:
        The network: [N, channels, H, W] to [N, classes]; H and W of at least 4.

    Raises:
        ValueError: A depth that is not 6n + 2, or another option out of range.

    Source:
        The "plain" networks of He et al. (2015), arXiv:1512.03385, section 4.2.
    """
    return resnet(
        depth,
        channels=channels,
        classes=classes,
        width=width,
        activation=activation,
        shortcut="none",
        normalise=normalise,
    )
