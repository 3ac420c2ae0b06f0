"""Lay the verdicts of two reports with different seeds side by side, in docs/verdicts.md.

python tests/record_verdicts.py reports reports/other-seeds      (the last step of `make verdicts`)
"""

import json
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "verdicts.md"


def measured(row: pd.Series) -> str:
    """A measured value with its interval, or the largest deviation of an exact claim."""
    if pd.isna(row["low"]):
        return f"{row['measured']:.3g}"
    return f"{row['measured']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"


def page(one: pd.DataFrame, other: pd.DataFrame, seeds: tuple[list[int], list[int]], date: str) -> str:
    """The page, from the two verdict tables."""
    both = one.merge(other, on=["claim_id", "part"], suffixes=("", "_other"), validate="one_to_one")
    if not len(both) == len(one) == len(other):
        raise ValueError("The two reports judge different claims. Make both with the same version.")
    differing = both[both["verdict"] != both["verdict_other"]]
    names = ", ".join(f"{row['claim_id']} {row['part']}".strip() for _, row in differing.iterrows())
    told = (
        f"{len(differing)} of {len(both)} verdicts differ: {names}."
        if names
        else f"All {len(both)} verdicts agree."
    )
    ranges = [f"{min(s)} to {max(s)}" for s in seeds]
    lines = [
        "# The verdicts over other seeds",
        "",
        f"The quick report was made twice, with seeds {ranges[0]} and with seeds {ranges[1]}; the second time on",
        f"{date}. {told}",
        "Measured values are means over seeds with their 95 % interval; for exact claims, the largest deviation.",
        "`make verdicts` makes this page.",
        "",
        f"| claim | criterion | seeds {ranges[0]} | verdict | seeds {ranges[1]} | verdict | agree |",
        "|---|---|---|---|---|---|---|",
    ]
    for _, row in both.iterrows():
        second = row[[c for c in both.columns if c.endswith("_other")]].rename(
            lambda c: c.removesuffix("_other")
        )
        agree = "yes" if row["verdict"] == second["verdict"] else "**no**"
        cells = [
            *(f"{row['claim_id']} {row['part']}".strip(), row["criterion"]),
            *(measured(row), row["verdict"], measured(second), second["verdict"], agree),
        ]
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main(folders: list[str]) -> None:
    tables = [pd.read_parquet(Path(folder) / "tables" / "verdicts.parquet") for folder in folders]
    facts = [json.loads((Path(folder) / "provenance.json").read_text(encoding="utf-8")) for folder in folders]
    seeds = (facts[0]["seeds"], facts[1]["seeds"])
    PAGE.write_text(page(tables[0], tables[1], seeds, str(facts[1]["date"])[:10]), encoding="utf-8")
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main(sys.argv[1:3])
