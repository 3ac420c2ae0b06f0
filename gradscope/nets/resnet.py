"""The residual network of He et al. for CIFAR, which also runs on smaller images."""

from torch import nn

from gradscope.nets.blocks import Residual, SubsampleAndPad, together
from gradscope.nets.initialisation import initialise
from gradscope.nets.network import Network, chain
from gradscope.nets.options import choice, whole


def resnet(
    depth: int = 20,
    *,
    channels: int = 3,
    classes: int = 10,
    width: int = 16,
    activation: str = "pre",
    shortcut: str = "projection",
    beta: float = 1.0,
    branches: int = 1,
    normalise: str = "batch",
) -> Network:
    """A 3x3 convolution, three stages of n blocks of two 3x3 convolutions, average pooling, a linear readout.

    A block is x <- S(x) + beta F(x) (`pre`) or x <- relu(S(x) + beta F(x)) (`post`), F the sum of `branches`
    residual functions of two convolutions each. The stages have `width`,
    2 `width` and 4 `width` channels; the second and third begin with stride 2.

    Args:
        depth: Layers with weights along the longest path, 6n + 2: 8, 14, 20, ..., 110. `blocks` has 3n.
        channels: Channels of the images.
        classes: Numbers that come out.
        width: Channels of the first stage.
        activation: `pre`, F = conv relu BN conv relu BN (read from the right; He et al. 2016), or `post`,
            F = BN conv relu BN conv (He et al. 2015).
        shortcut: S in the two blocks that change shape. `projection`, a 1x1 convolution: of the BN-ReLU that
            the branch reads too (`pre`), or followed by BN (`post`). `padding`, subsampling and zero
            channels, without parameters. `none` leaves out all shortcuts, those of other blocks too.
        beta: Scale of the branches.
        branches: Residual functions a block; 2 or more make a multi-residual network, of (1 + branches)^3n paths.
        normalise: `batch`, batch normalisation (BN) as above, and convolutions without biases. `none` leaves out all
            BN; 3x3 convolutions then have biases, which start at zero, in place of its shifts, as in networks from
            before it. 1x1 projections have none, for it would add to the branch's: a direction without curvature.
            With He weights activations then grow by about sqrt 2 at every sum, for nothing holds them back.

    Returns:
        The network, weights drawn N(0, 2 / fan_in) from torch's global generator. [N, channels, H, W] to
        [N, classes]; H and W of at least 4.

    Raises:
        ValueError: A depth that is not 6n + 2, or another option out of range.

    Source:
        He et al. (2015), arXiv:1512.03385, section 4.2; He et al. (2016), arXiv:1603.05027; Abdi & Nahavandi (2016),
        arXiv:1609.05672, for several branches.
    """
    whole("depth", depth, least=1)
    if depth < 8 or depth % 6 != 2:
        lower = max(8, (depth - 2) // 6 * 6 + 2)
        near = f"{lower} or {lower + 6}" if depth > 8 else "8"
        raise ValueError(
            f"The depth of this network is 6n + 2 with n >= 1 blocks a stage; got {depth}. Take {near}."
        )
    for option, value in {
        "channels": channels,
        "classes": classes,
        "width": width,
        "branches": branches,
    }.items():
        whole(option, value, least=1)
    choice("activation", activation, ("pre", "post"))
    choice("shortcut", shortcut, ("projection", "padding", "none"))
    choice("normalise", normalise, ("batch", "none"))
    norm = normalise == "batch"

    blocks, before = [], width
    for stage in range(3):
        after = width * 2**stage
        for position in range((depth - 2) // 6):
            stride = 2 if stage > 0 and position == 0 else 1
            block = _pre_activation if activation == "pre" else _post_activation
            blocks.append(block(before, after, stride, shortcut, beta, branches, norm))
            before = after
    stem, last = _conv(channels, width, bias=not norm), nn.Linear(before, classes)
    pool = chain(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=last)
    if activation == "post":
        stem = chain(conv=stem, norm=_norm(width, norm), relu=nn.ReLU())
        return initialise(Network(stem, blocks, pool), "he")
    return initialise(
        Network(stem, blocks, chain(norm=_norm(before, norm), relu=nn.ReLU(), **_named(pool))), "he"
    )


def _conv(before: int, after: int, stride: int = 1, size: int = 3, *, bias: bool = False) -> nn.Module:
    return nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=bias)


def _norm(channels: int, present: bool) -> nn.Module | None:
    return nn.BatchNorm2d(channels) if present else None


def _named(modules: nn.Sequential) -> dict[str, nn.Module]:
    return dict(modules.named_children())


def _pre_activation(
    before: int, after: int, stride: int, shortcut: str, beta: float, branches: int, norm: bool
) -> Residual:
    def shared() -> nn.Sequential:
        return chain(norm1=_norm(before, norm), relu1=nn.ReLU())

    def rest() -> nn.Sequential:
        return chain(
            conv1=_conv(before, after, stride, bias=not norm),
            norm2=_norm(after, norm),
            relu2=nn.ReLU(),
            conv2=_conv(after, after, bias=not norm),
        )

    if before != after and shortcut == "projection":
        functions = [rest() for _ in range(branches)]
        return Residual(together(functions), _conv(before, after, stride, size=1), beta=beta, before=shared())
    return Residual(
        together([chain(**_named(shared()), **_named(rest())) for _ in range(branches)]),
        _without_parameters(before, after, stride, shortcut),
        beta=beta,
    )


def _post_activation(
    before: int, after: int, stride: int, shortcut: str, beta: float, branches: int, norm: bool
) -> Residual:
    functions = [
        chain(
            conv1=_conv(before, after, stride, bias=not norm),
            norm1=_norm(after, norm),
            relu1=nn.ReLU(),
            conv2=_conv(after, after, bias=not norm),
            norm2=_norm(after, norm),
        )
        for _ in range(branches)
    ]
    skip = _without_parameters(before, after, stride, shortcut)
    if before != after and shortcut == "projection":
        skip = chain(conv=_conv(before, after, stride, size=1), norm=_norm(after, norm))
    return Residual(together(functions), skip, beta=beta, after=nn.ReLU())


def _without_parameters(before: int, after: int, stride: int, shortcut: str) -> nn.Module | None:
    if shortcut == "none":
        return None
    return nn.Identity() if before == after else SubsampleAndPad(after - before, stride)
