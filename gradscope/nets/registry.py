"""Networks by name."""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from gradscope.nets.linear_shortcut import linear_shortcut
from gradscope.nets.network import Network
from gradscope.nets.options import closest
from gradscope.nets.plain import plain
from gradscope.nets.plain_conv import plain_conv
from gradscope.nets.plain_mlp import plain_mlp
from gradscope.nets.residual_mlp import residual_mlp
from gradscope.nets.resnet import resnet
from gradscope.nets.vgg import vgg

FAMILIES: dict[str, Callable[..., Network]] = {
    family.__name__: family
    for family in (plain_mlp, residual_mlp, resnet, plain, plain_conv, vgg, linear_shortcut)
}


def names() -> list[str]:
    """The families that `build` knows, in alphabetical order."""
    return sorted(FAMILIES)


def build(name: str, *, seed: int | None = None, **options: Any) -> Network:
    """A fresh network of a family.

    Args:
        name: One of `names()`.
        seed: Fixes the weights and leaves torch's global generators as they were. None draws from the
            global generator, as torch's own layers do.
        options: Those of the family; `help(gradscope.nets.resnet)` tells them.

    Returns:
        The network on the default device, in train mode, with children `stem`, `blocks` and `head`.
        In a residual block the residual function is `branch`, the skip `shortcut`.

    Raises:
        ValueError: An unknown family, an option that the family lacks or needs, or one out of range.

    Example:
        >>> network = build("resnet", depth=20, channels=1, seed=0)
    """
    if name not in FAMILIES:
        raise ValueError(
            f"No network is called {name!r}. There are: {', '.join(names())}.{closest(name, names())}"
        )
    signature = inspect.signature(FAMILIES[name])
    known = list(signature.parameters)
    for option in options:
        if option not in known:
            raise ValueError(
                f"{name} has no option {option!r}. Its options are: {signature}.{closest(option, known)}"
            )
    for option, parameter in signature.parameters.items():
        if parameter.default is inspect.Parameter.empty and option not in options:
            raise ValueError(f"{name} needs the option {option!r}. Its options are: {signature}.")
    if seed is None:
        return FAMILIES[name](**options)
    # Only the default CPU generator is seeded, since all weights are drawn there: torch.manual_seed would
    # also seed devices, and devices that have not started yet could not be put back.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        return FAMILIES[name](**options)
