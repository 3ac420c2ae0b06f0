"""Rows of a path spectrum, from what was measured for each length."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradscope.studies.paths.counts import MERGED, NO_PATH, UNSURE, Counts, as_float, square_root
from gradscope.studies.paths.estimates import defined_examples, few_draws, over_draws, over_examples
from gradscope.studies.paths.norms import Scaled
from gradscope.studies.paths.rows import NO_GRADIENT, row

Row = dict[str, Any]
Triple = Sequence[Tensor]
ONE_DRAW = "one draw gives no interval"
STILL = "no path has a norm above zero"
TOO_SMALL = "the square is below what float64 holds: its root is incoherent_norm"
MANY = "more paths than a float holds"
CANCELLED = "the paths cancelled in every draw: take more draws, or look at single paths (sampled=)"
NARROW = (
    "paths pull together: the interval may be too narrow (in tests it held the truth 42 to 97 times in 100); take "
    "8 draws for each unit of coherence, or look at single paths (sampled=), which differ little then"
)


@dataclass(frozen=True)
class Lengths:
    """What rows of every quantity need.

    Attributes:
        counts: Of the paths.
        lost: For each length why its gradient is unknown; empty where it is not.
        unit: Of a gradient.
    """

    counts: Counts
    lost: Sequence[str]
    unit: str

    def __len__(self) -> int:
        return len(self.lost)

    @property
    def squared_unit(self) -> str:
        return f"({self.unit})^2"

    def rows(
        self,
        quantity: str,
        unit: str,
        bands: Triple,
        *,
        undefined: str | Callable[[int], str] = NO_GRADIENT,
        estimators: Sequence[str] | None = None,
        n: int = 1,
        notes: Sequence[str] = (),
    ) -> list[Row]:
        """One row a length, from values and the ends of their intervals; lost lengths are undefined."""
        made = []
        for length, (value, low, high) in enumerate(zip(*(band.tolist() for band in bands), strict=True)):
            lost = self.lost[length]
            why = lost or (undefined if isinstance(undefined, str) else undefined(length))
            said = NO_PATH if self.counts.none(length) else notes[length] if notes else ""
            columns = {"path_length": length, "low": low, "high": high, "n": n, "reason": said}
            if estimators is not None:
                columns["estimator"] = estimators[length]
            made.append(row(quantity, unit, math.nan if lost else value, undefined=why, **columns))
        return made


def count_rows(lengths: Lengths) -> list[Row]:
    """Numbers of paths, and their shares of those of all lengths measured."""
    numbers = lengths.counts.numbers
    reason = lengths.counts.reason or MANY
    rows = []
    total = sum(numbers[: len(lengths)]) if numbers is not None else 0
    for length in range(len(lengths)):
        number = math.nan if numbers is None else as_float(numbers[length])
        share = numbers[length] / total if numbers is not None and total else math.nan
        where: Row = {"path_length": length, "undefined": reason}
        rows.append(row("path_count", "paths", number, **where))
        rows.append(row("path_count_share", "1", share, **where))
    return rows


def exact_rows(lengths: Lengths, graded: Scaled, whole: Tensor) -> list[Row]:
    """Signed shares, and norms of the gradients of each length.

    Args:
        lengths: As given to all.
        graded: [K+1, E, D].
        whole: The gradient, [E, D].
    """
    norms = coherent_norms(graded)
    kept, note = defined_examples(signed_shares(graded, whole))
    examples = norms.shape[1]
    norm = over_examples(norms)
    total = _known(norm[0], lengths.lost).sum()
    return [
        *lengths.rows("signed_share", "1", over_examples(kept), n=kept.shape[1], notes=[note] * len(lengths)),
        *lengths.rows("coherent_norm", lengths.unit, _at_least_zero(norm), n=examples),
        *lengths.rows(
            "coherent_norm_share", "1", [band / total for band in _at_least_zero(norm)], n=examples
        ),
    ]


def coherent_norms(graded: Scaled) -> Tensor:
    """|g_k| for each length and example, [K+1, E], on the CPU."""
    return graded.restored(torch.linalg.vector_norm(graded.rows, dim=2).T).T


def signed_shares(graded: Scaled, whole: Tensor) -> Tensor:
    """<g_k, g> / |g|^2 for each length and example, [K+1, E], on the CPU; NaN where g is zero."""
    largest = whole.abs().amax(dim=1, keepdim=True)
    unit = whole / largest
    part = torch.einsum("ked,ed->ke", graded.rows, unit) / unit.square().sum(dim=1) / largest[:, 0]
    return graded.restored(part.T).T


def sign_rows(lengths: Lengths, sums: Tensor, corrected: Tensor, graded: Scaled) -> list[Row]:
    """What follows from the sums of squared path norms; undefined where signs do not tell paths apart.

    Args:
        lengths: As given to all.
        sums: Estimates of them, one a draw, in units of `graded`, [R, K+1, E].
        corrected: Whether a control variate was used, [K+1].
        graded: The gradients by length.
    """
    counts = lengths.counts
    coherent = graded.rows.square().sum(dim=2).mean(dim=1).cpu()
    # N paths with a sum of that norm have at least this sum of squares (Cauchy and Schwarz).
    least = torch.where(corrected, coherent / _each(counts, len(lengths), as_float), 0.0)
    bands = list(over_draws(sums, least))
    why = _unknown(counts, (bands[0] == 0) & (coherent > 0))
    bands = [torch.where(torch.tensor([bool(said) for said in why]), math.nan, band) for band in bands]
    squares = [graded.restored(band, 2) for band in bands]
    squares[0] = torch.where((squares[0] == 0) & (bands[0] > 0), math.nan, squares[0])
    # Roots before the powers of two, for their squares may be less than any float.
    norm = [graded.restored(band.sqrt()) for band in bands]
    roots = _each(counts, len(lengths), square_root)
    many = MANY if torch.isinf(roots).any() else STILL
    roots = torch.where(torch.isinf(roots), math.nan, roots)
    path = [band / roots for band in norm]
    product = [band * roots for band in norm]
    # Of one batch: that examples differ moves both alike.
    whole_batch, low, high = over_draws(sums.mean(dim=2, keepdim=True), least)
    coherence = torch.where(torch.isnan(bands[0]), math.nan, coherent / whole_batch)
    options = _options(lengths, len(sums), corrected, coherence)

    unknown = [lost or gone for lost, gone in zip(lengths.lost, why, strict=True)]
    total, whole = (_known(band[0], unknown).sum() for band in (norm, product))

    def otherwise(reason: str) -> Row:
        return options | {"undefined": lambda k: NO_PATH if counts.none(k) else why[k] or reason}

    norms, single = otherwise(NO_GRADIENT), otherwise(counts.reason or many)
    return [
        *lengths.rows("squared_path_norms", lengths.squared_unit, squares, **otherwise(TOO_SMALL)),
        *lengths.rows("incoherent_norm", lengths.unit, norm, **norms),
        *lengths.rows("incoherent_norm_share", "1", [band / total for band in norm], **norms),
        *lengths.rows("rms_path_norm", lengths.unit, path, **single),
        *lengths.rows("veit_product", lengths.unit, product, **single),
        *lengths.rows("veit_product_share", "1", [band / whole for band in product], **single),
        *lengths.rows("coherence", "1", [coherence, coherent / high, coherent / low], **otherwise(STILL)),
    ]


def _unknown(counts: Counts, cancelled: Tensor) -> list[str]:
    """For each length why random signs do not say what the sum of squared path norms is; empty if they do."""
    mixed = MERGED if counts.told_apart is False else ""
    return [
        "" if counts.none(length) else mixed or (CANCELLED if gone else "")
        for length, gone in enumerate(cancelled.tolist())
    ]


def _options(lengths: Lengths, draws: int, corrected: Tensor, coherence: Tensor) -> Row:
    """What rows by signs say of how they were estimated, and of what to make of their intervals."""
    estimators, notes = [], []
    for used, size in zip(corrected.tolist(), coherence.tolist(), strict=True):
        estimators.append("random signs, control variate" if used else "random signs")
        note = ONE_DRAW if draws == 1 else NARROW if few_draws(draws, size) else ""
        notes.append("; ".join(filter(None, (note, UNSURE if lengths.counts.told_apart is None else ""))))
    return {"n": draws, "estimators": estimators, "notes": notes}


def _each(counts: Counts, lengths: int, form: Callable[[int], float]) -> Tensor:
    """A form of the number of paths of each length; NaN where it is unknown, or is not one of paths told apart."""
    numbers = [counts.of(length) if counts.told_apart else None for length in range(lengths)]
    return torch.tensor([math.nan if n is None else form(n) for n in numbers], dtype=torch.float64)


def _known(values: Tensor, lost: Sequence[str]) -> Tensor:
    return torch.where(torch.tensor([not why for why in lost]), values, 0.0)


def _at_least_zero(bands: Triple) -> list[Tensor]:
    return [bands[0], bands[1].clamp(min=0), bands[2]]
