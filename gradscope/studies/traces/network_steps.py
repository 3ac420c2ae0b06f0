"""A fully connected network read as the steps that carry values and derivatives forward."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradscope.gradients.traces.forward_mode import Block, Linear, Normalise, Rectifier, Step
from gradscope.instruments.batch_norm import resolved
from gradscope.nets import Centre, CReLU, Network, Residual


class NetworkSteps(NamedTuple):
    """What `depth_derivatives` needs of a network.

    Attributes:
        stem: Steps before the first block, as a block of their own; None where there are none.
        blocks: One for each block of the network.
        readout: Weights of the linear readout, summed over the outputs, [features].
    """

    stem: Block | None
    blocks: tuple[Block, ...]
    readout: Tensor


class _Unknown(Exception):
    """A module without a step, and what is wrong with it."""


def network_steps(network: Network, batch_norm: str = "auto") -> NetworkSteps:
    """The steps of a network of the families `plain_mlp` and `residual_mlp`, or built like one.

    Args:
        network: Stem, blocks and head of linear layers, `Centre`, batch normalisation, ReLU, CReLU and identities;
            its parameters are referred to, not copied.
        batch_norm: `auto`, `frozen` or `running`, as in `Problem`.

    Raises:
        ValueError: A module that has no step, a batch-normalisation mode other than these, or a head that is not one
            linear layer; each by name.
    """
    if batch_norm not in ("auto", "frozen", "running"):
        raise ValueError(
            f"Derivatives are carried forward with constant statistics: batch_norm is auto, frozen or running, got "
            f"{batch_norm!r}. Use input_trace for the others."
        )
    how = resolved(network, batch_norm)
    try:
        stem: list[Step] = []
        _read(network.stem, how, stem)
        blocks = tuple(_block(block, how) for block in network.blocks)
        if type(network.head) is not nn.Linear:
            raise _Unknown(network.head, "where the readout is one nn.Linear")
    except _Unknown as error:
        module, what = error.args
        name = next(name for name, inner in network.named_modules() if inner is module)
        raise ValueError(
            f"{name} is {type(module).__name__}, {what}. Forward traces know Linear, Centre, BatchNorm1d, ReLU, CReLU, "
            "Identity, and blocks alpha (x + beta F(x)) of them; use input_trace."
        ) from None
    return NetworkSteps(Block(tuple(stem)) if stem else None, blocks, network.head.weight.detach().sum(dim=0))


def _block(block: nn.Module, how: dict[nn.Module, str]) -> Block:
    steps: list[Step] = []
    if not isinstance(block, Residual):
        _read(block, how, steps)
        return Block(tuple(steps))
    if block.before is not None or block.after is not None or type(block.shortcut) is not nn.Identity:
        raise _Unknown(
            block, f"with {block.shortcut} as shortcut, {block.before} before and {block.after} after"
        )
    _read(block.branch, how, steps)
    return Block(tuple(steps), skip=True, alpha=block.alpha, beta=block.beta)


def _read(module: nn.Module, how: dict[nn.Module, str], steps: list[Step]) -> None:
    # Subclasses may compute something else, so only the classes themselves are known.
    kind = type(module)
    if kind is nn.Sequential:
        for child in module.children():
            _read(child, how, steps)
    elif kind is nn.Linear:
        # The slow lookup of a module's attributes counts where layers are small.
        parameters = module._parameters
        steps.append(Linear(parameters["weight"], parameters["bias"]))  # type: ignore[arg-type]
    elif kind is nn.ReLU or kind is CReLU:
        steps.append(Rectifier(both=kind is CReLU))
    elif kind is Centre:
        steps.append(Normalise())
    elif isinstance(module, _BatchNorm) and kind is nn.BatchNorm1d:
        steps.append(_batch_norm(module, how[module]))
    elif kind is not nn.Identity:
        raise _Unknown(module, "which has no step")


def _batch_norm(module: _BatchNorm, how: str) -> Normalise:
    statistics = None
    if how == "running" and module.running_mean is not None and module.running_var is not None:
        statistics = (module.running_mean, module.running_var)
    return Normalise(True, module.eps, statistics, module.weight, module.bias)
