"""The additions a network calls in one forward pass, numbered, with the module that was running."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_IN_PLACE = {torch.Tensor.__iadd__, torch.Tensor.add_, torch.Tensor.__isub__, torch.Tensor.sub_}
_ADDITIONS = _IN_PLACE | {
    torch.add,
    torch.Tensor.add,
    torch.Tensor.__add__,
    torch.Tensor.__radd__,
    torch.sub,
    torch.Tensor.sub,
    torch.Tensor.__sub__,
}

Operand = Callable[[Tensor], Tensor]
Plan = dict[tuple[int, int], Operand]


class AddCall(NamedTuple):
    """One addition of two tensors: its number in the forward pass, module running, node and shape of the sum.

    The node is read at once: a later in-place operation on the sum would give the tensor another one.
    """

    number: int
    module: str
    node: Any
    shape: tuple[int, ...]


class _AddCalls(TorchFunctionMode):
    """Numbers additions while a model runs, reports them, and replaces operands by plan."""

    def __init__(self, plan: Plan, report: Callable[[int, Tensor], None] | None) -> None:
        super().__init__()
        self.plan = plan
        self.report = report
        self.count = 0
        self.running = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.running or func not in _ADDITIONS:
            return func(*args, **kwargs)
        named = [kwargs[name] for name in ("input", "other") if name in kwargs]
        operands = [*args, *named][:2]
        if len(operands) < 2 or not all(isinstance(o, Tensor) and o.is_floating_point() for o in operands):
            return func(*args, **kwargs)
        index, self.count = self.count, self.count + 1
        replaced = [self.plan.get((index, slot)) for slot in (0, 1)]
        if replaced[0] is not None and func in _IN_PLACE:
            # The sum has to end up in the same tensor; writing there bumps its version as the sum itself does.
            operands[0].copy_(replaced[0](operands[0]))
        elif replaced[0] is not None:
            operands[0] = replaced[0](operands[0])
        if replaced[1] is not None:
            operands[1] = replaced[1](operands[1])
        kwargs = {key: value for key, value in kwargs.items() if key not in ("input", "other")}
        result = func(*operands, *args[2:], **kwargs)
        if self.report is not None:
            self.report(index, result)
        return result


@contextmanager
def additions(
    model: nn.Module, plan: Plan | None = None, report: Callable[[AddCall], None] | None = None
) -> Iterator[_AddCalls]:
    """Number every addition of two floating-point tensors that `model` calls, anew in each forward.

    Args:
        model: The network; only additions between its start and its end count.
        plan: What to put in place of operand `slot` of addition `index`: {(index, slot): f(operand)}.
        report: Called after each addition. Costs a hook on every module.

    Yields:
        The counter; its `count` holds the number of additions of the latest forward.
    """
    names: list[str] = []
    mode = _AddCalls(
        plan or {},
        None if report is None else lambda index, result: report(_call(index, names, result)),
    )

    def start(module: nn.Module, arguments: Any) -> None:
        mode.count, mode.running = 0, True

    def stop(module: nn.Module, arguments: Any, output: Any) -> None:
        mode.running = False

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(start).remove)
        stack.callback(model.register_forward_hook(stop, always_call=True).remove)
        if report is not None:
            for name, module in model.named_modules():
                enter = module.register_forward_pre_hook(lambda m, a, name=name: names.append(name))
                leave = module.register_forward_hook(_leave(names, name), always_call=True)
                stack.callback(enter.remove)
                stack.callback(leave.remove)
        stack.enter_context(mode)
        yield mode


def _leave(names: list[str], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def leave(module: nn.Module, arguments: Any, output: Any) -> None:
        # Where another hook raised before the module was entered, leaving it is reported all the same.
        if names and names[-1] == name:
            del names[-1]

    return leave


def _call(index: int, names: list[str], result: Tensor) -> AddCall:
    return AddCall(index, names[-1] if names else "", result.grad_fn, tuple(result.shape))
