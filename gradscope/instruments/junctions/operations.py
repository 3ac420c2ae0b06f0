"""Which torch functions can make a residual sum or a concatenation, and where their operands stand.

Operand `slot` of such a call is slot `slot` of `next_functions` of the node that the call leaves in the autograd
graph; that is what lets a place in the graph be found again in another forward pass.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

_SUMMANDS = {
    "add": ("input", "other"),
    "sub": ("input", "other"),
    "subtract": ("input", "other"),
    "rsub": ("input", "other"),
    "lerp": ("input", "end"),
    "addmm": ("input", "mat1", "mat2"),
    "addmv": ("input", "mat", "vec"),
    "addr": ("input", "vec1", "vec2"),
    "addbmm": ("input", "batch1", "batch2"),
    "baddbmm": ("input", "batch1", "batch2"),
    "addcmul": ("input", "tensor1", "tensor2"),
    "addcdiv": ("input", "tensor1", "tensor2"),
}
_OPERATORS = {
    "add": ("__add__", "__radd__", "__iadd__"),
    "sub": ("__sub__", "__isub__"),
    "rsub": ("__rsub__",),
}
_LISTS = {
    "cat": ("cat", "concat", "concatenate", "hstack", "vstack", "dstack", "column_stack", "row_stack"),
    "stack": ("stack",),
}


class Operation(NamedTuple):
    """How a function is given its operands.

    Attributes:
        name: The operation, whatever the form: `add` for torch.add, x.add, x + y and x += y.
        operands: Keywords of the operands, in the order of their slots; empty if they come as one list.
        in_place: Whether the result is written into the first operand.
    """

    name: str
    operands: tuple[str, ...]
    in_place: bool

    def given(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[Any]:
        """The operands of a call, in the order of their slots; empty where they cannot be told."""
        if not self.operands:
            tensors = arguments[0] if arguments else keywords.get("tensors")
            return list(tensors) if isinstance(tensors, list | tuple) else []
        places = list(enumerate(self.operands))
        if not all(place < len(arguments) or keyword in keywords for place, keyword in places):
            return []
        return [arguments[p] if p < len(arguments) else keywords[keyword] for p, keyword in places]

    def replaced(
        self, arguments: tuple[Any, ...], keywords: dict[str, Any], operands: list[Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the same call with other operands."""
        if not self.operands:
            tensors = (
                type(arguments[0])(operands)
                if arguments and type(arguments[0]) in (list, tuple)
                else operands
            )
            return (
                ((tensors, *arguments[1:]), keywords) if arguments else ((), keywords | {"tensors": tensors})
            )
        positional = [*operands[: len(arguments)], *arguments[len(operands) :]]
        named = dict(zip(self.operands[len(arguments) :], operands[len(arguments) :], strict=True))
        return tuple(positional), keywords | named


def _table() -> dict[Callable[..., Any], Operation]:
    table: dict[Callable[..., Any], Operation] = {}
    for name, operands in _SUMMANDS.items():
        for form in (name, f"{name}_", *_OPERATORS.get(name, ())):
            in_place = form.startswith("__i") if form.startswith("__") else form.endswith("_")
            operation = Operation(name, operands, in_place)
            for home in (torch, Tensor):
                if hasattr(home, form):
                    table[getattr(home, form)] = operation
    for name, forms in _LISTS.items():
        for form in forms:
            if hasattr(torch, form):
                table[getattr(torch, form)] = Operation(name, (), False)
    return table


OPERATIONS = _table()
