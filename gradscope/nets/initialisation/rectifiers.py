"""Which layers are fed by a CReLU or a ReLU in the order of registration, and rectifiers with a slope."""

import torch
from torch import Tensor, nn

from gradscope.nets.initialisation.pairs import Fed, Followed, uneven
from gradscope.nets.initialisation.weights import WEIGHTED, Layer


def fed_in_order(model: nn.Module, layers: dict[str, Layer]) -> Followed:
    """Layers that come next after a CReLU, in the order in which the modules are registered.

    A CReLU is a module without parameters that is called so; which convention it has is told by running it.
    """
    fed: dict[nn.Module, Fed] = {}
    mirror: int | None = None
    before: Layer | None = None
    for name, module in model.named_modules():
        if "crelu" in type(module).__name__.lower() and not any(True for _ in module.parameters()):
            mirror = _mirror_of(name, module)
        elif isinstance(module, WEIGHTED):
            if mirror is not None:
                fed[module] = _in_halves(layer_name(layers, module), module, mirror)
            elif fed and before is not None and module.weight.shape[1] == 2 * before.weight.shape[0]:
                raise ValueError(
                    f"{layer_name(layers, module)!r} takes twice what {layer_name(layers, before)!r} puts out, so it "
                    "is fed by a CReLU, but none is registered between them (one serves several layers?). Pass "
                    "inputs= (a few examples), so that it is found on a forward pass."
                )
            before, mirror = module, None
    return Followed(fed, set())


def doubled_in_order(model: nn.Module, layers: dict[str, Layer]) -> Followed:
    """Layers with a ReLU registered between them: the first feeds mirrored units, the second is fed by them.

    Raises:
        ValueError: No ReLU between layers; one for several layers; an odd width; layers whose sizes show that they do
            not follow each other.
    """
    fed: dict[nn.Module, Fed] = {}
    feeding: set[nn.Module] = set()
    before: Layer | None = None
    rectified = False
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            rectified = True
        elif isinstance(module, WEIGHTED):
            if before is not None and rectified:
                _refuse_misfit(layers, before, module)
                feeding.add(before)
                fed[module] = _in_halves(layer_name(layers, module), module, -1)
            before, rectified = module, False
    if len(fed) == 1 and len(layers) > 2 and sum(isinstance(m, nn.ReLU) for m in model.modules()) == 1:
        raise ValueError(
            f"{type(model).__name__} has {len(layers)} layers and registers one nn.ReLU, which may serve several of "
            "them. Pass inputs= (a few examples), so that this is seen on a forward pass."
        )
    if not fed:
        raise ValueError(
            f"{type(model).__name__} has no nn.ReLU registered between two layers. Pass inputs= (a few examples), so "
            "that the rectifiers are found on a forward pass."
        )
    return Followed(fed, feeding)


def slopes(model: nn.Module) -> list[nn.Parameter]:
    """The slopes of all PReLUs, which at 1 make them the identity.

    Raises:
        ValueError: A PReLU of the other convention, relu(x) + a relu(-x), which is |x| at a = 1.
    """
    found: list[nn.Parameter] = []
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, nn.PReLU):
            found.append(module.weight)
        elif "prelu" in type(module).__name__.lower() and len(own) == 1:
            kept, probe = own[0].detach().clone(), -torch.ones_like(own[0]).reshape(1, -1)
            own[0].fill_(1.0)
            answer = module(probe)
            own[0].copy_(kept)
            if not torch.equal(answer, probe):
                raise ValueError(
                    f"{name!r} ({type(module).__name__}) maps -1 to {float(answer.flatten()[0]):g} at slope 1, where "
                    "nn.PReLU maps it to -1: its negative branch has the opposite sign. Put nn.PReLU in its place."
                )
            found.append(own[0])
    return found


def layer_name(layers: dict[str, Layer], layer: nn.Module) -> str:
    return next(name for name, known in layers.items() if known is layer)


def _in_halves(name: str, layer: Layer, mirror: int) -> Fed:
    channels = layer.weight.shape[1] * getattr(layer, "groups", 1)
    if channels % 2:
        raise ValueError(
            f"{name!r} has {channels} inputs, an odd number, so they are not the two halves of a rectifier. Pass "
            "inputs= (a few examples), so that what feeds it is found on a forward pass."
        )
    index = torch.arange(channels)
    return Fed(index[: channels // 2], index[channels // 2 :], mirror)


def _mirror_of(name: str, module: nn.Module) -> int:
    """-1 for (relu(x), relu(-x)), 1 for (relu(x), -relu(-x))."""
    probe: Tensor = torch.tensor([[1.0, -2.0, 3.0]])
    try:
        answer = module(probe).tolist()
    except (RuntimeError, ValueError, IndexError):
        answer = None
    conventions = {-1: [[1.0, 0.0, 3.0, 0.0, 2.0, 0.0]], 1: [[1.0, 0.0, 3.0, 0.0, -2.0, 0.0]]}
    for mirror, expected in conventions.items():
        if answer == expected:
            return mirror
    raise ValueError(
        f"{name!r} ({type(module).__name__}) does not map [1, -2, 3] to (relu(x), relu(-x)) or (relu(x), -relu(-x)). "
        "Pass inputs= (a few examples), so that what it does is seen on a forward pass."
    )


def _refuse_misfit(layers: dict[str, Layer], before: Layer, after: Layer) -> None:
    outputs, channels = before.weight.shape[0], after.weight.shape[1] * getattr(after, "groups", 1)
    one, other = layer_name(layers, before), layer_name(layers, after)
    if outputs % 2:
        raise ValueError(uneven(one, before))
    flattened = isinstance(after, nn.Linear) and not isinstance(before, nn.Linear)
    if channels % outputs or (channels != outputs and not flattened):
        raise ValueError(
            f"{one!r} has {outputs} outputs and {other!r}, registered next, {channels} inputs, so they do not follow "
            "each other. Pass inputs= (a few examples), so that the order is found on a forward pass."
        )
