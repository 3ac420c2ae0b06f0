"""Errors after lesions against networks whose branches were zeroed by hand."""

import copy

import pandas as pd
import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS, MultiResidual, mlp, stack
from torch import nn

from gradscope.measures.intervals import wilson
from gradscope.nets import build
from gradscope.problem import Problem
from gradscope.studies.lesion_study import layer_lesion_study, lesion_study


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
    single = errors(lesion_study(problem, show=False), "stale")
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
    frame = errors(lesion_study(problem, calibration=calibration, show=False), "recalibrated")
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
    frame = lesion_study(problem, recalibrate=False, show=False)
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


def test_without_batch_norm_there_are_no_statistics():
    frame = lesion_study(problem_of("pre-norm transformer"), show=False)
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
    assert (
        lesion_study(named, show=False)["value"].tolist() == lesion_study(plain, show=False)["value"].tolist()
    )
    assert len(lesion_study(problem_of("tokens"), show=False)) == 4


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_as_found(training):
    problem = problem_of()
    used(problem.model).train(training)
    before = snapshot(problem.model)
    lesion_study(problem, sets=[2], subsets=2, show=False)
    layer_lesion_study(problem, at=["2", "3"], show=False)
    assert_as_found(problem.model, before)


def test_columns_stand_as_agreed():
    frame = lesion_study(problem_of(), show=False)
    assert list(frame.columns) == [
        *("quantity", "unit", "statistics", "junction", "kind", "index", "deleted", "draw"),
        *("value", "low", "high", "n", "status", "reason"),
    ]


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
