"""Which layers and which norms belong to residual branches, in our networks and in those of strangers."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradscope.nets.blocks import Parallel
from gradscope.nets.initialisation.weights import WEIGHTED, Layer
from gradscope.nets.options import closest

Branches = Sequence[str | Sequence[str]]
Norm = _BatchNorm | nn.GroupNorm | nn.LayerNorm


def branch_layers(model: nn.Module, branches: Branches | None) -> list[list[Layer]]:
    """The weighted layers of each residual branch, in the order in which they are registered or named.

    Args:
        model: With blocks[*].branch and blocks[*].shortcut, where `branches` is None.
        branches: For each branch a module's name, or those of its layers one after the other.

    Raises:
        ValueError: No branches; a name that is no module's, or a branch without layers.
    """
    if branches is None:
        found = [[m for m in function.modules() if isinstance(m, WEIGHTED)] for function in _functions(model)]
        if not found:
            raise ValueError(
                f"fixup needs to know the residual branches, and {type(model).__name__} has no blocks[*].branch beside "
                "blocks[*].shortcut. Name the layers of each: branches=[['layer1.0.conv1', 'layer1.0.conv2'], ...]."
            )
        return [layers for layers in found if layers]
    if isinstance(branches, str) or not branches:
        raise ValueError(f"branches is a list with an entry for each residual branch, got {branches!r}.")
    named = dict(model.named_modules(remove_duplicate=False))
    listed = []
    for branch in branches:
        names = [branch] if isinstance(branch, str) else list(branch)
        layers: list[Layer] = []
        for name in names:
            if name not in named:
                raise ValueError(f"{type(model).__name__} has no module {name!r}.{closest(name, named)}")
            layers += [m for m in named[name].modules() if isinstance(m, WEIGHTED) and m not in layers]
        if not layers:
            raise ValueError(f"The branch {branch!r} holds no linear and no convolutional layer.")
        listed.append(layers)
    return listed


def last_norms_of(model: nn.Module, names: str | Sequence[str] | None) -> list[Norm]:
    """The normalisation that ends each residual branch; its scale is what `zero_gamma` sets to 0.

    Args:
        model: With blocks[*].branch and blocks[*].shortcut, where `names` is None.
        names: Names of modules, or patterns in which a star stands for anything (`layer*.bn2`).

    Raises:
        ValueError: No residual branches, branches that end in something else, or names that fit no normalisation.
    """
    if names is not None:
        return _named_norms(model, [names] if isinstance(names, str) else list(names))
    functions = _functions(model)
    if not functions:
        raise ValueError(
            "zero_gamma is for residual networks, with blocks[*].branch and blocks[*].shortcut. In others name the "
            "last normalisation of every branch: last_norms='layer*.bn2'."
        )
    norms: list[Norm] = []
    for function in functions:
        last = list(function.modules())[-1]
        # A zero scale before a ReLU would be for ever: neither it nor the layer behind would get a gradient.
        if not isinstance(last, _BatchNorm) or not last.affine:
            raise ValueError(
                "zero_gamma needs residual branches that end in batch normalisation with a scale; this one "
                f"ends in {type(last).__name__}. Build the network with activation='post'."
            )
        norms.append(last)
    return norms


def head_behind(model: nn.Module, branches: list[list[Layer]]) -> nn.Linear | None:
    """The last linear layer of all, if it is registered behind every branch."""
    within = {layer for branch in branches for layer in branch}
    modules = list(model.modules())
    last = max((i for i, module in enumerate(modules) if module in within), default=-1)
    behind = [module for module in modules[last + 1 :] if isinstance(module, nn.Linear)]
    return behind[-1] if behind else None


def _functions(model: nn.Module) -> list[nn.Module]:
    """Every residual function of our own networks; a block may have several."""
    blocks = [block for block in getattr(model, "blocks", ()) if getattr(block, "shortcut", None) is not None]
    branches = [block.branch for block in blocks if isinstance(getattr(block, "branch", None), nn.Module)]
    return [f for branch in branches for f in (branch if isinstance(branch, Parallel) else [branch])]


def _named_norms(model: nn.Module, patterns: list[str]) -> list[Norm]:
    named = dict(model.named_modules())
    found: dict[Norm, None] = {}
    for pattern in patterns:
        matching = {name: module for name, module in named.items() if name and fnmatchcase(name, pattern)}
        if not matching:
            raise ValueError(
                f"{type(model).__name__} has no module {pattern!r}.{closest(pattern.replace('*', ''), named)}"
            )
        for name, module in matching.items():
            if not isinstance(module, Norm) or module.weight is None:
                raise ValueError(
                    f"last_norms names {name!r}, a {type(module).__name__}; it needs a normalisation with a scale."
                )
            found[module] = None
    if not found:
        raise ValueError("last_norms is empty. Name the last normalisation of every branch.")
    return list(found)
