"""The junctions of one network, as a user looks at them."""

import fnmatch
from collections.abc import Iterator, Sequence
from typing import Any

from gradscope.instruments.junction import Junction


class Junctions(Sequence[Junction]):
    """The junctions of a network in forward order; prints as a table."""

    def __init__(self, found: Sequence[Junction]) -> None:
        self._found = tuple(found)

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, place: Any) -> Any:
        return self._found[place]

    def __iter__(self) -> Iterator[Junction]:
        return iter(self._found)

    def matching(self, pattern: str) -> list[Junction]:
        """The junctions whose name matches a glob pattern; raises ValueError if none does."""
        found = [j for j in self._found if fnmatch.fnmatchcase(j.name, pattern)]
        if not found:
            names = ", ".join(j.name for j in self._found[:8]) or "none"
            raise ValueError(f"No junction matches {pattern!r}. The junctions are: {names}.")
        return found

    def __repr__(self) -> str:
        if not self._found:
            return "no residual junctions"
        width = max(len(j.name) for j in self._found)
        rows = (
            f"{j.index:>4}  {j.name:<{width}}  {j.kind:<13} level {j.level}  {j.shape}" for j in self._found
        )
        return "\n".join(rows)
