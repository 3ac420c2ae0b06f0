"""Errors after lesions against networks whose branches were zeroed by hand."""

import copy

import pandas as pd
import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS, MultiResidual, mlp, stack
from torch import nn

from gradscope.instruments.gates import junction_by_hand, lesion
from gradscope.instruments.junctions import junctions
from gradscope.measures.intervals import wilson
from gradscope.nets import build
from gradscope.problem import Problem
from gradscope.studies.layer_lesion_study import layer_lesion_study
from gradscope.studies.lesion_study import lesion_study
from gradscope.studies.lesions.plan import spread


def problem_of(name: str = "post-activation", sizes: tuple[int, ...] = (20, 11)) -> Problem:
    specimen = NETWORKS[name]
    x, y = specimen.inputs(sum(sizes)), specimen.targets(sum(sizes))
    return Problem(specimen.build(), list(zip(x.split(sizes), y.split(sizes), strict=True)))


def wrong(model: nn.Module, problem: Problem) -> int:
    with torch.no_grad():
        return sum(int((model(x).argmax(1) != y).sum()) for x, y in problem.batches())


def zeroed(problem: Problem, *blocks: int) -> nn.Module:
    model = copy.deepcopy(problem.model)
    with torch.no_grad():
        for block in blocks:
            for parameter in model[2 + block].bn2.parameters():
                parameter.zero_()
    return model


def errors(frame, statistics: str, quantity: str = "error"):
    return frame[(frame["quantity"] == quantity) & (frame["statistics"] == statistics)]


def test_stale_errors_are_those_of_networks_without_the_branch():
    problem = problem_of()
    single = errors(lesion_study(problem, sets=(), groups=None, show=False), "stale")
    assert list(single["junction"]) == [f"{b}:0" for b in range(2, 8)]
    assert list(single["kind"]) == [
        "identity",
        "projection",
        "identity",
        "identity",
        "projection",
        "identity",
    ]
    for place, row in enumerate(single.itertuples()):
        value, low, high = wilson(wrong(zeroed(problem, place), problem), 31)
        assert (row.value, row.low, row.high, row.n, row.deleted) == (value, low, high, 31, 1)


def test_recalibrated_errors_have_the_lesioned_networks_own_statistics():
    problem = problem_of()
    calibration = NETWORKS["post-activation"].inputs(300) + 0.3
    frame = errors(
        lesion_study(problem, sets=(), groups=None, calibration=calibration, show=False), "recalibrated"
    )
    assert set(frame["reason"]) == {""}
    for place, row in enumerate(frame.itertuples()):
        model = zeroed(problem, place)
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.momentum = None
        model.train()
        with torch.no_grad():
            for part in calibration.split(256):
                model(part)
        assert row.value == wrong(model.eval(), problem) / 31


def test_recalibrating_the_intact_network_on_what_it_has_seen_changes_nothing():
    """T20: statistics of the calibration inputs, taken twice."""
    specimen = NETWORKS["post-activation"]
    model, x, y = specimen.build(), specimen.inputs(64), specimen.targets(64)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None
    with torch.no_grad():
        model.train()(x)
    frame = lesion_study((model.eval(), (x, y)), show=False)
    intact = frame[frame["quantity"] == "intact_error"]["value"].tolist()
    assert intact[0] == intact[1]
    assert set(errors(frame, "recalibrated")["reason"]) == {"calibrated on the problem's own inputs"}


def test_intact_and_chance_errors():
    problem = problem_of()
    frame = lesion_study(problem, sets=(), recalibrate=False, show=False)
    assert set(frame["statistics"]) == {"stale"}
    labels = torch.cat([y for _, y in problem.batches()])
    chance = 1 - max(int((labels == c).sum()) for c in range(3)) / 31
    assert frame[frame["quantity"] == "intact_error"]["value"].tolist() == [
        wrong(problem.model, problem) / 31
    ]
    assert frame[frame["quantity"] == "chance_error"]["value"].tolist() == [chance]


def test_sets_close_several_branches_at_random():
    problem = problem_of()
    frame = errors(lesion_study(problem, sets=[2, 6], subsets=4, seed=5, show=False), "stale")
    drawn = frame[frame["kind"] == "set"]
    assert list(drawn["deleted"]) == [2] * 4 + [6] * 4 and list(drawn["draw"]) == [0, 1, 2, 3] * 2
    assert set(drawn[drawn["deleted"] == 6]["value"]) == {wrong(zeroed(problem, *range(6)), problem) / 31}
    pairs = {wrong(zeroed(problem, a, b), problem) / 31 for a in range(6) for b in range(a)}
    assert set(drawn[drawn["deleted"] == 2]["value"]) <= pairs
    again = errors(lesion_study(problem, sets=[2, 6], subsets=4, seed=5, show=False), "stale")
    pd.testing.assert_frame_equal(frame, again)


def test_half_of_the_random_sets_are_recalibrated():
    frame = lesion_study(problem_of(), sets=[2, 3], subsets=3, groups=None, show=False)
    drawn = frame[(frame["kind"] == "set") & (frame["statistics"] == "recalibrated")]
    assert list(zip(drawn["deleted"], drawn["draw"], strict=True)) == [(2, 0), (2, 1), (3, 0), (3, 1)]
    whole = lesion_study(problem_of(), sets=[2, 3], subsets=3, groups=None, recalibrate=True, show=False)
    assert len(whole[(whole["kind"] == "set") & (whole["statistics"] == "recalibrated")]) == 6
    keys = ["quantity", "statistics", "junction", "deleted", "draw"]
    both = frame.merge(whole, on=keys, suffixes=("", "_whole"))
    assert len(both) == len(frame) and both["value"].tolist() == both["value_whole"].tolist()


def test_without_sets_there_are_ten_numbers_or_fewer():
    six = lesion_study(problem_of(), subsets=1, groups=None, show=False)
    assert sorted(set(six["deleted"])) == [0, 1, 2, 3, 4, 5, 6]
    assert spread(54) == [1, 7, 13, 19, 25, 30, 36, 42, 48, 54]
    assert (spread(1), spread(2)) == ([], [1, 2])


def test_groups_close_kinds_or_patterns_together():
    problem = problem_of()
    by_kind = errors(lesion_study(problem, sets=(), show=False), "stale")
    groups = by_kind[by_kind["kind"] == "group"].set_index("junction")
    assert groups["deleted"].to_dict() == {"identity": 4, "projection": 2}
    assert groups["value"]["projection"] == wrong(zeroed(problem, 1, 4), problem) / 31
    asked = {"early": "[23]:*", "last": "7:0", "all": "*"}
    named = errors(lesion_study(problem, sets=(), singles=False, groups=asked, show=False), "stale")
    expected = [wrong(zeroed(problem, *blocks), problem) / 31 for blocks in ([0, 1], [5], range(6))]
    assert named["value"].tolist() == expected and named["junction"].tolist() == list(asked)


@pytest.mark.parametrize("asked", ["[34]:0", "found", "by hand"])
def test_some_junctions_only(asked):
    problem = problem_of()
    if asked == "found":
        asked = junctions(problem.model, problem.first_batch()[0])[1:3]
    elif asked == "by hand":
        asked = [junction_by_hand(problem.model, f"{block}.bn2", name=f"{block}:0") for block in (3, 4)]
    frame = errors(lesion_study(problem, junctions=asked, sets=[2], subsets=1, show=False), "stale")
    assert frame[frame["draw"] == -1]["junction"].tolist() == ["3:0", "4:0"]
    assert frame[frame["draw"] == -1]["index"].is_unique
    pair = frame[frame["kind"] == "set"]["value"].tolist()
    assert pair == [wrong(zeroed(problem, 1, 2), problem) / 31]


def test_other_gates_stand_in_for_zero():
    problem = problem_of("pre-norm transformer")
    options = {"sets": (), "groups": None, "metric": "loss", "show": False}
    same = lesion_study(problem, kind="scale", factor=1.0, **options).set_index("quantity")
    assert set(same.loc["loss_difference", "value"]) == {0.0} and set(same.loc["loss", "gate"]) == {"scale 1"}
    none = lesion_study(problem, kind="scale", factor=0.0, **options)
    zero = lesion_study(problem, **options)
    torch.testing.assert_close(torch.tensor(none["value"]), torch.tensor(zero["value"]))
    inputs, _ = problem.first_batch()
    found = junctions(problem.model, inputs)
    mean = lesion_study(problem, kind="mean", reference=inputs, **options).set_index("quantity")
    with lesion(problem.model, found[2], kind="mean", reference=inputs), torch.no_grad():
        losses = torch.cat(
            [nn.functional.cross_entropy(problem.model(x), y, reduction="none") for x, y in problem.batches()]
        )
    assert mean.loc["loss", "value"].iloc[2] == pytest.approx(float(losses.mean()), rel=1e-12)


@pytest.mark.parametrize("name", ["post-activation", "pre-norm transformer"])
def test_neither_the_order_nor_the_size_of_batches_matters(name):
    specimen = NETWORKS[name]
    x, y = specimen.inputs(12), specimen.targets(12)
    model, calibration = specimen.build(), specimen.inputs(20)
    back = torch.arange(11, -1, -1)
    orders = [[(x, y)], list(zip(x.split(5), y.split(5), strict=True)), [(x[back], y[back])]]
    values = [
        lesion_study(
            (model, data),
            metric=["error", "loss", "margin", "kl"],
            sets=[2],
            subsets=2,
            calibration=calibration,
            resamples=10,
            show=False,
        )["value"].to_numpy()
        for data in orders
    ]
    torch.testing.assert_close(torch.tensor(values[1]), torch.tensor(values[0]))
    torch.testing.assert_close(torch.tensor(values[2]), torch.tensor(values[0]))


def test_without_batch_norm_there_are_no_statistics():
    frame = lesion_study(problem_of("pre-norm transformer"), sets=(), groups=None, show=False)
    assert set(frame["statistics"]) == {"none"} and len(errors(frame, "none")) == 6


def test_dictionary_batches_and_tokens_will_do():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = NETWORKS["post-activation"].build()

        def forward(self, *, images):
            return self.net(images)

    plain = problem_of()
    named = Problem(Named().eval(), [{"images": x, "labels": y} for x, y in plain.batches()])
    one, other = (lesion_study(problem, sets=[2], subsets=3, show=False) for problem in (named, plain))
    assert one["value"].tolist() == other["value"].tolist()
    assert len(errors(lesion_study(problem_of("tokens"), sets=(), groups=None, show=False), "none")) == 2


@pytest.mark.parametrize("after", [0, 3, 16, 27])
def test_the_model_is_as_found_when_a_metric_raises(after):
    """In the intact network, in a lesion, and with statistics estimated anew, intact and lesioned."""
    problem = problem_of()
    before = snapshot(used(problem.model))
    calls = []

    def fails(output, target, intact):
        if len(calls) == after:
            raise KeyError("inside")
        calls.append(1)
        return output[:, 0]

    try:
        lesion_study(problem, metric=fails, sets=(), groups=None, show=False)
    except KeyError as error:
        # While the traceback lives, so does every frame in it.
        assert error.args == ("inside",)
        assert_as_found(problem.model, before)
    assert len(calls) == after


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_as_found(training):
    problem = problem_of()
    used(problem.model).train(training)
    before = snapshot(problem.model)
    lesion_study(problem, sets=[2], subsets=2, greedy=1, metric=["loss", "kl"], show=False)
    layer_lesion_study(problem, at=["2", "3"], show=False)

    assert_as_found(problem.model, before)


def test_columns_stand_as_agreed():
    frame = lesion_study(problem_of(), sets=[2], subsets=2, greedy=1, show=False)
    assert list(frame.columns) == [
        *("quantity", "unit", "statistics", "gate", "junction", "kind", "index", "deleted", "draw", "passes"),
        *("value", "low", "high", "p_value", "p_holm", "n", "status", "reason"),
    ]
    assert set(frame["status"]) == {"ok"}
    assert set(frame[frame["draw"] == -1]["kind"]) == {"", "identity", "projection"}
    assert set(frame[frame["kind"].isin(["group", "greedy"])]["draw"]) == {0}


def test_layers_of_a_plain_network_become_the_identity_where_shapes_allow():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4), nn.Linear(4, 3)
        ).double()
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(1))
    kept = x.clone()
    frame = errors(layer_lesion_study((model, (x, y)), at="*", show=False), "none")
    assert torch.equal(x, kept), "the in-place layer must not reach the data"
    expected = [
        model[3](model[2](kept.relu())),
        model[3](model[2](model[0](kept))),
        model[3](model[0](kept).relu()),
    ]
    assert frame["value"].tolist()[:3] == [int((o.argmax(1) != y).sum()) / 40 for o in expected]
    last = frame.iloc[3]
    assert (last["status"], last["reason"]) == ("skipped", "the layer changes the shape")


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (
            lambda: problem_of("plain"),
            {},
            "Sequential has no residual branch to close. .* layer_lesion_study",
        ),
        (lambda: problem_of(), {"sets": [7]}, r"numbers from 1 to 6 .* got sets \[7\]"),
        (lambda: problem_of(), {"sets": [1], "subsets": 0}, "subsets is at least 1"),
        (lambda: problem_of(), {"sets": [1.5]}, r"numbers from 1 to 6 .* got sets \[1.5\]"),
        (lambda: problem_of(), {"recalibrate": "some"}, "recalibrate is True, False or 'half'.*'some'"),
        (lambda: problem_of(), {"greedy": 7}, r"from 0 to 6 \(all here\), got 7"),
        (lambda: problem_of(), {"groups": "name"}, "groups is 'kind', None, or a mapping .* got 'name'"),
        (
            lambda: problem_of(),
            {"groups": {"late": "9:*"}},
            "No junction matches '9:\\*', the pattern of group 'late'",
        ),
        (lambda: problem_of(), {"junctions": "9:*"}, "No junction matches '9:\\*'"),
        (lambda: problem_of(), {"junctions": []}, "at least one Junction, got"),
        (lambda: problem_of(), {"junctions": [3]}, r"at least one Junction, got \[3\]"),
        (lambda: problem_of(), {"kind": "remove"}, "kind zero, mean, resample, scale, got 'remove'"),
        (lambda: problem_of(), {"kind": "scale"}, "factor"),
        (lambda: problem_of(), {"calibration": []}, "calibration has no inputs"),
        (
            lambda: problem_of(),
            {"resamples": 0, "metric": "loss"},
            "resamples is a whole number, at least 2, got 0",
        ),
        (lambda: (stack(lambda: MultiResidual(4), 1), torch.ones(2, 4)), {}, "the data has no targets"),
        (
            lambda: (nn.Sequential(nn.BatchNorm1d(4), mlp(4, 3)), (torch.ones(2, 4), torch.zeros(2).long())),
            {},
            "never updated",
        ),
    ],
)
def test_what_cannot_be_lesioned_is_refused(make, options, match):
    with pytest.raises(ValueError, match=match):
        lesion_study(make(), show=False, **options)


def test_another_meaning_of_batch_norm_is_refused():
    model = build("resnet", depth=8, channels=1, seed=0)
    problem = Problem(model, (torch.randn(4, 1, 8, 8), torch.arange(4)), batch_norm="frozen")
    with pytest.raises(ValueError, match=r"has no meaning here. Leave it out"):
        lesion_study(problem)
    with pytest.raises(ValueError, match="Train it, or run it in train mode"):
        lesion_study((model, (torch.randn(4, 1, 8, 8), torch.arange(4))))
