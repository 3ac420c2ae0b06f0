"""A fully connected residual network, as in the theory of shattered gradients."""

from torch import nn

from gradscope.nets.blocks import Residual
from gradscope.nets.initialisation import initialise
from gradscope.nets.layers import activation_of, normalisation
from gradscope.nets.network import Network, chain
from gradscope.nets.options import choice, whole


def residual_mlp(
    depth: int,
    *,
    width: int = 256,
    inputs: int | None = None,
    outputs: int = 10,
    alpha: float = 1.0,
    beta: float = 1.0,
    branch_layers: int = 1,
    normalise: str = "none",
    activation: str = "relu",
    bias: bool = False,
) -> Network:
    """`depth` blocks x <- alpha (x + beta F(x)), then a linear readout.

    F(x) = W phi(N(x)) with one layer a branch, F(x) = W phi(N(V x)) with two.

    Args:
        depth: L, the number of blocks.
        width: Units of the residual stream, and inside a branch.
        inputs: Numbers in one example; None for `width`. A linear stem maps them to the stream if they differ
            from `width`; otherwise there is no stem. Images are flattened.
        outputs: Numbers that come out.
        alpha: Scale of a whole block.
        beta: Scale of a branch.
        branch_layers: 1 or 2. Theorem 2 (gradient variance 2^L, correlation (3/4)^L with `normalise="mean"`)
            counts one He factor a branch, hence one layer. Two He layers give 3^L and (2/3)^L.
        normalise: N, as in `plain_mlp`: `none`, `mean` or `batch`.
        activation: phi: `relu`, `prelu`, `crelu` or `linear`.
        bias: Whether the linear layers have biases; they start at zero.

    Returns:
        The network, [N, inputs] to [N, outputs]; weights drawn N(0, 2 / fan_in) from torch's global
        generator.

    Raises:
        ValueError: An option out of range.

    Source:
        Balduzzi et al. (2017), The Shattered Gradients Problem, arXiv:1702.08591, eq. 2, Theorems 2 and 3.
    """
    inputs = width if inputs is None else inputs
    for option, value in {"depth": depth, "width": width, "inputs": inputs, "outputs": outputs}.items():
        whole(option, value, least=1)
    choice("branch_layers", str(branch_layers), ("1", "2"))

    def branch() -> nn.Sequential:
        phi, features = activation_of(activation, width)
        return chain(
            linear_in=nn.Linear(width, width, bias=bias) if branch_layers == 2 else None,
            normalise=normalisation(normalise, width),
            activation=phi,
            linear=nn.Linear(features, width, bias=bias),
        )

    stem = nn.Identity() if inputs == width else nn.Linear(inputs, width, bias=bias)
    blocks = [Residual(branch(), nn.Identity(), alpha=alpha, beta=beta) for _ in range(depth)]
    head = nn.Linear(width, outputs, bias=bias)
    return initialise(Network(stem, blocks, head, flatten=True), "he")
