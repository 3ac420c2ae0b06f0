"""The junctions of one network, as a user looks at them."""

import fnmatch
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from gradscope.instruments.junctions.junction import Junction

if TYPE_CHECKING:
    import pandas as pd

_HEADER = ("index", "junction", "kind", "level", "shape", "branches")
_NUMBERS = ("index", "level", "branches")
_EMPTY = "no residual junctions"


class Junctions(Sequence[Junction]):
    """The junctions of a network in forward order; prints as a table, also in a notebook.

    Example:
        >>> found = gs.junctions(model, images)
        >>> found
        index  junction    kind        level  shape           branches
            0  layer1.0:0  identity        0  [8, 64, 16, 16]        1
            1  layer2.0:0  projection      0  [8, 128, 8, 8]         1
        >>> found.matching("layer2.*")
        >>> gs.figures.structure(found.frame())
    """

    def __init__(self, found: Sequence[Junction]) -> None:
        self._found = tuple(found)

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, place: Any) -> Any:
        return self._found[place]

    def __iter__(self) -> Iterator[Junction]:
        return iter(self._found)

    def matching(self, pattern: str) -> list[Junction]:
        """The junctions whose name matches a glob pattern, such as `layer2.*`.

        A name is the innermost module that was running, and the ordinal of the junction within it. Where a
        transformer block makes both of its sums itself, `*:0` are those of attention and `*:1` those of the MLP.
        Sums in the forward of the network itself have no module before the colon: `:0`, `:1`.

        Raises:
            ValueError: None matches.
        """
        found = [j for j in self._found if fnmatch.fnmatchcase(j.name, pattern)]
        if not found:
            names = ", ".join(j.name for j in self._found[:8]) or "none"
            raise ValueError(f"No junction matches {pattern!r}. The junctions are: {names}.")
        return found

    def frame(self) -> "pd.DataFrame":
        """One row per junction in forward order, such as `figures.structure` draws.

        Returns:
            Columns `index` (place among the junctions), `junction` (name), `kind`, `level`, `shape` (of the
            sum, as text), `branches` and `skips` (how many operands are branches or skips), `number` (of the
            call that makes the sum; missing where it was not made from Python).
        """
        import pandas as pd

        rows = [
            (j.index, j.name, j.kind, j.level, str(list(j.shape)), len(j.branches), len(j.skips), j.number)
            for j in self._found
        ]
        columns = ["index", "junction", "kind", "level", "shape", "branches", "skips", "number"]
        return pd.DataFrame(rows, columns=columns).astype(
            dict.fromkeys(["index", "level", "branches", "skips"], "int64") | {"number": "Int64"}
        )

    def __repr__(self) -> str:
        if not self._found:
            return _EMPTY
        table = [_HEADER, *self._cells()]
        widths = [max(len(row[column]) for row in table) for column in range(len(_HEADER))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if name in _NUMBERS else cell.ljust(width)
                for name, cell, width in zip(_HEADER, row, widths, strict=True)
            ).rstrip()
            for row in table
        )

    def _repr_html_(self) -> str:
        """What a notebook shows; colours and fonts are left to the notebook, be it dark or light."""
        if not self._found:
            return f"<p>{_EMPTY}</p>"
        head = "".join(_cell("th", name, name) for name in _HEADER)
        rows = (
            "".join(_cell("td", name, cell) for name, cell in zip(_HEADER, row, strict=True))
            for row in self._cells()
        )
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (str(j.index), j.name, j.kind, str(j.level), str(list(j.shape)), str(len(j.branches)))
            for j in self._found
        ]


def _cell(tag: str, column: str, text: str) -> str:
    return f'<{tag} style="text-align: {"right" if column in _NUMBERS else "left"}">{escape(text)}</{tag}>'
