"""Hearing what rectifiers put out, whether they are modules or functions called inside one."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_RELU = {
    functional.relu,
    functional.relu_,
    functional.relu6,
    torch.relu,
    torch.relu_,
    Tensor.relu,
    Tensor.relu_,
}
_HARDTANH = {functional.hardtanh, functional.hardtanh_}
_CLAMP = {torch.clamp, torch.clamp_min, Tensor.clamp, Tensor.clamp_, Tensor.clamp_min, Tensor.clamp_min_}

Listener = Callable[[str, int, Tensor], None]


@contextmanager
def on_rectified(model: nn.Module, listener: Listener) -> Iterator[None]:
    """Call `listener(module, call, output)` whenever something in `model` has been cut off below zero.

    Heard are ReLU, ReLU6, other `hardtanh` from zero on, and `clamp(min=0)`, as modules and as functions; smooth
    activations and leaky ones, which never switch off, are not.

    Args:
        model: Any network; calls before its start and after its end are not heard.
        listener: Gets the dotted path of the innermost module running, the number of the call inside that module in
            the latest forward, from 0, and the output, which it must not change.
    """
    names = {id(module): name for name, module in model.named_modules()}
    running: list[str] = []
    calls: dict[str, int] = {}

    def enter(module: nn.Module, arguments: Any) -> None:
        if module is model:
            running.clear()
            calls.clear()
        running.append(names[id(module)])

    def leave(module: nn.Module, arguments: Any, output: Any) -> None:
        if running and running[-1] == names[id(module)]:
            del running[-1]

    def report(output: Tensor) -> None:
        if running:
            name = running[-1]
            call = calls[name] = calls.get(name, -1) + 1
            listener(name, call, output)

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave, always_call=True).remove)
        stack.enter_context(_Rectified(report))
        yield


class _Rectified(TorchFunctionMode):
    def __init__(self, report: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.report = report

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and _rectifies(func, args, kwargs or {}):
            self.report(output)
        return output


def _rectifies(func: Any, args: Any, kwargs: Any) -> bool:
    if func in _RELU:
        return True
    if func not in _HARDTANH and func not in _CLAMP:
        return False
    name = "min_val" if func in _HARDTANH else "min"
    low = kwargs.get(name, args[1] if len(args) > 1 else None)
    return isinstance(low, int | float) and low == 0
