"""Which operations give results whose shapes depend on the numbers in their arguments."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class DataShapes(TorchDispatchMode):
    """Sets `depend` when it meets one: `nonzero`, `unique`, a boolean index, a tensor as a size, ..."""

    depend = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A number read inside of a call may be a size as well: `x[:n]`, `torch.arange(n)`.
        if torch.Tag.dynamic_output_shape in func.tags or torch.Tag.data_dependent_output in func.tags:
            indices = args[1] if func is torch.ops.aten.index.Tensor else None
            if indices is None or any(
                i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices
            ):
                self.depend = True
        return func(*args, **(kwargs or {}))
