"""How many examples the running forward was given, for gates that put one example's values in another's place."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from gradscope.instruments.listen import first_tensor

Rows = Callable[[Tensor, str], int]


@contextmanager
def rows_of(model: nn.Module) -> Iterator[Rows]:
    """Yield `rows(operand, name)`: the number of examples, checked to be the operand's first dimension.

    Examples are counted along the first dimension of the first tensor that the forward was given. `rows` raises
    ValueError for an operand with another first dimension, such as tokens of all examples in one row each.
    """
    given: list[int] = []

    def count(module: nn.Module, arguments: Any, keywords: dict[str, Any]) -> None:
        tensor = first_tensor([*arguments, *keywords.values()])
        given[:] = [] if tensor is None or tensor.ndim == 0 else [len(tensor)]

    def rows(operand: Tensor, name: str) -> int:
        if not given or operand.ndim == 0 or len(operand) != given[0]:
            came = f"{given[0]} examples" if given else "no tensor of examples"
            raise ValueError(
                f"This gate needs one row per example in dimension 0, but at junction {name} the forward of {came} "
                f"has an operand of shape {list(operand.shape)}. Use lesion(kind='zero' or 'scale') or draws "
                "per='batch' here, which do not tell examples apart."
            )
        return given[0]

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()
