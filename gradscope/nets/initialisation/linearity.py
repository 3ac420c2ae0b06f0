"""Is the network the linear map that it is meant to look like, and if not, what breaks it?"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradscope.nets.initialisation.pairs import CARRYING, JOINING, LAYER_CALLS
from gradscope.nets.initialisation.undisturbed import (
    hold_statistics,
    in_single_precision,
    placed,
    undisturbed,
)
from gradscope.nets.initialisation.weights import Layer, weighted_layers

# Rounding of one sum is a few units in the last place; through hundreds of layers it stays far below this many.
ROUNDINGS = 1e5
_LINEAR = {
    *CARRYING,
    *JOINING,
    *LAYER_CALLS,
    *(
        "add",
        "add_",
        "__add__",
        "__iadd__",
        "__radd__",
        "sub",
        "__sub__",
        "__rsub__",
        "neg",
        "__neg__",
        "__get__",
    ),
    *("chunk", "split", "detach", "float", "double", "type", "matmul", "__matmul__", "t"),
} - {name for name in CARRYING if "max_pool" in name or "lp_pool" in name}

_OFTEN_HARMLESS = ("relu", "relu_", "batch_norm", "mul", "__mul__")


def looks_linear_deviation(model: nn.Module, inputs: Tensor) -> float:
    """How far the network is from an affine map of its inputs: 0 but for rounding, where it looks linear.

    max |f(2x + x') - 2 f(x) + f(-x')| over max |f(x) - f(-x')|, where x' are the inputs moved on by one example (of
    a single one, itself): for an affine map the former is 0, since the coefficients 1, -2, 1 and the arguments cancel.

    Args:
        model: As it stands: in train mode dropout drops, which is not linear. Batch normalisation in train mode takes
            the statistics of `inputs` and keeps them (frozen), since those would otherwise change with the input. In
            half precision a float32 copy is looked at. Left as found.
        inputs: [N, ...] with N >= 1, floating-point.

    Returns:
        Dimensionless, >= 0; about 1 for a rectifier network. 0 for a constant map, NaN where an output is not finite.

    Raises:
        ValueError: No linear or convolutional layer, inputs of another kind, or outputs that are no tensor.

    Source:
        Balduzzi et al. (2017), The Shattered Gradients Problem, arXiv:1702.08591, section 5, for the linear map.
    """
    weighted_layers(model)
    measured = in_single_precision(model)
    inputs = placed(measured, inputs)
    with undisturbed(measured):
        hold_statistics(measured, inputs)
        return _deviation([_output(measured, x) for x in _three(inputs)])


def refuse_nonlinear(model: nn.Module, layers: dict[str, Layer], inputs: Tensor, scheme: str) -> None:
    """Raise ValueError unless the network is affine to rounding, naming where and behind what it ceases to be."""
    measured = in_single_precision(model)
    inputs = placed(measured, inputs)
    allowed = ROUNDINGS * torch.finfo(inputs.dtype).eps
    deviation = looks_linear_deviation(model, inputs)
    if deviation <= allowed:
        return
    by_weight = {id(measured.get_submodule(name).weight): name for name in layers}
    heard = []
    with undisturbed(measured):
        hold_statistics(measured, inputs)
        for x in _three(inputs):
            with _Calls(by_weight) as calls:
                measured(x)
            heard.append(calls)
    where, behind = "the output", list(heard[0].between[-1])
    for place, (name, _) in enumerate(heard[0].outputs):
        if _deviation([calls.outputs[place][1] for calls in heard]) > allowed:
            where, behind = f"the output of {name!r}", list(heard[0].between[place])
            break
    suspects = list(dict.fromkeys(call for call in behind if call not in _LINEAR))
    # A CReLU is made of rectifiers, and normalisation by held statistics is affine: blamed where there is nothing else.
    suspects = [call for call in suspects if call not in _OFTEN_HARMLESS] or suspects
    blamed = ", ".join(suspects) or "calls that are linear by themselves"
    raise ValueError(
        f"After {scheme!r} {type(model).__name__} is not linear: the deviation is {deviation:.2g}, first seen at "
        f"{where}, behind {blamed}. Max-pooling, dropout in train mode, layer normalisation, and a ReLU without its "
        "mirrored half break it: put average pooling in its place, call eval(), or build with CReLU. The weights are "
        "as they were."
    )


class _Calls(TorchFunctionMode):
    """The output of every layer as it runs, and the calls made between one layer and the next."""

    def __init__(self, by_weight: dict[int, str]) -> None:
        super().__init__()
        self.by_weight = by_weight
        self.outputs: list[tuple[str, Tensor]] = []
        self.between: list[list[str]] = [[]]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        if name in LAYER_CALLS and id(weight) in self.by_weight:
            self.outputs.append((self.by_weight[id(weight)], result.clone()))
            self.between.append([])
        elif isinstance(result, Tensor) and not _idle_dropout(name, args, kwargs):
            self.between[-1].append(name)
        return result


def _idle_dropout(name: str, args: Any, kwargs: Any) -> bool:
    training = kwargs.get("training", args[2] if len(args) > 2 else True)
    return "dropout" in name and training is False


def _three(inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    moved = inputs.roll(1, dims=0)
    return 2 * inputs + moved, inputs, -moved


def _deviation(answers: list[Tensor]) -> float:
    far, here, back = (answer.double() for answer in answers)
    apart = (far - 2 * here + back).abs().amax()
    return float(apart) if float(apart) == 0 else float(apart / (here - back).abs().amax())


def _output(model: nn.Module, inputs: Tensor) -> Tensor:
    output = model(inputs)
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise ValueError(
            f"{type(model).__name__} returned {type(output).__name__}, but one tensor is needed. Put it into eval "
            "mode, or wrap it in a module that returns its logits."
        )
    return output
