"""The page on conditioning says of each condition number what the package says, and every definition has its row."""

import re

from documents import ROOT

from gradscope.curvature.condition_definitions import DEFINITIONS

PAGE = ROOT / "docs" / "how-ill-conditioned.md"


def rows() -> dict[str, list[str]]:
    """The cells behind the name, by name; a bar within a cell is written with a backslash."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| definition |"))
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    told = [re.split(r"(?<!\\)\|", line.strip("|")) for line in lines[start + 2 : end]]
    return {cells[0].strip(" `"): [cell.strip().replace("\\|", "|") for cell in cells[1:]] for cells in told}


def test_the_table_of_definitions_is_the_package_s():
    expected = {name: [one.meaning, one.use, one.needs] for name, one in DEFINITIONS.items()}
    assert list(rows()) == list(expected)
    assert rows() == expected
