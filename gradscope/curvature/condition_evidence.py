"""What is known of a spectrum, and a condition number with its interval."""

from dataclasses import dataclass
from typing import Any

import numpy
import pandas
import torch
from torch import Tensor

from gradscope.curvature.eigenvalues import eigenvalue_frame
from gradscope.curvature.lanczos import Lanczos
from gradscope.curvature.operators import DENSE_LIMIT, Operator

RANKS = 64


@dataclass
class Found:
    """A condition number with its interval."""

    value: float
    low: float
    high: float
    status: str = "ok"
    reason: str = ""


@dataclass
class Eigenvalue:
    """One eigenvalue with bounds, and whether its rank is certain, too."""

    value: float
    low: float
    high: float
    converged: bool = True


@dataclass
class Evidence:
    """What a condition number is read off.

    Attributes:
        spectrum: All eigenvalues, ascending, [P] in float64; None where they cannot be had.
        eps: Rounding unit of the products that `spectrum` came from.
        frame: Rows as of `extreme_eigenvalues`, for the ends of a spectrum that is not wholly known.
        run: A Lanczos run that was not restarted.
        why_not_all: Why `spectrum` is None.
    """

    spectrum: numpy.ndarray | None = None
    eps: float = 0.0
    frame: pandas.DataFrame | None = None
    run: Lanczos | None = None
    why_not_all: str = ""

    def ranked(self, rank: int) -> Eigenvalue | None:
        """The eigenvalue of a rank (1 the largest, -1 the smallest); None where it is not known."""
        if self.spectrum is not None:
            if abs(rank) > len(self.spectrum):
                return None
            value = float(self.spectrum[-rank] if rank > 0 else self.spectrum[-rank - 1])
            noise = 10 * self.eps * float(numpy.abs(self.spectrum).max())
            return Eigenvalue(value, value - noise, value + noise)
        if self.frame is None:
            return None
        rows = self.frame[(self.frame["quantity"] == "eigenvalue") & (self.frame["rank"] == rank)]
        if len(rows) != 1 or not numpy.isfinite(rows["value"].iloc[0]):
            return None
        row = rows.iloc[0]
        return Eigenvalue(float(row["value"]), float(row["low"]), float(row["high"]), bool(row["converged"]))


def undefined(reason: str) -> Found:
    return Found(float("nan"), float("nan"), float("nan"), "undefined", reason)


def of_dense(operator: Operator) -> Evidence:
    """All eigenvalues, by P products; nothing but the reason where P is too large."""
    size = operator.shape[0]
    if size > DENSE_LIMIT:
        why = f"needs all eigenvalues, and P = {size} is over {DENSE_LIMIT}; kappa_lower bounds it from below"
        return Evidence(why_not_all=why)
    spectrum = torch.linalg.eigvalsh(operator.dense()).cpu().numpy()
    return Evidence(spectrum, torch.finfo(operator.dtype).eps)


def of_run(
    operator: Operator, max_products: int, seed: int, tolerance: float, max_basis_bytes: int = 2**31
) -> Evidence:
    """A Lanczos run of `max_products` steps, or of what the memory or the space holds, and its outer values."""
    each = max(1, operator.shape[0] * operator.dtype.itemsize)
    limit = min(max_products, max_basis_bytes // each)
    if limit < 1:
        raise ValueError(
            f"A Lanczos run needs max_products >= 1 and room for a vector of {each} bytes, got "
            f"max_products={max_products} and max_basis_bytes={max_basis_bytes}."
        )
    run = Lanczos(operator, seed=seed)
    while not run.exhausted and run.steps < limit:
        run.step()
    return Evidence(frame=eigenvalue_frame(run, RANKS, "both", tolerance), run=run)


def confirmed(frame: pandas.DataFrame, by: pandas.DataFrame) -> pandas.DataFrame:
    """Rows of one run, and in the place of those whose ranks a second start has looked at, these."""
    others = frame[~frame["rank"].isin(by["rank"])]
    return pandas.concat([by, others], ignore_index=True)


def of_values(eigenvalues: Any) -> Evidence:
    """All eigenvalues, as they were given.

    Raises:
        ValueError: They are no finite vector.
    """
    array = (
        eigenvalues.detach().cpu().numpy() if isinstance(eigenvalues, Tensor) else numpy.asarray(eigenvalues)
    )
    if array.ndim != 1 or len(array) == 0 or not numpy.isfinite(array).all():
        raise ValueError(
            "condition_number takes an Operator, the frame of extreme_eigenvalues, or all eigenvalues as a "
            f"finite vector [P]; got {type(eigenvalues).__name__} of shape {list(array.shape)}."
        )
    eps = numpy.finfo(array.dtype).eps if array.dtype.kind == "f" else numpy.finfo(float).eps
    return Evidence(numpy.sort(array.astype(float)), float(eps))
