"""Picking rows out of tidy frames."""

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
