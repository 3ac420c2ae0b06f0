"""Picking rows out of tidy frames."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def where(frame: "pd.DataFrame", **conditions: Any) -> "pd.DataFrame":
    """The rows whose columns equal the given values (or are among a list of them)."""
    for column, wanted in conditions.items():
        several = wanted if isinstance(wanted, list | tuple | set) else [wanted]
        frame = frame[frame[column].isin(list(several))]
    return frame


def per_seed(frame: "pd.DataFrame", **conditions: Any) -> "pd.Series":
    """One value for each seed, the mean of the rows that are left: what a verdict is made of.

    An undefined value makes its seed's value undefined too, so that no verdict leaves it out unsaid.
    """
    kept = where(frame, **conditions)
    return kept.groupby("seed")["value"].agg(lambda values: values.mean(skipna=False))


def trend(across: "pd.Series", values: "pd.Series") -> float:
    """Spearman's rank correlation; NaN where a value is undefined, rather than the correlation of the others."""
    return math.nan if values.isna().any() else float(across.corr(values, "spearman"))


def largest_step(means: "pd.DataFrame") -> "pd.Series":
    """Largest step between neighbouring columns over the whole rise, for each row; NaN where nothing rises.

    Args:
        means: A row for each seed, a column for each condition in order, the unaltered network first.
    """
    rise = means.sub(means.iloc[:, 0], axis=0)
    whole = rise.iloc[:, -1]
    steps = rise.diff(axis=1).iloc[:, 1:].max(axis=1, skipna=False)
    return (steps / whole).where(whole > 0)


def means_over_draws(rows: "pd.DataFrame", by: str) -> "pd.DataFrame":
    """Mean value for every seed (rows) and level of `by` (columns); an undefined draw makes its mean undefined."""
    return rows.groupby(["seed", by])["value"].agg(lambda values: values.mean(skipna=False)).unstack()
