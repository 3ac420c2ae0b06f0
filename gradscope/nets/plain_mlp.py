"""A fully connected network without shortcuts, whose gradients shatter with depth."""

from torch import nn

from gradscope.nets.initialisation import initialise
from gradscope.nets.layers import activation_of, normalisation
from gradscope.nets.network import Network, chain
from gradscope.nets.options import whole


def plain_mlp(
    depth: int,
    *,
    width: int = 256,
    inputs: int | None = None,
    outputs: int = 10,
    normalise: str = "none",
    activation: str = "relu",
    bias: bool = False,
) -> Network:
    """`depth` hidden layers a_l = phi(N(W_l a_{l-1})), then a linear readout.

    Args:
        depth: L, the number of hidden layers; each is one element of `blocks`.
        width: Units of a hidden layer. `crelu` makes two features of each.
        inputs: Numbers in one example; None for `width`. Images are flattened.
        outputs: Numbers that come out.
        normalise: N. `none`; `mean`, the batch mean subtracted as a constant (`Centre`); or `batch`, batch
            normalisation without scale and shift. With `mean` and `relu` the gradient correlation of two
            inputs is 2^-L.
        activation: phi. `relu`, `prelu` (one slope a layer, 0.25), `crelu` (relu(x), relu(-x)) or `linear`.
        bias: Whether the linear layers have biases; they start at zero.

    Returns:
        The network, [N, inputs] to [N, outputs]; weights drawn N(0, 2 / fan_in) from torch's global
        generator.

    Raises:
        ValueError: An option out of range.

    Source:
        Balduzzi et al. (2017), The Shattered Gradients Problem, arXiv:1702.08591, Theorem 1; the
        initialisation is He et al. (2015), arXiv:1502.01852.
    """
    inputs = width if inputs is None else inputs
    for option, value in {"depth": depth, "width": width, "inputs": inputs, "outputs": outputs}.items():
        whole(option, value, least=1)
    blocks = []
    features = inputs
    for _ in range(depth):
        linear = nn.Linear(features, width, bias=bias)
        phi, features = activation_of(activation, width)
        blocks.append(chain(linear=linear, normalise=normalisation(normalise, width), activation=phi))
    head = nn.Linear(features, outputs, bias=bias)
    return initialise(Network(nn.Identity(), blocks, head, flatten=True), "he")
