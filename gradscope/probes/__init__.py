"""What listens while somebody else's passes go by. One file each; the folder is the registry.

A probe is a context manager `probe(model, at=...)` that yields `Readings`: which sites, which measure,
which unit. To add one, write `probes/<name>.py` with a function `<name>` and `tests/probes/test_<name>.py`
with its slow reference; nothing else changes.
"""

import pkgutil
from importlib import import_module
from typing import Any


def names() -> list[str]:
    """The names of all probes, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in names():
        raise AttributeError(f"There is no probe {name!r}. The probes are: {', '.join(names())}.")
    return getattr(import_module(f"{__name__}.{name}"), name)
