"""Padding, logits that are no numbers, and few examples: what a lesion study leaves out, and what it says."""

import math

import pytest
import torch
from networks import Residual, mlp
from torch import Tensor, nn
from torch.nn import functional

from gradscope.problem import Problem
from gradscope.studies import lesion_metrics
from gradscope.studies.lesion_estimates import Reading, estimated
from gradscope.studies.lesion_metrics import metrics_of
from gradscope.studies.lesion_study import lesion_study
from gradscope.studies.reordering_study import reordering_study

ONLY_SINGLES = {"sets": (), "groups": None, "show": False}
X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
# With class 0 first: argmax of NaN names class 0.
Y = torch.tensor([0, 0, 1, 2, 0, 1])


class Masked(nn.Module):
    """Tokens that attend to none, with a mask that only a reader of the outputs minds."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[Residual(mlp(4, 5, 4)) for _ in range(2)])
        self.out = nn.Linear(4, 7)

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        return self.out(self.blocks(tokens))


class Spoiled(nn.Module):
    """Logits of the first example are NaN: all of them, or one."""

    def __init__(self, logits: slice) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[0, self.logits] = math.nan
        return x


def residual(*last: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        blocks = [Residual(mlp(4, 5, 4)) for _ in range(2)]
        return nn.Sequential(*blocks, nn.Linear(4, 3), *last).double().eval()


@pytest.mark.parametrize("held", [2**22, 21], ids=["together", "one example at a time"])
@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.float64])
def test_divergence_leaves_padding_out(dtype, held, monkeypatch):
    monkeypatch.setattr(lesion_metrics, "_HELD", held)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model, tokens = Masked().double().eval(), torch.randn(3, 3, 4, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 1, 1]]).to(dtype)
    problem = Problem(model, {"tokens": tokens, "attention_mask": mask})
    frame = lesion_study(problem, metric="kl", **ONLY_SINGLES)
    with torch.no_grad():
        intact, closed = model(tokens, mask).softmax(-1), model.out(model.blocks[1](tokens)).softmax(-1)
    expected = 0.0
    for example in range(3):
        counted = [place for place in range(3) if mask[example, place]]
        for place in counted:
            p, q = intact[example, place].tolist(), closed[example, place].tolist()
            gap = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            expected += gap / len(counted) / 3
    assert frame[frame["quantity"] == "kl"]["value"].iloc[0] == pytest.approx(expected, rel=1e-12)


def test_an_example_that_is_all_padding_is_undefined():
    mask = torch.tensor([[1, 1], [0, 0]])
    problem = Problem(Masked(), {"tokens": torch.randn(2, 2, 4), "attention_mask": mask})
    frame = lesion_study(problem, metric="kl", **ONLY_SINGLES)
    assert set(frame["reason"]) == {"1 of 2 examples have no finite value"}


def test_classes_ruled_out_on_both_sides_add_nothing_and_on_one_side_everything():
    (kl,) = metrics_of("kl", Problem(nn.Identity(), X), [None])
    out = -math.inf
    intact = torch.tensor([[0.0, 1.0, out], [0.0, 1.0, out], [0.0, 1.0, 2.0]])
    lesioned = torch.tensor([[0.0, 1.0, out], [1.0, 1.0, out], [0.0, 1.0, out]])
    values = kl.values(lesioned, None, intact, X[:3]).tolist()
    p = 1 / (1 + math.e)
    assert values == pytest.approx([0.0, p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)), math.inf])


@pytest.mark.parametrize("logits", [slice(None), slice(1, 2)], ids=["all", "one"])
@pytest.mark.parametrize("metric", ["error", "margin", "kl", "loss"])
def test_logits_that_are_not_numbers_leave_every_metric_undefined(metric, logits):
    model = residual(Spoiled(logits))
    problem = Problem(model, (X, Y))
    lesions = lesion_study(problem, metric=metric, **ONLY_SINGLES)
    orders = reordering_study(problem, metric=metric, swaps=[1], draws=1, show=False)
    for frame in (lesions, orders[orders["quantity"] != "kendall_tau"]):
        measured = frame[frame["quantity"] != "chance_error"]
        assert set(measured["status"]) == {"undefined"} and measured["value"].isna().all()
        assert measured["p_value"].isna().all()
        assert set(measured["reason"]) == {"1 of 6 examples have no finite value"}
        chance = frame[frame["quantity"] == "chance_error"]
        assert chance["status"].tolist() == ["ok"] * (metric == "error")
        assert chance["value"].tolist() == [0.5] * (metric == "error")


def test_a_finite_answer_counts_beside_infinite_logits():
    (error,) = metrics_of("error", Problem(nn.Identity(), X), [Y])
    output = torch.tensor([[-math.inf, 1.0], [math.inf, 1.0], [math.nan, 1.0], [1.0, math.nan]])
    values = error.values(output, torch.tensor([1, 1, 1, 1]), output, X[:4])
    assert values[:2].tolist() == [0.0, 1.0] and values[2:].isnan().all()


def row(values: Tensor, *, binary: bool = False, paired: bool) -> dict:
    labels = {"quantity": "q", "statistics": "none", "reason": ""}
    (only,) = estimated([Reading(labels, values.double(), binary, paired)], 200, 0)
    return only


def test_few_examples_are_told_of_where_the_bootstrap_is_used():
    told = "fewer than 30 examples: the bootstrap's interval is too narrow"
    assert row(torch.randn(29), paired=False)["reason"] == told
    assert row(torch.randn(29), paired=True)["reason"] == f"{told} and its test rejects too often"
    assert row(torch.randn(30), paired=True)["reason"] == ""
    for paired in (False, True):
        assert row(torch.ones(5), binary=True, paired=paired)["reason"] == ""
    equal = row(torch.full((4,), 1e-17), paired=True)
    assert equal["p_value"] == pytest.approx(1 / 201) and "rejects too often" in equal["reason"]


def test_a_study_of_few_examples_says_so_and_keeps_its_values():
    model = residual()
    frame = lesion_study((model, (X, Y)), metric=["loss", "error"], **ONLY_SINGLES)
    by_quantity = frame.groupby("quantity")["reason"].unique()
    assert "rejects too often" in by_quantity["loss_difference"][0]
    assert list(by_quantity["error_difference"]) == list(by_quantity["chance_error"]) == [""]
    intact = frame[frame["quantity"] == "intact_loss"].iloc[0]
    with torch.no_grad():
        assert intact["value"] == pytest.approx(functional.cross_entropy(model(X), Y).item(), rel=1e-12)
    assert intact["status"] == "ok" and math.isfinite(intact["low"])
