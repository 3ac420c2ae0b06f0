"""How is a cell written for a reader? Few digits, words for what is missing, no live markup."""

from __future__ import annotations

import math
import re
from numbers import Integral, Real
from typing import Any

import pandas as pd

SYMBOLS = {"holds": "✓", "fails": "✗", "undecided": "?", "not testable here": "○"}
ABSENT = "—"
MARKDOWN = re.compile(r"([\\`*_\[\]|~$]|^[#+=-](?=[#=\s-])|(?<=^\d)[.)](?=\s))")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def readable(value: Any) -> str:
    """A cell as text: four significant digits, "NaN" for what is undefined, a dash for what is absent.

    The CSV and Parquet files hold the exact values.
    """
    if value is None or value is pd.NA or value is pd.NaT:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        number = float(value)
        return f"{number:.4g}" if math.isfinite(number) else str(number).replace("nan", "NaN")
    return CONTROL.sub("�", str(value))


def measured(row: Any) -> str:
    """The measured value of a verdict row with its interval and the number of seeds."""
    if math.isnan(row["measured"]):
        return ABSENT
    interval = "" if math.isnan(row["low"]) else f" [{row['low']:.3g}, {row['high']:.3g}]"
    deviation = "largest deviation " if str(row["criterion"]).startswith("equal to") else ""
    return f"{deviation}{row['measured']:.4g}{interval}, n = {int(row['n'])}"


class Markdown(str):
    """Text that is Markdown already."""


def markdown_text(value: Any) -> Markdown:
    """Any value as Markdown that shows it literally, on one line."""
    if isinstance(value, Markdown):
        return value
    text = " ".join(readable(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markdown(MARKDOWN.sub(r"\\\1", text))


def markdown_table(frame: pd.DataFrame, rows: int | None = None) -> Markdown:
    """A pipe table of the first rows; every cell literal."""
    lines = ["| " + " | ".join(markdown_text(column) for column in frame.columns) + " |"]
    lines.append("|" + " --- |" * len(frame.columns))
    for row in frame.head(len(frame) if rows is None else rows).itertuples(index=False, name=None):
        lines.append("| " + " | ".join(markdown_text(cell) for cell in row) + " |")
    return Markdown("\n".join(lines))
