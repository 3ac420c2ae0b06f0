"""A small copy of a report for a repository: Markdown, figures, and tables short enough to read."""

import shutil
from pathlib import Path

LARGEST_TABLE = 60_000
LARGEST_FIGURE = 150_000


def write_example(report: Path, folder: Path) -> Path:
    """Copy `report.md`, its figures and its short tables from a report; returns the Markdown's path.

    Figures are SVG where small, else PNG; tables over 60 kB are left out, for the command that made the
    report makes them again.

    Raises:
        FileNotFoundError: `report` holds no report.
    """
    source = report / "report.md"
    if not source.is_file():
        raise FileNotFoundError(f"{report} holds no report.md. Run gradscope report first.")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "figures").mkdir(parents=True)
    (folder / "tables").mkdir()
    text = source.read_text(encoding="utf-8")
    for figure in sorted((report / "figures").glob("*.svg")):
        if figure.stat().st_size > LARGEST_FIGURE:
            text = text.replace(f"figures/{figure.name}", f"figures/{figure.stem}.png")
            figure = figure.with_suffix(".png")
        shutil.copyfile(figure, folder / "figures" / figure.name)
    for table in sorted((report / "tables").glob("*.csv")):
        if table.stat().st_size <= LARGEST_TABLE:
            shutil.copyfile(table, folder / "tables" / table.name)
    shutil.copyfile(report / "provenance.json", folder / "provenance.json")
    (folder / "report.md").write_text(text, encoding="utf-8")
    return folder / "report.md"
