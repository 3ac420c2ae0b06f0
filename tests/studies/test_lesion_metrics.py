"""Padding, logits that are no numbers, and few examples: what a lesion study leaves out, and what it says."""

import math

import pytest
import torch
from networks import Residual, mlp
from torch import Tensor, nn
from torch.nn import functional

from gradscope.problem import Problem
from gradscope.studies.lesion_study import lesion_study
from gradscope.studies.lesions import metrics as lesion_metrics
from gradscope.studies.lesions.estimates import Reading, estimated
from gradscope.studies.lesions.metrics import metrics_of
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


def test_a_divergence_is_measured_and_not_tested():
    """It is never negative, so that a mean above 0 says nothing."""
    model, x = residual(), torch.randn(40, 4, generator=torch.Generator().manual_seed(1)).double()
    y = torch.arange(40) % 3
    studies = [
        lesion_study((model, (x, y)), metric=["kl", "loss"], resamples=100, **ONLY_SINGLES),
        reordering_study((model, (x, y)), metric=["kl", "loss"], swaps=[], resamples=100, show=False),
    ]
    for frame in studies:
        rows = frame[frame["quantity"] == "kl_difference"]
        assert len(rows) and rows[["p_value", "p_holm"]].isna().all(axis=None)
        assert (rows["low"] <= rows["value"]).all() and (rows["value"] <= rows["high"]).all()
        assert rows["reason"].str.contains("never negative, so there is nothing to test; read its size").all()
        assert set(rows["status"]) == {"ok"}
        tested = frame[frame["quantity"] == "loss_difference"]
        assert tested[["p_value", "p_holm"]].notna().all(axis=None) and set(tested["reason"]) == {""}
        assert (frame[frame["quantity"] == "kl"]["reason"] == "").all()


@pytest.mark.parametrize("metric", ["error", "margin", "loss"])
@pytest.mark.parametrize(("shift", "told"), [(20, "from 20 to 22"), (-1, "from -1 to 1"), (1, "from 1 to 3")])
def test_class_numbers_without_an_output_are_refused(metric, shift, told):
    for study in (lesion_study, reordering_study):
        with pytest.raises(ValueError, match=rf"class numbers from 0 to 2, .* 3 outputs, .* {told}"):
            study((residual(), (X, Y + shift)), metric=metric, show=False)


def test_what_cross_entropy_ignores_is_no_class():
    left_out = torch.tensor([0, -100, 1, 2, 0, 1])
    frame = lesion_study((residual(), (X, left_out)), metric="loss", **ONLY_SINGLES)
    assert set(frame["status"]) == {"ok"}


def test_of_inputs_with_labels_the_inputs_calibrate():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = nn.Sequential(
            *[Residual(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))) for _ in range(2)]
        )
        model = model.append(nn.Linear(4, 3)).double()
    model.train()(X)
    problem = Problem(model.eval(), (X, Y))
    options = {"metric": "loss", **ONLY_SINGLES}
    labelled, bare = (
        lesion_study(problem, calibration=given, **options) for given in ((X[:4], Y[:4]), X[:4])
    )
    assert labelled.equals(bare) and "recalibrated" in set(bare["statistics"])
    with pytest.raises(ValueError, match=r"got a tuple of 3\. Write a list"):
        lesion_study(problem, calibration=(X, X, X), **options)


def test_random_sets_name_what_is_closed():
    frame = lesion_study((residual(), (X, Y)), sets=[1, 2], subsets=3, groups=None, show=False)
    drawn = frame[frame["kind"] == "set"]
    assert set(drawn[drawn["deleted"] == 2]["junction"]) == {"0:0, 1:0"}
    single = frame[frame["draw"] == -1].set_index("junction")
    for row in drawn[drawn["deleted"] == 1].itertuples():
        assert row.value == single[single["quantity"] == "error"]["value"][row.junction]


class Forked(nn.Module):
    """Batches of up to three examples take another way."""

    def __init__(self) -> None:
        super().__init__()
        self.body = residual()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x if len(x) > 3 else x.tanh())


def test_passes_say_when_batches_took_whole_ones():
    with pytest.warns(UserWarning, match="another way"):
        frame = lesion_study((Forked(), (X, Y)), greedy=1, **ONLY_SINGLES)
    told = "prefix reuse; whole passes for batches that take another way"
    assert set(frame["passes"]) == {told, ""}
    assert set(frame[frame["passes"] == ""]["quantity"]) == {"chance_error"}
    same = lesion_study((Forked(), (X[:3], Y[:3])), **ONLY_SINGLES)
    assert set(same["passes"]) == {"prefix reuse", ""}
