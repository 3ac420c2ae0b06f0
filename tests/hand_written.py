"""Forwards of some networks written out by hand, with every branch and every skip open to change."""

from collections.abc import Callable

from networks import NETWORKS
from torch import Tensor, nn
from torch.nn import functional

# Place of the junction, number of its operand on that side, value -> what is added in its stead.
Change = Callable[[int, int, Tensor], Tensor]


def as_it_is(place: int, operand: int, value: Tensor) -> Tensor:
    return value


def post_activation(
    model: nn.Module, x: Tensor, branch: Change = as_it_is, skip: Change = as_it_is
) -> Tensor:
    state = model[0](x).relu()
    for place, block in enumerate(model[2:8]):
        value = block.bn2(block.conv2(block.bn1(block.conv1(state)).relu()))
        kept = state if block.down is None else block.down(state)
        state = (skip(place, 0, kept) + branch(place, 0, value)).relu()
    return model[8:](state)


def pre_activation(model: nn.Module, x: Tensor, branch: Change = as_it_is, skip: Change = as_it_is) -> Tensor:
    state = model[0](x).relu()
    for place, block in enumerate(model[2:8]):
        shared = block.norm(state).relu()
        kept = state if block.down is None else block.down(shared)
        state = skip(place, 0, kept) + branch(place, 0, block.branch(shared))
    return model[8:](state)


def pre_norm(model: nn.Module, x: Tensor, branch: Change = as_it_is, skip: Change = as_it_is) -> Tensor:
    for place, layer in enumerate(model[:-1]):
        x = skip(2 * place, 0, x) + branch(2 * place, 0, layer.attention(layer.norm1(x)))
        x = skip(2 * place + 1, 0, x) + branch(2 * place + 1, 0, layer.mlp(layer.norm2(x)))
    return model[-1](x)


def parallel(model: nn.Module, x: Tensor, branch: Change = as_it_is, skip: Change = as_it_is) -> Tensor:
    for place, layer in enumerate(model[:-1]):
        normed = layer.norm1(x)
        first, second = layer.attention(normed), layer.mlp(normed)
        x = skip(place, 0, x) + branch(place, 0, first) + branch(place, 1, second)
    return model[-1](x)


def padding(model: nn.Module, x: Tensor, branch: Change = as_it_is, skip: Change = as_it_is) -> Tensor:
    x = model[0](x)
    x = skip(0, 0, functional.pad(x, (0, 2))) + branch(0, 0, model[1].branch(x))
    x = skip(1, 0, x) + branch(1, 0, model[2].branch(x))
    return model[3](x)


def inside(model: nn.Module, x: Tensor, branch: Change = as_it_is, skip: Change = as_it_is) -> Tensor:
    x = model[0](x).tanh()
    for place, block in enumerate(model[2:-1]):
        value = functional.linear(block.wide(x).tanh(), block.back.weight, block.back.bias)
        x = skip(place, 0, x) + branch(place, 0, value)
    return model[-1](x)


HAND_WRITTEN = {
    "post-activation": post_activation,
    "out-of-place": post_activation,
    "pre-activation": pre_activation,
    "pre-norm transformer": pre_norm,
    "parallel transformer": parallel,
    "padding": padding,
    "inside a module": inside,
}


def blocks(name: str) -> int:
    """How many junctions the network has."""
    return len(NETWORKS[name].branches)
