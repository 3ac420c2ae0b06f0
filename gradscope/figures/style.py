"""How do our figures look? One palette, one set of marks, one style that ends with its block."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any

import matplotlib as mpl
from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PURPLE = "#0173b2", "#d55e00", "#029e73", "#cc78bc"
BLACK, GREY = "#000000", "#6e6e6e"

# Of seaborn's colour-blind-safe set only these four reach a contrast of 3:1 on white.
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, BLACK, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.2, 1.2)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
)

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10.0,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.fontsize": 9.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "legend.frameon": False,
    "legend.handlelength": 3.4,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "gradscope",
    "text.parse_math": False,
    "text.usetex": False,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw and save in the house style; matplotlib's settings are as found afterwards.

    Text is never read as mathematics, so a `$` in a layer's name cannot break a figure; SVG text
    stays text; the SVG hash salt is fixed, so the same figure gives the same bytes.
    """
    with mpl.rc_context(STYLE):
        yield


class HouseFigure(Figure):
    """A figure that saves and shows itself in the house style, wherever it is saved or shown.

    Attributes:
        foot: Inches below the panels, taken by the x label, notes and legend.
    """

    foot = 0.45

    def savefig(self, fname: Any, *, transparent: bool | None = None, **options: Any) -> None:
        """As `Figure.savefig`, in the house style and without a date: same figure, same bytes."""
        suffix = options.get("format") or str(fname).rpartition(".")[2]
        if suffix == "svg":
            options.setdefault("metadata", {"Date": None})
        with house_style():
            super().savefig(fname, transparent=transparent, **options)

    def _repr_png_(self) -> bytes:
        """What a notebook shows; a figure made without pyplot would show as its name only."""
        picture: IO[bytes] = BytesIO()
        self.savefig(picture, format="png", dpi=110)
        picture.seek(0)
        return picture.read()


@dataclass(frozen=True)
class Mark:
    """How one level of a condition is drawn: never by colour alone."""

    colour: str
    marker: str
    dash: Any

    def line(self, **more: Any) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot`."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dash, **more}


def marks(levels: Sequence[Hashable]) -> dict[Hashable, Mark]:
    """One mark per level, in the order given: colour, marker and dash differ between neighbours.

    Six colours, seven markers and five dashes repeat with different periods, so no two of the
    first 210 levels look alike.
    """
    return {
        level: Mark(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])
        for i, level in enumerate(levels)
    }
