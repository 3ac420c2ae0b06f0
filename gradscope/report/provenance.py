"""Where does a number come from? Versions, commit, machine, settings and seeds, and nobody's name."""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

DISTRIBUTION = "gradscope-toolkit"
PACKAGE = Path(__file__).resolve().parent.parent
# Two levels at least, after a space, a quote or an equals sign: `--data=/srv/cifar`, `in C:\\data\\x`.
INNER_PATH = re.compile(r"""(?<=[\s='"(,:])(?:[A-Za-z]:)?(?:[/\\][^\s/\\'",;:)]+){2,}""")
LIBRARIES = ("torch", "numpy", "scipy", "pandas")


def provenance(
    configuration: Mapping[str, Any],
    *,
    seeds: Iterable[int],
    data: Any = None,
    durations: Mapping[str, float] | None = None,
    device: str = "cpu",
    dtype: str | None = None,
) -> dict[str, Any]:
    """Everything needed to obtain the same numbers again; kept beside every frame.

    User names, host names and absolute paths are left out: of a path, its last part stays.

    Args:
        configuration: All settings of the run, defaults included.
        seeds: Of the run.
        data: Something with `name` and `sha256`, or a mapping with these keys.
        durations: Seconds, by what took them.
        device: On which the numbers were computed.
        dtype: Of the numbers; torch's default when None.

    Returns:
        Plain data, as JSON holds it.
    """
    import torch

    fetch = data.get if isinstance(data, Mapping) else lambda key: getattr(data, key, None)
    return plain(
        {
            "gradscope": _version(DISTRIBUTION),
            "commit": commit(PACKAGE.parent),
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
            "platform": f"{platform.system()} {platform.machine()}",
            "processor": torch.backends.cpu.get_cpu_capability(),
            "device": str(device),
            "dtype": str(dtype or torch.get_default_dtype()).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "configuration": configuration,
            "seeds": list(seeds),
            "data": None if data is None else {"name": fetch("name"), "sha256": fetch("sha256")},
            "durations_s": durations or {},
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )


def commit(checkout: Path) -> dict[str, Any] | None:
    """`{"id", "dirty"}` of the checkout the package runs from; None outside one, or without git.

    A folder that merely lies inside somebody else's repository is no checkout of ours: git is
    asked only where `checkout` itself holds `.git`.
    """
    if not (checkout / ".git").exists():
        return None
    try:
        head = _git(checkout, "rev-parse", "HEAD")
        return {"id": head, "dirty": bool(_git(checkout, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def plain(value: Any) -> Any:
    """The value as JSON holds it: numbers that are not finite as text, of absolute paths the last part."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, PurePath):
        return _nameless(str(value))
    if isinstance(value, str):
        return _nameless(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return plain(value.item())
    if isinstance(value, Iterable):
        return [plain(one) for one in value]
    return getattr(value, "__qualname__", type(value).__qualname__)


def _nameless(text: str) -> str:
    """Without the folders of this machine, whether the text is a path or holds one."""
    home = os.path.expanduser("~")
    if text != home and PurePosixPath(text).is_absolute():
        return PurePosixPath(text).name
    if len(Path(home).parts) > 1:
        text = re.sub(re.escape(home) + r"(?![A-Za-z0-9_-])", "~", text)
    if PureWindowsPath(text).drive:
        return PureWindowsPath(text).name
    return INNER_PATH.sub(lambda found: re.split(r"[/\\\\]", found.group())[-1], text)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def _git(checkout: Path, *arguments: str) -> str:
    answer = subprocess.run(
        ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=True, timeout=20
    )
    return answer.stdout.strip()
