"""What is measured in a lesioned network, against loops over examples; differences against scipy and by hand."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from networks import NETWORKS, Residual, mlp, transformer
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn import functional

from gradscope.measures.paired import holm, paired_difference
from gradscope.problem import Problem
from gradscope.studies.layer_lesion_study import layer_lesion_study
from gradscope.studies.lesion_study import lesion_study

ONLY_SINGLES = {"sets": (), "groups": None, "show": False}


class Words(nn.Module):
    """Logits over seven words for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(7, 4)
        self.blocks = transformer(parallel=False, layers=2)[:-1]
        self.out = nn.Linear(4, 7)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.blocks(self.token(ids)))


def words() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Words().double().eval()


def residual(blocks: int = 3) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        net = nn.Sequential(*[Residual(mlp(4, 5, 4)) for _ in range(blocks)], nn.Linear(4, 3))
        return net.double().eval()


def data(examples: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(examples, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (examples,), generator=generator)


def without(model: nn.Sequential, *blocks: int) -> nn.Module:
    """The same network, the last layer of some branches zero."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for block in blocks:
            for parameter in model[block].branch[-1].parameters():
                parameter.zero_()
    return model


def softmax(logits: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in logits)
    return [math.exp(value) / total for value in logits]


def loss_of(logits: list[float], target: int, intact: list[float]) -> float:
    return -math.log(softmax(logits)[target])


def margin_of(logits: list[float], target: int, intact: list[float]) -> float:
    return logits[target] - max(value for place, value in enumerate(logits) if place != target)


def kl_of(logits: list[float], target: int, intact: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(softmax(intact), softmax(logits), strict=True))


def error_of(logits: list[float], target: int, intact: list[float]) -> float:
    return float(logits.index(max(logits)) != target)


LOOPS = {"loss": loss_of, "margin": margin_of, "kl": kl_of, "error": error_of}


@pytest.mark.parametrize("metric", LOOPS)
def test_values_are_those_of_a_loop_over_examples(metric):
    model, (x, y) = residual(), data()
    frame = lesion_study((model, (x, y)), metric=metric, resamples=50, **ONLY_SINGLES)
    intact = model(x).tolist()

    def loop(lesioned: nn.Module) -> list[float]:
        rows = zip(lesioned(x).tolist(), y.tolist(), intact, strict=True)
        return [LOOPS[metric](logits, target, before) for logits, target, before in rows]

    expected = [loop(without(model, block)) for block in range(3)]
    by_quantity = frame.set_index("quantity")["value"]
    assert list(by_quantity[metric]) == pytest.approx([np.mean(values) for values in expected], abs=1e-12)
    assert by_quantity[f"intact_{metric}"] == pytest.approx(np.mean(loop(model)), abs=1e-12)
    changes = [np.mean(values) - np.mean(loop(model)) for values in expected]
    assert list(by_quantity[f"{metric}_difference"]) == pytest.approx(changes, abs=1e-12)
    assert ("chance_error" in by_quantity.index) == (metric == "error")
    told = {"loss": "nat", "margin": "logit", "kl": "nat", "error": "share of images"}
    assert set(frame["unit"]) == {told[metric]}


def test_errors_are_tested_by_mcnemar_and_adjusted_by_holm():
    model, (x, y) = residual(), data(200)
    # Mostly the network's own answers, so that lesions cost something.
    y = torch.where(torch.arange(200) % 5 == 0, y, model(x).argmax(1))
    frame = lesion_study((model, (x, y)), **ONLY_SINGLES)
    wrong = model(x).argmax(1) != y
    expected = []
    for block in range(3):
        then = without(model, block)(x).argmax(1) != y
        lost, gained = int((then & ~wrong).sum()), int((wrong & ~then).sum())
        expected.append((paired_difference(lost, gained, 200), binomtest(lost, lost + gained).pvalue))
    rows = frame[frame["quantity"] == "error_difference"]
    assert list(rows["value"]) == [estimate.value for estimate, _ in expected]
    assert list(rows["low"]) == [estimate.low for estimate, _ in expected]
    p_values = [p_value for _, p_value in expected]
    assert list(rows["p_value"]) == pytest.approx(p_values, rel=1e-12)
    assert list(rows["p_holm"]) == pytest.approx(holm(torch.tensor(p_values).double()).tolist(), rel=1e-12)
    assert min(p_values) < 0.05
    others = frame[frame["quantity"] != "error_difference"]
    assert others[["p_value", "p_holm"]].isna().all(axis=None)


def test_other_differences_have_the_paired_bootstrap():
    model, (x, y) = residual(), data(60)
    frame = lesion_study((model, (x, y)), metric="loss", resamples=4000, seed=1, **ONLY_SINGLES)
    rows = frame[frame["quantity"] == "loss_difference"]
    intact = functional.cross_entropy(model(x), y, reduction="none")
    drawn = np.random.default_rng(0)
    for block, row in enumerate(rows.itertuples()):
        change = functional.cross_entropy(without(model, block)(x), y, reduction="none") - intact
        change = change.detach().numpy()
        means = drawn.choice(change, (4000, 60)).mean(axis=1)
        width = change.std() / 60**0.5
        assert (row.low, row.high) == pytest.approx(
            tuple(np.quantile(means, [0.025, 0.975])), abs=0.15 * width
        )
        p_value = (1 + (abs(means - change.mean()) >= abs(change.mean())).sum()) / 4001
        assert row.p_value == pytest.approx(p_value, abs=0.03)
    again = lesion_study((model, (x, y)), metric="loss", resamples=4000, seed=1, **ONLY_SINGLES)
    assert list(again["low"].dropna()) == list(frame["low"].dropna())


def test_all_differences_meet_the_same_draws(monkeypatch):
    model, batch = residual(), data(60)
    options = {"metric": ["loss", "margin"], "resamples": 50, **ONLY_SINGLES}
    together = lesion_study((model, batch), **options)
    monkeypatch.setattr("gradscope.studies.lesions.estimates._TOGETHER", 1)
    pd.testing.assert_frame_equal(lesion_study((model, batch), **options), together)


def test_several_metrics_share_the_passes_and_keep_their_values():
    model, batch = residual(), data()

    def distance(output: Tensor, target: Tensor, intact: Tensor) -> Tensor:
        return (output - intact).norm(dim=1)

    together = lesion_study((model, batch), metric=["error", distance, "kl"], sets=[2], subsets=2, show=False)
    alone = lesion_study((model, batch), metric=distance, sets=[2], subsets=2, show=False)
    mine = together[together["quantity"].str.contains("distance")].reset_index(drop=True)
    assert list(mine["value"]) == list(alone["value"]) and set(alone["unit"]) == {"as returned"}
    x, _ = batch
    expected = (without(model, 1)(x) - model(x)).norm(dim=1).mean().item()
    value = alone[(alone["quantity"] == "distance") & (alone["draw"] == -1)]["value"].iloc[1]
    assert value == pytest.approx(expected, rel=1e-12)


def test_a_language_model_without_targets_has_its_divergence(monkeypatch):
    monkeypatch.setattr("gradscope.studies.lesions.metrics._HELD", 2 * 5 * 7)
    ids = torch.randint(0, 7, (6, 5), generator=torch.Generator().manual_seed(0))
    model = words()
    frame = lesion_study((model, {"ids": ids}), metric="kl", **ONLY_SINGLES)
    rows = frame[frame["quantity"] == "kl"]
    assert len(rows) == 4 and set(frame["statistics"]) == {"none"}
    lesioned = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in lesioned.blocks[1].attention.out.parameters():
            parameter.zero_()
    before, after = model(ids), lesioned(ids)
    per_token = [kl_of(after[i, t].tolist(), 0, before[i, t].tolist()) for i in range(6) for t in range(5)]
    assert rows["value"].iloc[2] == pytest.approx(np.mean(per_token), rel=1e-10)
    assert rows["n"].iloc[2] == 6


def test_a_language_model_with_a_loss_of_its_own():
    ids = torch.randint(0, 7, (6, 5), generator=torch.Generator().manual_seed(0))

    def next_words(output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output.transpose(1, 2), target, reduction="none").sum(dim=1)

    problem = Problem(words(), {"ids": ids, "labels": ids.roll(-1, 1)}, next_words)
    frame = lesion_study(problem, metric=["loss", "kl"], **ONLY_SINGLES)
    expected = next_words(problem.model(ids), ids.roll(-1, 1)).mean().item()
    assert frame.set_index("quantity")["value"]["intact_loss"] == pytest.approx(expected, rel=1e-12)
    for metric in ("error", "margin"):
        with pytest.raises(ValueError, match=f"metric {metric} looks at classes.* metric='loss' or 'kl'"):
            lesion_study(problem, metric=metric, **ONLY_SINGLES)


def test_recalibrated_lesions_are_compared_with_the_recalibrated_intact_network():
    specimen = NETWORKS["post-activation"]
    x, y = specimen.inputs(30), specimen.targets(30)
    options = {"metric": ["loss", "kl"], "calibration": specimen.inputs(50) * 2, **ONLY_SINGLES}
    frame = lesion_study((specimen.build(), list(zip(x.split(20), y.split(20), strict=True))), **options)
    for statistics in ("stale", "recalibrated"):
        rows = frame[frame["statistics"] == statistics].set_index("quantity")["value"]
        change = rows["loss"].to_numpy() - rows["intact_loss"]
        assert list(rows["loss_difference"]) == pytest.approx(list(change), abs=1e-12)
        assert rows["intact_kl"] == 0.0 and rows["kl"].min() > 0
    assert frame[frame["quantity"] == "intact_loss"]["value"].nunique() == 2


def test_what_is_not_finite_is_undefined():
    model, (x, y) = residual(), data()

    def ratio(output: Tensor, target: Tensor, intact: Tensor) -> Tensor:
        return (output - intact).norm(dim=1) / (output - intact).norm(dim=1)

    frame = lesion_study((model, (x, y)), metric=ratio, **ONLY_SINGLES)
    intact = frame[frame["quantity"] == "intact_ratio"].iloc[0]
    assert (intact["status"], intact["reason"]) == ("undefined", "40 of 40 examples have no finite value")
    differences = frame[frame["quantity"] == "ratio_difference"]
    assert set(differences["status"]) == {"undefined"} and differences["p_holm"].isna().all()
    assert set(frame[frame["quantity"] == "ratio"]["status"]) == {"ok"}


def test_one_example_has_a_value_and_no_interval():
    model, (x, y) = residual(), data(1)
    rows = lesion_study((model, (x, y)), metric="loss", **ONLY_SINGLES)
    assert rows["value"].notna().all() and rows[["low", "high", "p_value"]].isna().all(axis=None)
    assert set(rows["reason"]) == {"one example has no spread"}


def test_classes_that_the_network_rules_out_do_not_spoil_the_divergence():
    model, (x, _) = residual(), data()
    ruled_out = nn.Sequential(*model, Last())
    frame = lesion_study((ruled_out, x), metric="kl", **ONLY_SINGLES)
    assert set(frame["status"]) == {"ok"}


class Last(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :2], torch.full_like(x[:, 2:], -torch.inf)], dim=1)


def test_layers_have_the_same_metrics_and_tests():
    model, (x, y) = mlp(4, 4, 4, 3).double(), data()
    frame = layer_lesion_study((model, (x, y)), at="*", metric=["error", "loss"], show=False)
    first = frame[(frame["index"] == 0)].set_index("quantity")
    expected = functional.cross_entropy(model[1:](x), y)
    assert first["value"]["loss"] == pytest.approx(expected.item(), rel=1e-12)
    change = expected - functional.cross_entropy(model(x), y)
    assert first["value"]["loss_difference"] == pytest.approx(change.item(), rel=1e-9)
    assert first[["p_value", "p_holm"]].loc["error_difference"].notna().all()
    skipped = frame[frame["status"] == "skipped"]
    assert set(skipped["quantity"]) == {"error", "loss"} and set(frame["gate"]) == {"", "identity"}


@pytest.mark.parametrize(
    ("metric", "batch", "match"),
    [
        ("accuracy", data(), "metric is one of error, loss, margin, kl, a function .* got 'accuracy'"),
        (["loss", "loss"], data(), r"each of its own name, got \['loss', 'loss'\]"),
        ([], data(), "one metric or more"),
        ("loss", data()[0], "metric loss compares outputs with targets, but the data has no targets.*'kl'"),
        (["kl", "margin"], data()[0], "metric margin compares"),
        ("error", (data()[0], torch.ones(40, 3)), "metric error looks at classes.* got torch.float64"),
        (
            lambda output, target, intact: output,
            data(),
            r"metric metric must return .* shape \[40\], got \[40, 3\]",
        ),
        (lambda output, target, intact: 1.0, data(), "got float"),
    ],
)
def test_what_cannot_be_measured_is_refused(metric, batch, match):
    with pytest.raises(ValueError, match=match):
        lesion_study((residual(), batch), metric=metric, **ONLY_SINGLES)


def test_a_map_of_classes_has_no_divergence():
    model = nn.Sequential(Residual(nn.Conv2d(2, 2, 1)), nn.Conv2d(2, 3, 1)).double()
    with pytest.raises(ValueError, match=r"metric kl takes logits .* returned \[4, 3, 5, 5\]"):
        lesion_study((model, torch.randn(4, 2, 5, 5).double()), metric="kl", **ONLY_SINGLES)
