"""Which inputs of a layer are relu(x) and relu(-x) of the same x, followed through one forward pass.

Every element of the two halves of a CReLU is given a mark, m to one and -m to its mate. What is done to the halves on
their way to the next layer (pooling, flattening, permuting) is done to the marks as well, so mates are found wherever
they end up, whatever the modules are called and in whichever order they are registered.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradscope.nets.initialisation.undisturbed import undisturbed
from gradscope.nets.initialisation.weights import Layer

LAYER_CALLS = ("linear", "conv1d", "conv2d", "conv3d")
JOINING = ("cat", "concat", "concatenate", "stack", "hstack")
RECTIFYING = ("relu", "relu_")
CARRYING = (
    *("flatten", "view", "reshape", "unflatten", "permute", "transpose", "movedim", "contiguous", "squeeze"),
    *("unsqueeze", "clone", "mean", "sum", "pad", "interpolate", "__getitem__", "channel_shuffle"),
    *(f"{kind}{n}d" for kind in ("avg_pool", "adaptive_avg_pool", "max_pool", "lp_pool") for n in (1, 2, 3)),
    *(f"adaptive_max_pool{n}d" for n in (1, 2, 3)),
)
LEAVING = (
    "batch_norm",
    "layer_norm",
    "group_norm",
    "instance_norm",
    "rms_norm",
    "dropout",
    "mul",
    "__mul__",
)


class Fed(NamedTuple):
    """The inputs of a layer in pairs: `first` and `second` [n] index its input channels, mate beside mate.

    `mirror` is what the second half's weights are of the first half's: -1 for (relu(x), relu(-x)), 1 for
    (relu(x), -relu(-x)), where [W, -W] would give W |x|.
    """

    first: Tensor
    second: Tensor
    mirror: int


class Followed(NamedTuple):
    """Layers fed by pairs, and layers whose outputs become pairs."""

    fed: dict[nn.Module, Fed]
    feeding: set[nn.Module]


class _Marked(NamedTuple):
    marks: Tensor | None
    rectified: bool
    mirror: int
    origin: Layer | None


def uneven(name: str, layer: Layer) -> str:
    """What is wrong with a hidden layer of an odd number of units."""
    return (
        f"{name!r} feeds a ReLU and has {layer.weight.shape[0]} outputs, but mirrored units come in pairs. Give hidden "
        "layers even widths."
    )


def follow(model: nn.Module, layers: dict[str, Layer], inputs: Tensor, *, doubled: bool) -> Followed:
    """Run the model once, in eval mode, and see which layers are fed by pairs. Its activations are kept meanwhile.

    Args:
        doubled: Whether the two halves of every layer's output become mates, [u; -u], once they are rectified;
            otherwise they come from a CReLU, told by its numbers: two operands of `cat` or `stack`, either x and -x,
            rectified together, or rectified already, without a place where both are different from 0.

    Raises:
        ValueError: A layer whose halves cannot be paired, or that runs twice with different pairs.
    """
    following = _Following(layers, doubled)
    with undisturbed(model), following:
        model.eval()
        model(inputs)
    return Followed(following.fed, following.feeding)


class _Following(TorchFunctionMode):
    def __init__(self, layers: dict[str, Layer], doubled: bool) -> None:
        super().__init__()
        self.by_weight = {id(layer.weight): (name, layer) for name, layer in layers.items()}
        self.doubled = doubled
        self.fed: dict[nn.Module, Fed] = {}
        self.feeding: set[nn.Module] = set()
        # Tensors are kept, for the id of one that is gone may be another's.
        self.known: dict[int, tuple[Tensor, _Marked]] = {}
        self.generator = torch.Generator().manual_seed(0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor):
            return result
        name = getattr(func, "__name__", "")
        marked = self._marked(func, name, args, kwargs, result)
        if marked is not None:
            self.known[id(result)] = (result, marked)
        else:
            self.known.pop(id(result), None)
        return result

    def _marked(self, func: Any, name: str, args: Any, kwargs: Any, result: Tensor) -> _Marked | None:
        if name in JOINING:
            return self._joined(func, args, kwargs)
        source = args[0] if args else kwargs.get("input")
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        if name in LAYER_CALLS and id(weight) in self.by_weight:
            return self._through_layer(*self.by_weight[id(weight)], source, result)
        if id(source) not in self.known:
            return None
        marked = self.known[id(source)][1]
        if name in RECTIFYING or (name.startswith("clamp") and torch.equal(result, source.relu())):
            return self._rectified(marked)
        if name in LEAVING:
            return marked
        if name in CARRYING and marked.marks is not None:
            return marked._replace(marks=_odd_part(func, marked.marks, args, kwargs))
        return None

    def _rectified(self, marked: _Marked) -> _Marked:
        if marked.origin is not None and marked.marks is None:
            (name,) = [name for name, layer in self.by_weight.values() if layer is marked.origin]
            raise ValueError(uneven(name, marked.origin))
        return marked._replace(rectified=True)

    def _joined(self, func: Any, args: Any, kwargs: Any) -> _Marked | None:
        operands = args[0] if args else kwargs.get("tensors", ())
        if self.doubled or len(operands) != 2 or operands[0].shape != operands[1].shape:
            return None
        told = _halves(*operands)
        if told is None:
            return None
        one = self._marks(operands[0].shape)
        marks = func((one, -one), *args[1:], **{k: v for k, v in kwargs.items() if k != "tensors"})
        return _Marked(marks, *told, origin=None)

    def _through_layer(self, name: str, layer: Layer, source: Tensor, result: Tensor) -> _Marked | None:
        channel = -1 if isinstance(layer, nn.Linear) else -layer.weight.ndim + 1
        if id(source) in self.known and self.known[id(source)][1].rectified:
            marked = self.known[id(source)][1]
            pairs = _paired(marked, layer)
            if pairs is None:
                raise ValueError(
                    f"{name!r} is fed by two halves of a rectifier, but its {layer.weight.shape[1]} input channels do "
                    "not hold them in pairs: looks_linear needs the halves side by side along the channels."
                )
            before = self.fed.setdefault(layer, pairs)
            if not torch.equal(before.first, pairs.first) or not torch.equal(before.second, pairs.second):
                raise ValueError(f"{name!r} runs more than once, with its inputs paired in different ways.")
            if marked.origin is not None:
                self.feeding.add(marked.origin)
        if not self.doubled:
            return None
        if layer.weight.shape[0] % 2:
            return _Marked(None, False, -1, layer)
        shape = list(result.shape)
        shape[channel] //= 2
        one = self._marks(torch.Size(shape))
        return _Marked(torch.cat((one, -one), dim=channel), False, -1, layer)

    def _marks(self, shape: torch.Size) -> Tensor:
        """Numbers in (0, 1), all different within an example and the same for all examples."""
        one = torch.rand((1, *shape[1:]), dtype=torch.float64, generator=self.generator)
        return one.expand(shape)


def _halves(one: Tensor, other: Tensor) -> tuple[bool, int] | None:
    """Of two operands that make a CReLU: whether they are rectified, and the mirror; None if they make none.

    Where one half is silent on all examples its sign cannot be told; the usual one is taken, which the check of
    linearity confirms or refuses.
    """
    if not bool(one.any()) and not bool(other.any()):
        return None
    if torch.equal(other, -one):
        return False, -1
    if bool((one * other).any()):
        return None
    if bool((one >= 0).all()) and bool((other >= 0).all()):
        return True, -1
    opposite = bool((one >= 0).all()) and bool((other <= 0).all())
    return (True, 1) if opposite or (bool((one <= 0).all()) and bool((other >= 0).all())) else None


def _odd_part(func: Callable[..., Any], marks: Tensor, args: Any, kwargs: Any) -> Tensor:
    """What the call does to marks, made odd: max-pooling alone would not treat m and -m alike."""
    rest = {key: value for key, value in kwargs.items() if key != "input"}
    there, back = (func(sign * marks, *args[1:], **rest) for sign in (1, -1))
    odd: Tensor = there - back
    return odd


def _paired(marked: _Marked, layer: Layer) -> Fed | None:
    """Input channels beside their mates, or None where not every channel has one."""
    if marked.marks is None:
        return None
    channels = layer.weight.shape[1] * getattr(layer, "groups", 1)
    if isinstance(layer, nn.Linear):
        marks = marked.marks.reshape(-1, channels)[0]
    else:
        taken = marked.marks if marked.marks.ndim < layer.weight.ndim else marked.marks[0]
        marks = taken.reshape(channels, -1).sum(dim=1)
    first, second = (marks > 0).nonzero()[:, 0], (marks < 0).nonzero()[:, 0]
    if len(first) != len(second) or len(first) + len(second) != channels:
        return None
    # Pixels that pooling has copied have equal marks; a stable order pairs them place by place.
    first, second = first[marks[first].argsort(stable=True)], second[(-marks[second]).argsort(stable=True)]
    if not torch.allclose(marks[first], -marks[second], rtol=1e-12, atol=0):
        return None
    ascending = first.argsort()
    return Fed(first[ascending], second[ascending], marked.mirror)
