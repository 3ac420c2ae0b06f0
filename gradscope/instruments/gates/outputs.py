"""A module by its path, and its output with the first tensor replaced, whatever structure that came in."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from gradscope.instruments.listen import first_tensor

MOST_NAMED = 5


def named_module(model: nn.Module, path: str) -> nn.Module:
    """The module inside `model` at a dotted path; raises ValueError, with near names, if there is none."""
    named = dict(model.named_modules(remove_duplicate=False))
    if not isinstance(path, str) or not path or path not in named:
        raise ValueError(f"{type(model).__name__} has no module {path!r}. {near_names(model, path)}")
    return named[path]


def near_names(model: nn.Module, path: object) -> str:
    """A sentence with the names a user may have meant: alike, else what the deepest module on the path holds."""
    if not isinstance(path, str):
        return "Modules are named by strings, as model.named_modules() lists them."
    named = dict(model.named_modules(remove_duplicate=False))
    parent, _, last = path.rpartition(".")
    close = [name for name in named if name and last and last in name][:MOST_NAMED]
    # A number too high for its list is like some number elsewhere only by chance.
    if close and not (parent in named and parent and last.isdigit()):
        return f"Close names: {', '.join(close)}."
    while parent not in named:
        parent = parent.rpartition(".")[0]
    inside = [f"{parent}.{name}".lstrip(".") for name, _ in named[parent].named_children()]
    more = f" and {len(inside) - MOST_NAMED} more" if len(inside) > MOST_NAMED else ""
    place = parent or type(model).__name__
    return f"{place} holds: {', '.join(inside[:MOST_NAMED]) or 'no modules'}{more}."


def with_first_tensor(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with `change(tensor)` in place of its first tensor; the structure given stays as it was.

    Args:
        output: A tensor, or a tuple, named tuple, list or mapping in which `first_tensor` finds one.
        change: What to put in its place.

    Raises:
        TypeError: No tensor in it, or one inside something else.
    """
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, tuple | list):
        place = next((i for i, part in enumerate(output) if first_tensor(part) is not None), None)
        if place is not None:
            parts = list(output)
            parts[place] = with_first_tensor(parts[place], change)
            return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    if isinstance(output, Mapping):
        key = next((key for key, part in output.items() if first_tensor(part) is not None), None)
        if key is not None:
            changed: Any = copy.copy(output)
            changed[key] = with_first_tensor(changed[key], change)
            return changed
    raise TypeError(
        f"A gate replaces the first tensor of a module's output, but this one is a {type(output).__name__} "
        "in which none was found. Name a module that returns a tensor, or a tuple, list or dict of tensors."
    )
