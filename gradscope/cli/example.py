"""A small copy of a report for a repository: Markdown, figures, and tables short enough to read."""

import json
import re
import shutil
from pathlib import Path

LARGEST_TABLE = 60_000
LARGEST_FIGURE = 60_000
PARTS = {"report.md", "provenance.json", "figures", "tables"}


def check_replaceable(folder: Path) -> None:
    """Refuse a folder in which anything but an example lies, for an example replaces the whole folder.

    Raises:
        ValueError: Something else lies there; it is named.
    """
    others = (
        sorted(path.name for path in folder.iterdir() if path.name not in PARTS) if folder.exists() else []
    )
    if others:
        raise ValueError(
            f"An example replaces the whole folder {folder}, and {others[0]} there is no part of one. "
            "Name a folder of its own."
        )


def write_example(report: Path, folder: Path) -> Path:
    """Copy `report.md`, its figures and its short tables from a report; returns the Markdown's path.

    Figures are SVG up to 60 kB, beyond that SVG or PNG, whichever is smaller; tables over 60 kB are left
    out, for the command that made the report makes them again. What lay in `folder` is replaced.

    Raises:
        FileNotFoundError: `report` holds no report.
        ValueError: As `check_replaceable`.
    """
    check_replaceable(folder)
    source = report / "report.md"
    if not source.is_file():
        raise FileNotFoundError(f"{report} holds no report.md. Run gradscope report first.")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "figures").mkdir(parents=True)
    (folder / "tables").mkdir()
    text = source.read_text(encoding="utf-8")
    for figure in sorted((report / "figures").glob("*.svg")):
        picture = figure.with_suffix(".png")
        if figure.stat().st_size > max(LARGEST_FIGURE, picture.stat().st_size):
            text = text.replace(f"figures/{figure.name}", f"figures/{picture.name}")
            figure = picture
        shutil.copyfile(figure, folder / "figures" / figure.name)
    text = re.sub(r", \[Parquet\]\(tables/[^)]+\)", "", text)
    for table in sorted((report / "tables").glob("*.csv")):
        if table.stat().st_size <= LARGEST_TABLE:
            shutil.copyfile(table, folder / "tables" / table.name)
        else:
            text = text.replace(f"[CSV](tables/{table.name})", "in the report, too long for this copy")
    (folder / "report.md").write_text(text, encoding="utf-8")
    facts = json.loads((report / "provenance.json").read_text(encoding="utf-8"))
    facts["files"] = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    (folder / "provenance.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return folder / "report.md"
