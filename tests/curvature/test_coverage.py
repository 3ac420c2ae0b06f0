"""How often the intervals hold the truth, over 40 draws of each matrix of the table.

95 % is asked for. Over 1000 draws the rates are 0.91 to 0.99, but 0.86 to 0.92 with 10 probes of the rank-2 and
rank-6 matrices, where a few eigenvalues decide. Three binomial standard deviations of 40 draws below 0.92 are 0.79,
below 0.87 they are 0.71.
"""

import numpy
import pytest
import torch
from curvature_matrices import MATRICES, SIZE
from torch import Tensor

from gradscope.curvature import MatrixOperator
from gradscope.curvature.density import _shares, _traces
from gradscope.curvature.hutchinson import Hutchinson
from gradscope.curvature.probes import mean_of
from gradscope.curvature.quadrature import recurrences
from gradscope.curvature.trace import trace

DRAWS = 40
LEAST = dict.fromkeys(MATRICES, 0.79) | dict.fromkeys(("rank 2", "rank 6, indefinite"), 0.71)


def truths(matrix: Tensor) -> dict[str, float]:
    values = torch.linalg.eigvalsh(matrix)
    total, square = float(values.sum()), float(values.square().sum())
    return {"trace": total, "trace_of_square": square, "participation_ratio": total**2 / square}


def held(row: dict, truth: float) -> bool:
    rounding = 1e-9 * (1 + abs(truth))
    return bool(row["low"] - rounding <= truth <= row["high"] + rounding)


@pytest.mark.parametrize("name", MATRICES)
def test_what_the_density_comes_with(name: str) -> None:
    matrix = MATRICES[name]
    values = torch.linalg.eigvalsh(matrix)
    threshold = numpy.pi * float(values[-1] - values[0]) / 8
    expected = truths(matrix) | {
        "absolute_trace": float(values.abs().sum()),
        "negative_share": float((values < -threshold).double().mean()),
        "share_above": float((values.abs() > threshold).double().mean()),
    }
    counts = dict.fromkeys(expected, 0)
    for seed in range(DRAWS):
        runs, _ = recurrences(MatrixOperator(matrix), 10, 8, seed)
        for row in [*_traces(runs, SIZE), *_shares(runs, 0.0, threshold)]:
            counts[row["quantity"]] += held(row, expected[row["quantity"]])
    assert {quantity: n for quantity, n in counts.items() if n / DRAWS < LEAST[name]} == {}


@pytest.mark.parametrize("method", ["hutchinson", "xtrace"])
@pytest.mark.parametrize("name", MATRICES)
def test_what_the_trace_comes_with(name: str, method: str) -> None:
    """Stopped by accuracy or by 40 products, whichever is first."""
    matrix = MATRICES[name]
    expected = truths(matrix)
    counts = dict.fromkeys(expected, 0)
    two_errors = 0
    for seed in range(DRAWS):
        frame = trace(MatrixOperator(matrix), method=method, accuracy=0.1, max_products=40, seed=seed)
        for row in frame.to_dict("records"):
            counts[row["quantity"]] += held(row, expected[row["quantity"]])
        row = frame.to_dict("records")[0]
        two_errors += abs(row["value"] - expected["trace"]) <= 2 * row["standard_error"] + 1e-9
    assert {quantity: n for quantity, n in counts.items() if n / DRAWS < 0.79} == {}
    assert two_errors / DRAWS >= 0.79


def test_two_standard_errors_of_thirty_vectors_hold_the_trace() -> None:
    """At least 0.85 of 60 runs, of a decaying and of an indefinite matrix."""
    for name in ("exponential decay", "indefinite", "outliers and bulk"):
        matrix = MATRICES[name]
        hits = 0
        for seed in range(60):
            probes = Hutchinson(MatrixOperator(matrix), torch.Generator().manual_seed(seed))
            probes.extend(30)
            row = mean_of(numpy.array(probes.traces))
            hits += abs(row["value"] - float(matrix.trace())) <= 2 * row["standard_error"]
        assert hits / 60 >= 0.85
