"""What does a report consist of? Sections: question, reading, verdicts, pictures, tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure with its words.

    Attributes:
        name: File name without suffix: letters, digits, `.`, `_`, `-`.
        figure: As the figures room hands it back.
        caption: What to see in it, in a sentence or two.
        alternative: The same for who cannot see it: what is drawn, and what it shows.
    """

    name: str
    figure: Figure
    caption: str
    alternative: str

    def __post_init__(self) -> None:
        """Refuse a picture without words."""
        for key in ("caption", "alternative"):
            if not getattr(self, key).strip():
                raise ValueError(f"Picture {self.name!r} has no {key}. Say what is to be seen in it.")


@dataclass(frozen=True)
class Section:
    """One analysis, as the report shows it.

    Attributes:
        name: Name of its anchors and files: letters, digits, `.`, `_`, `-`.
        title: Heading.
        question: What was asked, one sentence.
        reading: What is normal here and what was found; blank lines part paragraphs.
        verdicts: As `verdict_table` makes it; may have no rows.
        pictures: The first stands on the first page beside the verdicts.
        tables: Name -> frame; the report shows the first rows and keeps the whole as CSV and Parquet.
    """

    name: str
    title: str
    question: str
    reading: str
    verdicts: pd.DataFrame
    pictures: tuple[Picture, ...] = ()
    tables: Mapping[str, Any] = field(default_factory=dict)
