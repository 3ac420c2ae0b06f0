"""Logarithms of norms against exact arithmetic, at scales where squares do not exist."""

import math

import pytest
import torch

from gradscope.measures.log_norm import log_norms, log_root_mean_square


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", [0, -100, 100])
def test_norms_are_those_of_the_rows_at_any_scale(dtype, exponent):
    rows = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = [math.log(math.hypot(*row)) + exponent * math.log(2) for row in rows.tolist()]
    torch.testing.assert_close(log_norms(rows * 2.0**exponent), torch.tensor(expected, dtype=torch.float64))


def test_norms_below_the_root_of_the_smallest_double():
    rows = torch.tensor([[3e-300, 4e-300], [3e300, 4e300]], dtype=torch.float64)
    expected = torch.tensor([math.log(5) - 300 * math.log(10), math.log(5) + 300 * math.log(10)])
    torch.testing.assert_close(log_norms(rows), expected.double())


def test_many_rows_are_taken_in_blocks(monkeypatch):
    rows = torch.randn(11, 3, generator=torch.Generator().manual_seed(0))
    whole = log_norms(rows)
    for held in (1, 7, 12):
        monkeypatch.setattr("gradscope.measures.log_norm._HELD", held)
        assert torch.equal(log_norms(rows), whole)


def test_rows_without_a_size():
    rows = torch.tensor([[0.0, 0.0], [1.0, math.inf], [1.0, math.nan]])
    assert log_norms(rows)[:2].tolist() == [-math.inf, math.inf] and log_norms(rows)[2].isnan()
    assert log_norms(torch.ones(2, 0)).tolist() == [-math.inf, -math.inf]
    with pytest.raises(ValueError, match=r"needs a matrix \[N, D\]"):
        log_norms(torch.ones(3))


def test_root_mean_square_of_tiny_numbers():
    numbers = [3.0, 4.0, 0.0]
    logarithms = torch.tensor([math.log(n) - 1000 if n else -math.inf for n in numbers], dtype=torch.float64)
    expected = math.log(math.sqrt(sum(n * n for n in numbers) / 3)) - 1000
    assert float(log_root_mean_square(logarithms)) == pytest.approx(expected, abs=1e-12)
    assert float(log_root_mean_square(torch.full((2,), -math.inf))) == -math.inf
    assert log_root_mean_square(torch.empty(0)).isnan()
