"""What does the reader open? One HTML file that needs nothing else, and its Markdown twin."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from .files import file_name, replacing
from .inline import inline
from .provenance import plain
from .sections import Section
from .store import write_figure, write_frame, write_json
from .verdicts import VERDICTS
from .wording import SYMBOLS, Markdown, markdown_table, markdown_text, measured, readable

ROWS_SHOWN = 50
PLURAL = {"holds": "hold", "fails": "fail"}
OURS = re.compile(r"(figures|tables)/[A-Za-z0-9_-][A-Za-z0-9._-]{0,210}")


def render(
    folder: str | Path,
    title: str,
    sections: Sequence[Section],
    provenance: Mapping[str, Any],
    summary: str | None = None,
) -> Path:
    """Write a report: `index.html` (self-contained), `report.md`, `figures/`, `tables/`, `provenance.json`.

    The whole report appears at once or, after an interruption, not at all: the one that was there
    stays. Files of other names in `folder` are left alone; figures and tables of the report that
    was there before, and are no longer in this one, are removed.

    Args:
        folder: Made where it is missing.
        title: Heading of the page.
        sections: In reading order.
        provenance: As `provenance()` makes it.
        summary: One sentence for the first screen; None counts the verdicts.

    Returns:
        Path of `index.html`.

    Raises:
        ValueError: A name of a section, picture or table cannot be a file's, or occurs twice.
        OSError: The folder cannot be written.
    """
    folder = Path(folder)
    _distinct("section", [section.name for section in sections])
    before = _files_of(folder)
    with replacing(folder) as new:
        (new / "figures").mkdir()
        (new / "tables").mkdir()
        shown = [_written(new, section) for section in sections]
        verdicts = _all_verdicts(sections)
        if len(verdicts):
            write_frame(new / "tables", "verdicts", verdicts)
        words = {
            "title": title,
            "summary": summary or _summary(verdicts),
            "sections": shown,
            "provenance": _flat(plain(provenance)),
        }
        (new / "index.html").write_text(
            _html().get_template("report.html.j2").render(words), encoding="utf-8"
        )
        (new / "report.md").write_text(
            _markdown().get_template("report.md.j2").render(words), encoding="utf-8"
        )
        files = sorted(path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file())
        write_json(new / "provenance.json", {**provenance, "files": [*files, "provenance.json"]})
    for stale in before - set(files):
        (folder / stale).unlink(missing_ok=True)
    return folder / "index.html"


def _written(new: Path, section: Section) -> dict[str, Any]:
    """Write a section's figures and tables; hand back what the templates show of it."""
    name = file_name(section.name)
    _distinct(f"picture of {name}", [picture.name for picture in section.pictures])
    pictures = []
    for picture in section.pictures:
        stem = f"{name}-{file_name(picture.name)}"
        write_figure(new / "figures", stem, picture.figure)
        files = new / "figures" / f"{stem}.svg", new / "figures" / f"{stem}.png"
        pictures.append(
            {
                "name": picture.name,
                "file": Markdown(f"figures/{stem}"),
                "caption": picture.caption,
                "alternative": picture.alternative,
                "markup": inline(*files, re.sub(r"[^A-Za-z0-9_-]", "_", stem), picture.alternative),
            }
        )
    tables = []
    for key, frame in section.tables.items():
        stem = f"{name}-{file_name(key)}"
        write_frame(new / "tables", stem, frame)
        tables.append({"name": key, "file": Markdown(f"tables/{stem}"), "frame": frame, "rows": len(frame)})
    return {
        "name": name,
        "title": section.title,
        "question": section.question,
        "reading": [part for part in re.split(r"\n\s*\n", section.reading.strip()) if part],
        "verdicts": section.verdicts.to_dict("records"),
        "pictures": pictures,
        "tables": tables,
    }


def _html() -> Environment:
    return _environment(autoescape=True)


def _markdown() -> Environment:
    # Every value printed by the template becomes literal Markdown, so no field can be forgotten.
    return _environment(autoescape=False, finalize=markdown_text)


def _environment(**options: Any) -> Environment:
    loader = PackageLoader("gradscope.report", "templates")
    environment = Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options
    )
    environment.filters |= {"readable": readable, "measured": measured, "table": markdown_table}
    environment.globals |= {"symbols": SYMBOLS, "rows_shown": ROWS_SHOWN}
    return environment


def _summary(verdicts: pd.DataFrame) -> str:
    if not len(verdicts):
        return "No claim was judged."
    counts = verdicts["verdict"].value_counts()
    parts = []
    for word in VERDICTS:
        if word in counts:
            parts.append(f"{counts[word]} {word if counts[word] == 1 else PLURAL.get(word, word)}")
    return f"Of {len(verdicts)} claim{'s' * (len(verdicts) != 1)} put to the test: {', '.join(parts)}."


def _all_verdicts(sections: Sequence[Section]) -> pd.DataFrame:
    frames = [section.verdicts.assign(section=section.name) for section in sections if len(section.verdicts)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested provenance as pairs of a dotted name and a text."""
    if isinstance(value, Mapping):
        return [
            pair for key, one in value.items() for pair in _flat(one, f"{name}.{key}" if name else str(key))
        ]
    if isinstance(value, list | tuple):
        return [(name, ", ".join(readable(one) for one in value))]
    return [(name, readable(value))]


def _files_of(folder: Path) -> set[str]:
    """Figures and tables that the report in `folder` says are its own."""
    try:
        files = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["files"]
        return {file for file in files if isinstance(file, str) and OURS.fullmatch(file)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _distinct(what: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Each {what} needs a name of its own; {twice} occur more than once. Rename them.")
