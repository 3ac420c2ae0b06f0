"""Lengths whose gradient is too small for the numbers it is computed in, and those where it is zero."""

import math

import pytest
import torch
from networks import Residual
from torch import nn

from gradscope.problem import Problem
from gradscope.studies.path_spectrum import path_spectrum
from gradscope.studies.paths.rows import frame_of, row


def values(frame, quantity: str, column: str = "value") -> list[float]:
    return frame[frame["quantity"] == quantity].sort_values("path_length")[column].tolist()


def deep(gain: float, blocks: int = 8) -> Problem:
    """Branches that multiply by a gain, in float32."""
    layers = [nn.Linear(3, 3, bias=False) for _ in range(blocks)]
    for layer in layers:
        layer.weight.data = gain * torch.eye(3)
    model = nn.Sequential(*[Residual(layer) for layer in layers])
    return Problem(model, (torch.randn(2, 3), torch.zeros(2)), loss=lambda o, _: o.sum(dim=1))


@pytest.mark.parametrize(
    ("gain", "options", "kept", "remedy"),
    [
        (1e-9, {"engine": "vmap"}, 3, "pass precision=torch.float64"),
        (1e-36, {"precision": torch.float64}, 8, "path_moments needs no single length"),
    ],
)
def test_lengths_below_the_smallest_number_are_undefined_not_zero(gain, options, kept, remedy):
    """One batched backward lifts nothing, and beyond float64's range nothing else helps."""
    problem = deep(gain, 10)
    frame = path_spectrum(problem, draws=2, sampled=2, **options)
    status = frame[frame["quantity"] == "coherent_norm"].set_index("path_length")["status"]
    assert list(status) == ["ok"] * (kept + 1) + ["undefined"] * (10 - kept)
    for quantity in ("coherent_norm", "incoherent_norm", "mean_path_norm"):
        rows = frame[(frame["quantity"] == quantity) & (frame["path_length"] > kept)]
        assert rows["value"].isna().all() and rows["reason"].str.contains(remedy).all()
    expected = [math.sqrt(6) / 2 * math.comb(10, k) * gain**k for k in range(kept + 1)]
    assert values(frame, "coherent_norm")[: kept + 1] == pytest.approx(expected, rel=1e-5)


class Fading(nn.Module):
    """skip x + gain x."""

    def __init__(self, skip: float, gain: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.skip = skip
        self.branch = nn.Linear(3, 3, bias=False, dtype=dtype)
        self.branch.weight.data = gain * torch.eye(3, dtype=dtype)

    def forward(self, x):
        return self.skip * x + self.branch(x)


@pytest.mark.parametrize("engine", ["auto", "walk", "passes", "vmap"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_crosses_nothing_may_underflow_too(engine, dtype):
    """Skips of 1e-3 and 1e-30: 20 of them leave 1e-60 in float32, 1e-600 in float64."""
    skip = 1e-3 if dtype is torch.float32 else 1e-30
    blocks = nn.Sequential(*[Fading(skip, 1e-3 * skip, dtype) for _ in range(20)])
    problem = Problem(
        blocks, (torch.randn(2, 3, dtype=dtype), torch.zeros(2)), loss=lambda o, _: o.sum(dim=1)
    )
    frame = path_spectrum(problem, draws=2, sampled=2, lengths=2, engine=engine)
    rows = frame[frame["quantity"].isin(["coherent_norm", "incoherent_norm", "mean_path_norm"])]
    for one in rows.to_dict("records"):
        if one["status"] == "ok":
            expected = math.sqrt(6) / 2 * skip**20 * 1e-3 ** one["path_length"]
            number = math.comb(20, one["path_length"])
            power = {"coherent_norm": 1, "incoherent_norm": 0.5, "mean_path_norm": 0}[one["quantity"]]
            assert one["value"] == pytest.approx(expected * number**power, rel=0.5, abs=0)
        else:
            assert one["reason"].startswith("paths of this length exist")
    if dtype is torch.float64:
        assert set(rows["status"]) == {"undefined"}


@pytest.mark.parametrize("engine", ["auto", "walk", "passes", "vmap"])
def test_a_gradient_that_is_zero_is_no_loss(engine):
    """The head hands back nothing, whatever it is multiplied by."""
    model = nn.Sequential(*[Fading(1, 0.5, torch.float32) for _ in range(5)], nn.Linear(3, 2))
    model[-1].weight.data.zero_()
    frame = path_spectrum((model, (torch.randn(2, 3), torch.tensor([0, 1]))), draws=4, engine=engine)
    assert set(frame.query("quantity == 'coherent_norm'")["status"]) == {"ok"}
    undefined = frame[frame["status"] == "undefined"]
    assert {"signed_share", "coherence", "veit_product_share"} <= set(undefined["quantity"])
    assert undefined["reason"].ne("").all() and undefined["value"].isna().all()


def test_rows_that_miss_a_number_say_why():
    fine = row("path_count", "paths", 1.0, path_length=0)
    assert len(frame_of([fine, row("a", "1", math.nan, path_length=0)], {}, ["path_length"])) == 2
    for wrong in (
        row("a", "1", math.nan, undefined="", path_length=0),
        fine | {"value": math.nan},
        fine | {"status": "undefined", "reason": "why"},
    ):
        with pytest.raises(RuntimeError, match="says why"):
            frame_of([fine, wrong], {}, ["path_length"])


def test_squares_below_the_smallest_number_leave_their_roots():
    """In float64 norms of 1e-200 have squares of 1e-400."""
    frame = path_spectrum(deep(1e-25), draws=2, precision=torch.float64)
    expected = [math.sqrt(6) / 2 * math.sqrt(math.comb(8, k)) * 1e-25**k for k in range(9)]
    assert values(frame, "incoherent_norm")[8] == pytest.approx(expected[8], rel=1e-5)
    assert values(frame, "coherence")[8] == pytest.approx(1, rel=1e-6)
    squares = frame[frame["quantity"] == "squared_path_norms"].set_index("path_length")
    assert list(squares["status"]) == ["ok"] * 7 + ["undefined"] * 2
    assert squares["reason"][8].endswith("its root is incoherent_norm")


def test_branches_that_hand_back_exact_zeros_have_exact_zeros():
    assert set(path_spectrum(deep(0), draws=0)["status"]) == {"ok"}
    problem = deep(0.5)
    for block in problem.model[2:]:
        block.branch.weight.data.zero_()
    frame = path_spectrum(problem, draws=0)
    assert set(frame["status"]) == {"ok"}
    norms = values(frame, "coherent_norm")
    assert all(norms[:3]) and not any(norms[3:])
