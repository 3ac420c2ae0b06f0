"""Through paths of which length does the gradient flow?"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.gradients.paths import FLOAT32_LENGTHS, Paths, open_paths
from gradscope.problem import as_problem
from gradscope.theory.path_counts import path_counts

if TYPE_CHECKING:
    import pandas as pd


def path_spectrum(
    problem: Any,
    *,
    lengths: int | None = None,
    draws: int = 4,
    seed: int = 0,
    precision: torch.dtype | None = None,
) -> "pd.DataFrame":
    """The loss gradient at the input, by the number of residual branches its paths cross.

    Args:
        problem: Problem or (model, data); the first batch is used.
        lengths: Longest path length; None for all.
        draws: Random-sign backward runs for the sum of squared path norms; each costs as much as the
            exact split. 0 leaves the rows that need it out.
        seed: Of the signs.
        precision: torch.float64 measures a copy in that precision. Beyond 30 lengths float32 runs scaled
            by powers of two against underflow.

    Returns:
        Frame with columns `batch_norm`, `quantity`, `unit`, `path_length`, `value`, `low`, `high` (95 % over
        draws), `n` (draws), `status`, `reason`. Quantities:

        - `path_count`, `path_count_share`: number of paths, a chain's product of (1 + branches t);
        - `signed_share`: <g_k, g> / |g|^2, which adds up to 1 and may be negative: the headline;
        - `coherent_norm`, `coherent_norm_share`: |g_k|, what actually reaches the input;
        - `incoherent_norm`, `incoherent_norm_share`: sqrt(sum of squared norms of the paths);
        - `rms_path_norm`: of one path; `veit_product`, `veit_product_share`: number of paths times that,
          Veit's estimate with root mean square in place of the mean, an upper bound of |g_k|;
        - `coherence`: |g_k|^2 / sum of squared norms: 1 for mutually orthogonal paths, the number of
          paths for identical ones.

        Shares of norms are of their sum over k, over the lengths computed. Norms are of the whole batch.

    Raises:
        ValueError: As `path_gradients`; or `draws` below 0.

    Source:
        Veit et al. (2016), arXiv:1605.06431, figure 6; the split is exact.
    """
    import pandas as pd

    if draws < 0:
        raise ValueError(f"draws is a number of random-sign runs, at least 0, got {draws}.")
    problem = as_problem(problem)
    with open_paths(problem, precision) as paths:
        exact = paths.graded(lengths)
        squares = _signed_squares(paths, lengths, draws, seed)
        counts = _counts(paths, len(exact.gradients))
        precise = (
            "float32, scaled by 2^k" if _is_scaled(paths, len(exact.gradients)) else str(paths.loss.dtype)[6:]
        )
    rows = _count_rows(counts) + _exact_rows(exact.gradients, exact.gradient)
    if draws:
        rows += _incoherent_rows(squares, exact.gradients, counts)
    shared = {"batch_norm": problem.batch_norm_name, "dtype": precise}
    columns = ["quantity", "unit", "path_length", "value", "low", "high", "n", "status", "reason"]
    return pd.DataFrame([{**_BLANK, **row} for row in rows])[columns].assign(**shared)[[*shared, *columns]]


_BLANK = {"low": math.nan, "high": math.nan, "n": 1, "status": "ok", "reason": ""}
_NO_CHAIN = (
    "branches are not passed one after the other, so the product of block polynomials does not count paths"
)
_ONE_DRAW = "one draw gives no interval"


def _is_scaled(paths: Paths, lengths: int) -> bool:
    return paths.loss.dtype is torch.float32 and lengths - 1 > FLOAT32_LENGTHS


def _signed_squares(paths: Paths, lengths: int | None, draws: int, seed: int) -> Tensor:
    """|g_k(signs)|^2 for each draw: [draws, K+1]; its mean is the sum of squared path norms."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(draws):
        signs = torch.randint(0, 2, (paths.branches,), generator=generator) * 2 - 1
        rows.append(paths.graded(lengths, signs).gradients.flatten(start_dim=1).square().sum(dim=1).cpu())
    return torch.stack(rows) if rows else torch.empty(0, 0)


def _counts(paths: Paths, lengths: int) -> list[float]:
    if not paths.is_chain:
        return [math.nan] * lengths
    return [float(count) for count in path_counts([[1, len(j.branches)] for j in paths.junctions])][:lengths]


def _count_rows(counts: list[float]) -> list[dict[str, Any]]:
    total = sum(counts)
    status = {"status": "undefined", "reason": _NO_CHAIN} if math.isnan(total) else {}
    rows = []
    for k, count in enumerate(counts):
        rows.append({"quantity": "path_count", "unit": "paths", "path_length": k, "value": count} | status)
        rows.append(
            {"quantity": "path_count_share", "unit": "1", "path_length": k, "value": count / total} | status
        )
    return rows


def _exact_rows(gradients: Tensor, gradient: Tensor) -> list[dict[str, Any]]:
    flat, whole = gradients.flatten(start_dim=1), gradient.flatten()
    norms = torch.linalg.vector_norm(flat, dim=1)
    signed = flat @ whole / whole.square().sum()
    return (
        _exact("signed_share", "1", signed)
        + _exact("coherent_norm", "loss per input", norms)
        + _exact("coherent_norm_share", "1", norms / norms.sum())
    )


def _exact(quantity: str, unit: str, values: Tensor) -> list[dict[str, Any]]:
    return [
        {"quantity": quantity, "unit": unit, "path_length": k, "value": value}
        | (
            {}
            if math.isfinite(value)
            else {"status": "undefined", "reason": "the gradient is zero or not finite"}
        )
        for k, value in enumerate(values.tolist())
    ]


def _incoherent_rows(squares: Tensor, gradients: Tensor, counts: list[float]) -> list[dict[str, Any]]:
    from scipy.stats import t as student

    draws = len(squares)
    mean = squares.mean(dim=0)
    # The zeroth length crosses no sign: it is exact, and its spread is zero.
    error = (
        squares.std(dim=0, correction=1) / math.sqrt(draws) if draws > 1 else torch.full_like(mean, math.nan)
    )
    half = error * float(student.ppf(0.975, draws - 1)) if draws > 1 else error
    low, high = (mean - half).clamp(min=0), mean + half
    number = torch.tensor(counts, dtype=torch.float64)
    coherent = gradients.flatten(start_dim=1).square().sum(dim=1).cpu()
    norm = [band.sqrt() for band in (mean, low, high)]
    path = [band / number.sqrt() for band in norm]
    product = [band * number.sqrt() for band in norm]
    coherence = [coherent / mean, coherent / high, coherent / low]
    rows: list[dict[str, Any]] = []
    rows += _banded("incoherent_norm", "loss per input", norm, draws)
    rows += _banded("incoherent_norm_share", "1", [band / norm[0].sum() for band in norm], draws)
    rows += _banded("rms_path_norm", "loss per input", path, draws, _NO_CHAIN)
    rows += _banded("veit_product", "loss per input", product, draws, _NO_CHAIN)
    rows += _banded(
        "veit_product_share", "1", [band / product[0].sum() for band in product], draws, _NO_CHAIN
    )
    rows += _banded("coherence", "1", coherence, draws)
    return rows


def _banded(
    quantity: str, unit: str, bands: list[Tensor], draws: int, reason: str = "no path has a norm above zero"
) -> list[dict[str, Any]]:
    rows = []
    for k, (value, low, high) in enumerate(zip(*(band.tolist() for band in bands), strict=True)):
        row = {"quantity": quantity, "unit": unit, "path_length": k, "n": draws}
        row |= {"value": value, "low": low, "high": high}
        if not math.isfinite(value):
            row |= {"status": "undefined", "reason": reason}
        elif draws == 1:
            row |= {"reason": _ONE_DRAW}
        rows.append(row)
    return rows
