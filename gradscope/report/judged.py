"""A verdict table from what was measured, claim by claim."""

from collections.abc import Iterable, Mapping

import pandas as pd

from gradscope.report.claims import claim
from gradscope.report.verdicts import verdict, verdict_table


def judged(
    measured: Mapping[tuple[str, str], Iterable[float]],
    *,
    settings: str | Mapping[str, str],
    reason: str = "",
) -> pd.DataFrame:
    """Verdicts on claims, in the order given.

    Args:
        measured: {(claim id, part): the claim's statistic, one value per seed}.
        settings: What it was measured on, in words; or by claim id, where claims differ, and by "id part", where one
            part differs from the others.
        reason: Why there are no values, where there are none.
    """
    rows = []
    for (id, part), values in measured.items():
        numbers = list(values)
        named = f"{id} {part}"
        told = settings if isinstance(settings, str) else settings[named if named in settings else id]
        rows.append(verdict(claim(id, part), numbers, settings=told, reason="" if numbers else reason))
    return verdict_table(rows)
