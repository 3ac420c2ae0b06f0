"""Named places in a network."""

import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn


class Site(NamedTuple):
    """A named place in a network: a module and its dotted path (`""` is the network itself)."""

    name: str
    module: nn.Module


def sites(model: nn.Module, at: str | Sequence[str] | None = None) -> list[Site]:
    """The modules of `model` whose dotted path matches.

    Args:
        model: Any module.
        at: A pattern or several: `*` stands for one name between dots or a part of it, `**` for any
            path (`blocks.*.branch`, `layer1.**`). None: every module that has parameters of its own.

    Returns:
        Sites in the order of `named_modules()`; a module that has two names is listed once,
        under the first that matches.

    Raises:
        ValueError: Nothing matches; the message lists near names.
    """
    named = dict(model.named_modules(remove_duplicate=False))
    if at is None:
        found = [
            Site(name, module)
            for name, module in model.named_modules()
            if any(True for _ in module.parameters(recurse=False))
        ]
        if not found:
            raise ValueError(
                f"{type(model).__name__} has no module with parameters of its own, so nothing to read."
            )
        return found
    patterns = [at] if isinstance(at, str) else list(at)
    matching: dict[nn.Module, Site] = {}
    for name, module in named.items():
        # The network itself is asked for by its empty name only, not by a star.
        if any(_regex(p).fullmatch(name) if name else not p for p in patterns):
            matching.setdefault(module, Site(name, module))
    found = list(matching.values())
    if not found:
        asked = ", ".join(repr(pattern) for pattern in patterns)
        close = difflib.get_close_matches(patterns[0], list(named), n=5, cutoff=0.4) if patterns else []
        children = [name for name, _ in model.named_children()]
        raise ValueError(
            f"No site of {type(model).__name__} matches {asked}. "
            + (f"Close names: {', '.join(close)}. " if close else "")
            + f"Its children are: {', '.join(children) or 'none'}."
        )
    return found


def _regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*|\?)", pattern)
    wild = {"**": ".*", "*": r"[^.]*", "?": r"[^.]"}
    return re.compile("".join(wild.get(part, re.escape(part)) for part in parts))
