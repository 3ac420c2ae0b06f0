"""What exactly is claimed, and what would count as holding? Data, written before the run."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "claims.toml"

# kind -> the bounds it must have
KINDS = {
    "between": ("low", "high"),
    "at_least": ("low",),
    "at_most": ("high",),
    "exact": ("tolerance",),
}


@dataclass(frozen=True)
class Criterion:
    """What the interval of the measured value must satisfy.

    Attributes:
        kind: "between" (low <= value <= high), "at_least" (value >= low), "at_most" (value <= high),
            or "exact" (|value - target| <= tolerance for every single seed). Bounds belong to it.
        low: Lower bound, in the statistic's unit.
        high: Upper bound, in the statistic's unit.
        target: What an exact claim predicts.
        tolerance: Largest deviation an exact claim allows, >= 0.
        least_seeds: Fewer finite values than this give no verdict. 1 only for counts and closed
            forms, in which no seed occurs.
    """

    kind: str
    low: float = -math.inf
    high: float = math.inf
    target: float = 0.0
    tolerance: float = 0.0
    least_seeds: int = 5

    def __str__(self) -> str:
        """As a reader of the verdict table sees it."""
        return {
            "between": f"between {self.low:.4g} and {self.high:.4g}",
            "at_least": f"at least {self.low:.4g}",
            "at_most": f"at most {self.high:.4g}",
            "exact": f"equal to {self.target:.4g} within {self.tolerance:.4g}",
        }[self.kind]


@dataclass(frozen=True)
class Claim:
    """One row to be judged; a claim of several parts has several rows of one id.

    Attributes:
        id: Of the claims sheet, such as "S1".
        part: Which part of the claim; empty when there is one only.
        source: Paper, with its arXiv number.
        claim: What the paper says.
        prediction: What would then be measured.
        statistic: What is computed, once per seed.
        criterion: What counts as holding.
        margin: Why the criterion is as wide as it is.
        by: Which pieces of work owe the row.
    """

    id: str
    source: str
    claim: str
    prediction: str
    statistic: str
    criterion: Criterion
    part: str = ""
    margin: str = ""
    by: tuple[str, ...] = ()


def load_claims(path: str | Path = HERE) -> tuple[Claim, ...]:
    """All claims of a TOML file, in its order.

    Raises:
        ValueError: The file is not TOML; a key is unknown (the nearest known one is named),
            missing, or of the wrong type; two rows share id and part.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{Path(path).name} is not TOML: {error}. Correct the line it names.") from error
    _known(document, ["claims"], Path(path).name)
    claims = tuple(_claim(row, f"claim {i}") for i, row in enumerate(document.get("claims", []), start=1))
    seen: set[tuple[str, str]] = set()
    for claim in claims:
        if (claim.id, claim.part) in seen:
            raise ValueError(
                f"Claim {claim.id!r}, part {claim.part!r}, is there twice. Give each row its own part."
            )
        seen.add((claim.id, claim.part))
    return claims


def claim(id: str, part: str | None = None, path: str | Path = HERE) -> Claim:
    """The one row of this id (and part).

    Raises:
        ValueError: There is no such row, or several and `part` does not choose.
    """
    everything = load_claims(path)
    rows = [c for c in everything if c.id == id and part in (None, c.part)]
    if len(rows) == 1:
        return rows[0]
    if rows:
        raise ValueError(f"Claim {id} has {len(rows)} parts: {[c.part for c in rows]}. Name one as part=.")
    parts = [c.part for c in everything if c.id == id]
    there = f"its parts are {parts}" if parts else f"there are {sorted({c.id for c in everything})}"
    raise ValueError(
        f"No claim {id!r}" + (f" with part {part!r}" if part is not None else "") + f"; {there}."
    )


def _claim(row: Any, where: str) -> Claim:
    where = f"{where} ({row['id']})" if isinstance(row, dict) and "id" in row else where
    _keys(row, Claim, where)
    for key, value in row.items():
        if key not in ("criterion", "by") and not isinstance(value, str):
            raise ValueError(f"{where}: {key} is to be text, got {value!r}.")
    by = row.get("by", [])
    if not isinstance(by, list) or not all(isinstance(one, str) for one in by):
        raise ValueError(f'{where}: by is to be a list of texts such as ["A", "E"], got {by!r}.')
    return Claim(**{**row, "criterion": _criterion(row["criterion"], where), "by": tuple(by)})


def _criterion(row: Any, where: str) -> Criterion:
    where = f"{where}, criterion"
    _keys(row, Criterion, where)
    kind = row["kind"]
    if kind not in KINDS:
        raise ValueError(f"{where}: kind is one of {list(KINDS)}, got {kind!r}.{_nearest(kind, KINDS)}")
    needed = KINDS[kind]
    allowed = {"kind", "least_seeds", *needed, *(["target"] if kind == "exact" else [])}
    missing, surplus = set(needed) - set(row), set(row) - allowed
    if missing or surplus:
        raise ValueError(
            f"{where}: {kind!r} takes {list(needed)}; missing {sorted(missing)}, surplus {sorted(surplus)}."
        )
    for key in set(row) - {"kind"}:
        value = row[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{where}: {key} is to be a finite number, got {value!r}.")
    if kind == "between" and row["low"] > row["high"]:
        raise ValueError(f"{where}: low {row['low']} lies above high {row['high']}. Exchange them.")
    if row.get("tolerance", 0) < 0 or row.get("least_seeds", 5) < 1 or row.get("least_seeds", 5) % 1:
        raise ValueError(f"{where}: tolerance is >= 0 and least_seeds a whole number >= 1, got {row}.")
    return Criterion(**row)


def _keys(row: Any, kind: type, where: str) -> None:
    """Exactly the dataclass's fields: none unknown, none without a default left out."""
    if not isinstance(row, dict):
        raise ValueError(f"{where} is to be a table of keys, got {row!r}.")
    _known(row, [field.name for field in fields(kind)], where)
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in row]
    if missing:
        raise ValueError(f"{where} lacks {missing}. Add them.")


def _known(row: Mapping[str, Any], known: list[str], where: str) -> None:
    for key in row:
        if key not in known:
            raise ValueError(
                f"{where} has the unknown key {key!r}.{_nearest(key, known)} Known keys: {known}."
            )


def _nearest(key: Any, known: Any) -> str:
    close = difflib.get_close_matches(str(key), list(known), n=1, cutoff=0.4)
    return f" Did you mean {close[0]!r}?" if close else ""
