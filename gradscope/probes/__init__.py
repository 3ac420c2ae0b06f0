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
    raise AttributeError(f"There is no probe {name!r}. The probes are: {', '.join(names())}.")


# At once and not when first asked for: importing the file of a probe puts the module under the probe's name.
for _name in names():
    globals()[_name] = getattr(import_module(f"{__name__}.{_name}"), _name)
