"""Tensors that stand for others of the same form: they may be passed on, but whoever reads them is told."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradscope.instruments.resume.record import DESCRIPTIONS, Made, ModuleCall, mapped, tensors_in

# Told by a hollow tensor as by the one it stands for, which may lie in memory in another way.
_FORM = DESCRIPTIONS - {"stride", "storage_offset", "is_contiguous", "data_ptr"}


class OutOfStep(BaseException):
    """The forward does not go the recorded way. No `Exception`, lest the forward itself catches it."""


class _Outline(NamedTuple):
    """All of a tensor but its numbers; `fixed` unless its shape depends on numbers."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    fixed: bool


class Hollow(Tensor):
    """A tensor of which only the form is known. Whatever reads its numbers raises OutOfStep, watched or not."""

    outline: _Outline

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        hollow = [tensor for tensor in tensors_in((args, kwargs or {})) if isinstance(tensor, Hollow)]
        if getattr(func, "__name__", "") in _FORM and all(tensor.outline.fixed for tensor in hollow):
            with torch._C.DisableTorchFunctionSubclass():
                told = func(*args, **(kwargs or {}))
            if not tensors_in(told):
                return told
        raise OutOfStep(
            "This tensor was left out of a pass that shares its beginning with another, and holds no numbers; "
            "the forward has put it where it stays. Call the model once more to replace it."
        )


class Tape:
    """What each call of one forward pass returned: tensors in outline, all else as it was.

    Args:
        data_shaped: Places of calls whose results have shapes that depend on numbers.

    Attributes:
        functions: What was called.
        modules: The module calls, each with those inside it.
    """

    def __init__(self, data_shaped: frozenset[int] = frozenset()) -> None:
        self.functions: list[Any] = []
        self.modules: Sequence[ModuleCall] = ()
        self._data_shaped = data_shaped
        self._results: list[Any] = []
        self._built: dict[int, Any] = {}
        self._undefined: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def __len__(self) -> int:
        return len(self.functions)

    def append(self, function: Any, result: Any) -> None:
        fixed = len(self) not in self._data_shaped
        self.functions.append(function)
        self._results.append(
            mapped(result, lambda t: _Outline(t.shape, t.stride(), t.dtype, t.device, fixed))
        )

    def answer(self, place: int) -> Any:
        """A result of the same form, with hollow tensors, which take no memory."""
        if place not in self._built:
            self._built[place] = mapped(self._results[place], self._hollow, _Outline)
        return self._built[place]

    def made(self, tensor: Made) -> Tensor:
        return tensors_in(self.answer(tensor.call))[tensor.position]

    def _hollow(self, outline: _Outline) -> Tensor:
        kind = outline.dtype, outline.device
        if kind not in self._undefined:
            number = float("nan") if outline.dtype.is_floating_point or outline.dtype.is_complex else 0
            self._undefined[kind] = torch.full((), number, dtype=outline.dtype, device=outline.device)
        tensor = self._undefined[kind].expand(outline.shape).as_subclass(Hollow)
        tensor.outline = outline
        return tensor


def zeros_for(hollow: Hollow) -> Tensor:
    """Zeros of that form, lying in memory as the tensor that it stands for."""
    form = hollow.outline
    return torch.empty_strided(form.shape, form.stride, dtype=form.dtype, device=form.device).zero_()
