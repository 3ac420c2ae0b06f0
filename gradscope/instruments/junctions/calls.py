"""The additions a network calls in one forward pass, numbered, with the module that was running.

"Addition" means here any call that can make a residual sum or a concatenation: `x + y` in all its forms, the fused
ones (`addmm`, `addcmul`, `lerp`, ...), `stack`, whose result may be summed, and `cat`. They share one sequence of
numbers; operand `slot` of a call is its place among the operands (`operations.py` has the table).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from gradscope.instruments.junctions.operations import OPERATIONS, Operation

Operand = Callable[[Tensor], Tensor]
Plan = dict[tuple[int, int], Operand]


class AddCall(NamedTuple):
    """One addition: its number in the forward pass, module running, node and shape of the result, operation.

    The node is read at once: a later in-place operation on the sum would give the tensor another one.
    """

    number: int
    module: str
    node: Any
    shape: tuple[int, ...]
    operation: str


class _AddCalls(TorchFunctionMode):
    """Numbers additions while a model runs, reports them, and replaces operands by plan."""

    def __init__(self, plan: Plan, report: Callable[[int, Operation, Tensor], None] | None) -> None:
        super().__init__()
        self.plan = plan
        self.report = report
        self.count = 0
        self.running = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operation = OPERATIONS.get(func) if self.running else None
        if operation is None:
            return func(*args, **kwargs)
        operands = operation.given(args, kwargs)
        if len(operands) < 2 or not all(isinstance(o, Tensor) and _is_real(o) for o in operands):
            return func(*args, **kwargs)
        index, self.count = self.count, self.count + 1
        if self.plan:
            args, kwargs = self._replaced(index, operation, operands, args, kwargs)
        result = func(*args, **kwargs)
        if self.report is not None:
            self.report(index, operation, result)
        return result

    def _replaced(
        self, index: int, operation: Operation, operands: list[Tensor], args: Any, kwargs: Any
    ) -> tuple[Any, Any]:
        planned = [self.plan.get((index, slot)) for slot in range(len(operands))]
        if all(replace is None for replace in planned):
            return args, kwargs
        given = list(operands)
        for slot, replace in enumerate(planned):
            if replace is not None:
                operands[slot] = replace(given[slot])
        if operation.in_place and operands[0] is not given[0]:
            memory = given[0].untyped_storage().data_ptr()
            operands[1:] = [
                o.clone() if o.untyped_storage().data_ptr() == memory else o for o in operands[1:]
            ]
            # The sum has to end up in the same tensor; writing there bumps its version as the sum itself does.
            given[0].copy_(operands[0])
            operands[0] = given[0]
        return operation.replaced(args, kwargs, operands)


@contextmanager
def additions(
    model: nn.Module, plan: Plan | None = None, report: Callable[[AddCall], None] | None = None
) -> Iterator[_AddCalls]:
    """Number every addition of floating-point tensors that `model` calls, anew in each forward.

    Args:
        model: The network; only additions between its start and its end count.
        plan: What to put in place of operand `slot` of addition `index`: {(index, slot): f(operand)}. One that
            returns its argument changes nothing.
        report: Called after each addition. Costs two hooks on every module.

    Yields:
        The counter; its `count` holds the number of additions of the latest forward.
    """
    names: list[str] = []
    mode = _AddCalls(
        plan or {},
        None
        if report is None
        else lambda index, operation, result: report(_call(index, names, operation, result)),
    )

    def start(module: nn.Module, arguments: Any) -> None:
        mode.count, mode.running = 0, True

    def stop(module: nn.Module, arguments: Any, output: Any) -> None:
        mode.running = False

    handles: list[RemovableHandle] = []

    def remove() -> None:
        for handle in handles:
            handle.remove()

    with ExitStack() as stack:
        stack.callback(remove)
        stack.callback(model.register_forward_pre_hook(start).remove)
        stack.callback(model.register_forward_hook(stop, always_call=True).remove)
        if report is not None:
            enter, leave = _following(model, names)
            for module in model.modules():
                handles.append(module.register_forward_pre_hook(enter))
                handles.append(module.register_forward_hook(leave, always_call=True))
        stack.enter_context(mode)
        yield mode


def _following(model: nn.Module, running: list[str]) -> tuple[Callable[..., None], Callable[..., None]]:
    """Hooks that keep the names of the running modules of `model`, innermost last."""
    names = {id(module): name for name, module in model.named_modules()}

    def enter(module: nn.Module, arguments: Any) -> None:
        running.append(names[id(module)])

    def leave(module: nn.Module, arguments: Any, output: Any) -> None:
        # Where another hook raised before the module was entered, leaving it is reported all the same.
        if running and running[-1] == names[id(module)]:
            del running[-1]

    return enter, leave


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _call(index: int, names: list[str], operation: Operation, result: Tensor) -> AddCall:
    node = result.grad_fn
    if operation.in_place and result._is_view() and result._base is not None:
        # A view that was added to in place is read anew from its base: the sum is a node of the base.
        node = result._base.grad_fn
    return AddCall(index, names[-1] if names else "", node, tuple(result.shape), operation.name)
