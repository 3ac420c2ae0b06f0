"""The top eigenspace and the gradient's share in it, against dense eigenvectors."""

import math

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from cases import CASES, classes
from dense_curvature import dense_gradient, dense_hessian
from torch import nn

from gradscope.problem import Problem
from gradscope.studies.top_subspace import top_subspace


def by_rank(frame, quantity):
    return frame[frame["quantity"] == quantity].sort_values("rank")


def only(frame, quantity):
    (row,) = frame[frame["quantity"] == quantity].to_dict("records")
    return row


@pytest.mark.parametrize(
    "case", ["plain", "residual", "short last batch", "batch norm train", "half squared error"]
)
def test_shares_match_dense_eigenvectors_within_their_bounds(case):
    problem = CASES[case]()
    values, vectors = torch.linalg.eigh(dense_hessian(problem))
    gradient = dense_gradient(problem)
    overlaps = (vectors.flip(1).T @ gradient).square() / gradient.square().sum()
    frame = top_subspace(problem, 5, tolerance=1e-4)
    found = by_rank(frame, "eigenvalue")
    assert list(found["value"]) == pytest.approx(values.flip(0)[:6].tolist(), rel=1e-4)
    shares = by_rank(frame, "gradient_share")
    assert list(shares["k"]) == [1, 2, 3, 4, 5]
    for share, exact in zip(shares.to_dict("records"), overlaps.cumsum(0).tolist(), strict=False):
        assert share["low"] - 1e-9 <= exact <= share["high"] + 1e-9
        assert share["value"] == pytest.approx(exact, abs=1e-3)
        assert share["status"] == "ok"


def test_the_share_of_a_random_direction():
    frame = top_subspace(CASES["plain"](), 3)
    size = 5 * 4 + 5 + 4 * 5 + 4 + 3 * 4 + 3
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(4000, size, generator=generator, dtype=torch.float64)
    for row in by_rank(frame, "random_share").to_dict("records"):
        k = int(row["rank"])
        shares = draws[:, :k].square().sum(1) / draws.square().sum(1)
        assert row["value"] == pytest.approx(k / size)
        assert float(shares.mean()) == pytest.approx(row["value"], rel=0.05)
        inside = ((row["low"] <= shares) & (shares <= row["high"])).double().mean()
        assert 0.935 < float(inside) < 0.965


def test_a_linear_model_of_noise_has_its_gradient_in_few_directions():
    """Of least squares every gradient is H (w - w*): with one input direction all of it is in one eigenvector."""
    inputs = torch.zeros(6, 4, dtype=torch.float64)
    inputs[:, 1] = torch.arange(1.0, 7.0)
    net = nn.Linear(4, 1, bias=False).double()
    problem = Problem(net, (inputs, torch.ones(6, 1, dtype=torch.float64)), "half_squared_error")
    frame = top_subspace(problem, 1)
    share = only(frame, "gradient_share")
    assert share["value"] == pytest.approx(1.0)
    assert only(frame, "classes")["status"] == "undefined"
    eigenvalue = by_rank(frame, "eigenvalue")["value"].iloc[0]
    assert eigenvalue == pytest.approx(float(inputs[:, 1].square().mean()))


def test_outliers_are_those_above_the_widest_gap():
    """Four features of large variance and eight of small: least squares has their second moments as eigenvalues."""
    scales = torch.tensor([9.0, 8.0, 7.0, 6.0, *[0.5 - 0.02 * i for i in range(8)]], dtype=torch.float64)
    inputs = torch.diag(scales)
    net = nn.Linear(12, 1, bias=False).double()
    problem = Problem(net, (inputs, torch.ones(12, 1, dtype=torch.float64)), "half_squared_error")
    frame = top_subspace(problem, 8, tolerance=1e-6)
    expected = (scales**2 / 12).tolist()
    assert list(by_rank(frame, "eigenvalue")["value"]) == pytest.approx(expected[:9], rel=1e-4)
    row = only(frame, "outliers")
    assert row["value"] == row["low"] == row["high"] == 4
    assert "9 eigenvalues known" in row["reason"]


def test_a_subspace_that_ends_among_unresolved_eigenvalues_has_an_open_share():
    """Two eigenvalues far apart, then a dense row of them, of which few products see but mixtures."""
    scales = torch.tensor([10.0, 8.0, 5.0, 4.8, *[4.4 - 0.05 * i for i in range(16)]], dtype=torch.float64)
    net = nn.Linear(20, 1, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.linspace(-1, 1, 20)[None])
    problem = Problem(net, (torch.diag(scales), torch.ones(20, 1, dtype=torch.float64)), "half_squared_error")
    shares = by_rank(top_subspace(problem, 4, tolerance=0.1), "gradient_share").set_index("rank")
    exact = (dense_gradient(problem).square() / dense_gradient(problem).square().sum()).cumsum(0).tolist()
    for rank in (1, 2):
        row = shares.loc[rank]
        assert row["low"] - 1e-9 <= exact[rank - 1] <= row["high"] + 1e-9
        assert row["high"] - row["low"] < 0.01
    assert (shares.loc[4, "low"], shares.loc[4, "high"]) == (0.0, 1.0)
    assert "not told apart" in shares.loc[4, "reason"]


def test_a_share_that_may_be_anything_is_not_ok():
    """The two parameters of each output of a linear model have the same eigenvalues as those of the others."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(20, 3).double(), torch.randn(20, 4).double()
    problem = Problem(nn.Linear(3, 4, bias=False).double(), (inputs, targets), loss="half_squared_error")
    shares = by_rank(top_subspace(problem, 5), "gradient_share")
    anything = (shares["low"] == 0) & (shares["high"] == 1)
    assert list(anything) == [True, True, True, False, True]
    assert list(shares["status"]) == ["unconverged" if open_end else "ok" for open_end in anything]


def test_one_parameter_has_no_subspace():
    problem = Problem(
        nn.Linear(1, 1, bias=False), (torch.ones(2, 1), torch.ones(2, 1)), loss="half_squared_error"
    )
    with pytest.raises(ValueError, match="needs two parameters or more"):
        top_subspace(problem)


def test_without_a_gap_the_outliers_are_undefined():
    row = only(top_subspace(CASES["residual"](), 4), "outliers")
    assert row["status"] == "undefined"
    assert "no gap" in row["reason"]


def test_the_default_is_twice_the_classes():
    frame = top_subspace(CASES["plain"]())
    assert only(frame, "classes")["value"] == 3
    assert by_rank(frame, "gradient_share")["rank"].max() == 6


def test_unconverged_vectors_are_told():
    shares = by_rank(top_subspace(CASES["residual"](), 4, max_products=6), "gradient_share")
    assert shares["status"].iloc[-1] == "unconverged"
    assert "products" in shares["reason"].iloc[-1]


def test_without_a_gradient_the_share_is_undefined():
    problem = CASES["half squared error"]()
    with torch.no_grad():
        (inputs, _) = problem.first_batch()
        problem = Problem(problem.model, (inputs, problem.model(inputs)), "half_squared_error")
    row = by_rank(top_subspace(problem, 2), "gradient_share").iloc[0]
    assert row["status"] == "undefined"
    assert math.isnan(row["value"])


def test_the_model_is_as_found():
    problem = CASES["batch norm running"]()
    used(problem.model)
    before = snapshot(problem.model)
    top_subspace(problem, 2)
    assert_as_found(problem.model, before)


@pytest.mark.parametrize("options", [{"k": 0}, {"k": 15}], ids=str)
def test_bad_options_are_told(options):
    with pytest.raises(ValueError, match="top_subspace needs 1 <= k < 15"):
        top_subspace(classes(nn.Linear(4, 3), 4), **options)
