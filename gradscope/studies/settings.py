"""What an analysis is run with: how large, on which data, with which seeds, and where to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradscope.data import DataSet, cifar10, digits

DATA = ("digits", "cifar10")


@dataclass(frozen=True)
class Settings:
    """Settings that every analysis understands.

    Attributes:
        preset: Size, one of the analysis' `PRESETS`: `quick` or `standard`.
        data: `digits` (embedded) or `cifar10` (local files).
        data_root: Folder of the CIFAR-10 files; needed for `cifar10` only.
        seeds: One repetition for each; verdicts need five.
        out: Folder of the report; computed cells and trained networks are kept in `.cache` below it.
        workers: Processes; None for the machine's cores.
        show: Progress, as in `progress`.
    """

    preset: str = "quick"
    data: str = "digits"
    data_root: Path | None = None
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    out: Path = Path("reports")
    workers: int | None = None
    show: bool | None = None

    def __post_init__(self) -> None:
        if self.data not in DATA:
            raise ValueError(f"data is one of {', '.join(DATA)}, got {self.data!r}.")
        if self.data == "cifar10" and self.data_root is None:
            raise ValueError("data 'cifar10' reads local files: say where with data_root (--data-root DIR).")
        if not self.seeds:
            raise ValueError("At least one seed is needed, got none.")

    @property
    def cache(self) -> Path:
        return self.out / ".cache"

    @property
    def root(self) -> str | None:
        return None if self.data_root is None else str(self.data_root)

    def sweeping(self) -> dict[str, Any]:
        """What every sweep of an analysis is called with: where cells are kept, workers, progress."""
        return {"cache": self.cache / "cells", "workers": self.workers, "show": self.show}

    def data_set(self) -> DataSet:
        """The data set asked for.

        Raises:
            FileNotFoundError, ValueError: As `data.cifar10`.
        """
        return data_set(self.data, self.root)


def data_set(name: str, root: str | None) -> DataSet:
    """A data set by name, for cells that run in processes of their own."""
    return digits() if name == "digits" else cifar10(str(root))
