"""Greedy removal against brute force; the cost against the passes that were made."""

import itertools

import pytest
import torch
from networks import NETWORKS, Residual, mlp
from torch import nn

import gradscope.studies.lesion_study as module
from gradscope.instruments.gates import junction_by_hand
from gradscope.instruments.junctions import junctions
from gradscope.problem import Problem
from gradscope.studies.layer_lesion_study import layer_lesion_study
from gradscope.studies.lesion_study import lesion_study
from gradscope.studies.lesions.passes import PrefixReuse


def residual(blocks: int = 4, examples: int = 30) -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        net = nn.Sequential(*[Residual(mlp(4, 5, 4)) for _ in range(blocks)], nn.Linear(4, 3)).double()
        x, y = torch.randn(examples, 4, dtype=torch.float64), torch.randint(0, 3, (examples,))
    return Problem(net, list(zip(x.split(20), y.split(20), strict=True)))


def loss_without(problem: Problem, blocks: tuple[int, ...]) -> float:
    kept = nn.Sequential(*[layer for i, layer in enumerate(problem.model) if i not in blocks])
    losses = [nn.functional.cross_entropy(kept(x), y, reduction="none") for x, y in problem.batches()]
    return torch.cat(losses).mean().item()


@pytest.mark.parametrize("singles", [True, False])
def test_greedy_removal_is_brute_force_step_by_step(singles):
    problem = residual()
    options = {"metric": "loss", "sets": (), "groups": None, "show": False, "singles": singles}
    frame = lesion_study(problem, greedy=4, **options)
    rows = frame[(frame["kind"] == "greedy") & (frame["quantity"] == "loss")]
    gone: tuple[int, ...] = ()
    for row in rows.itertuples():
        losses = {i: loss_without(problem, (*gone, i)) for i in range(4) if i not in gone}
        best = min(losses, key=lambda i: losses[i])
        gone = (*gone, best)
        assert (row.junction, row.index, row.deleted) == (f"{best}:0", best, len(gone))
        assert row.value == pytest.approx(losses[best], rel=1e-12)
        assert row.low <= row.value <= row.high and row.reason == "chosen on the same examples"
    assert sorted(gone) == [0, 1, 2, 3]
    shorter = lesion_study(problem, greedy=2, **options)
    assert shorter[shorter["kind"] == "greedy"]["junction"].tolist() == rows["junction"].tolist()[:2]


def test_greedy_removal_keeps_the_margin_large_and_can_miss_the_best_pair():
    problem = residual()
    frame = lesion_study(problem, metric="margin", sets=(), groups=None, greedy=1, show=False)
    single = frame[(frame["quantity"] == "margin") & (frame["draw"] == -1)]
    first = frame[frame["kind"] == "greedy"].iloc[0]
    assert first["junction"] == single.sort_values("value")["junction"].iloc[-1]
    frame = lesion_study(problem, metric="loss", sets=(), groups=None, greedy=2, show=False)
    second = frame[frame["kind"] == "greedy"].iloc[1]
    best = min(loss_without(problem, pair) for pair in itertools.combinations(range(4), 2))
    assert second["value"] >= best - 1e-12


def test_greedy_removal_is_chosen_with_stored_and_measured_with_both_statistics():
    specimen = NETWORKS["post-activation"]
    problem = Problem(specimen.build(), (specimen.inputs(30), specimen.targets(30)))
    frame = lesion_study(problem, metric=["loss", "error"], sets=(), greedy=2, show=False)
    rows = frame[(frame["kind"] == "greedy") & (frame["quantity"] == "loss")]
    assert rows["statistics"].tolist() == ["stale", "recalibrated"] * 2
    assert rows["junction"].iloc[0] == rows["junction"].iloc[1]
    single = frame[(frame["draw"] == -1) & (frame["quantity"] == "loss")]
    for row in rows.iloc[:2].itertuples():
        same = single[(single["junction"] == row.junction) & (single["statistics"] == row.statistics)]
        assert same["value"].tolist() == [row.value]
    told = "calibrated on the problem's own inputs; chosen on the same examples"
    assert rows["reason"].tolist() == ["chosen on the same examples", told] * 2


def counted(problem: Problem, call) -> int:
    forwards = []
    handle = problem.model.register_forward_hook(lambda *_: forwards.append(1))
    try:
        call()
    finally:
        handle.remove()
    return len(forwards)


REST = {"sets": [1, 3], "subsets": 3, "show": False}
ASKED = {
    "singles": {"sets": (), "groups": None, "show": False},
    "everything": {**REST, "greedy": 3},
    "divergence": {**REST, "metric": ["error", "kl"], "greedy": 2},
    "whole": {**REST, "recalibrate": True},
    "stored only": {**REST, "recalibrate": False, "greedy": 1},
    "search alone": {
        "singles": False,
        "sets": (),
        "groups": None,
        "greedy": 2,
        "metric": "kl",
        "show": False,
    },
    "reference": {**REST, "kind": "mean", "greedy": 2, "reference": "inputs"},
}


@pytest.fixture
def whole(monkeypatch):
    monkeypatch.setattr(module, "prefix_reuse", lambda *_: "asked for")


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("network", ["post-activation", "pre-norm transformer"])
@pytest.mark.usefixtures("whole")
def test_a_dry_run_counts_the_passes_that_are_made(name, network):
    specimen = NETWORKS[network]
    x, y = specimen.inputs(9), specimen.targets(9)
    problem = Problem(specimen.build(), list(zip(x.split(4), y.split(4), strict=True)))
    options = ASKED[name] | {"calibration": [specimen.inputs(5), specimen.inputs(3)], "resamples": 10}
    if "reference" in options:
        options["reference"] = [specimen.inputs(3), specimen.inputs(2)]
    told = []
    assert counted(problem, lambda: told.append(lesion_study(problem, dry_run=True, **options))) == 2
    (plan,) = told
    assert (plan["seconds"] >= 0).all()
    assert plan["branch_evaluations"].tolist() == [6 * passes for passes in plan["passes"]]
    # One more finds the junctions.
    assert counted(problem, lambda: told.append(lesion_study(problem, **options))) == 1 + plan["passes"].sum()
    frame = told[1]
    kinds = {"intact": "", "set": "set", "group": "group", "greedy": "greedy"}
    measured = frame[frame["quantity"].isin(["error", "intact_error", "kl", "intact_kl"])]
    metrics = measured["quantity"].str.removeprefix("intact_").nunique()
    for row in plan.itertuples():
        same = measured[measured["statistics"] == row.statistics]
        singles = same["kind"].isin(["identity", "projection"])
        rows = same[singles] if row.part == "single" else same[same["kind"] == kinds[row.part]]
        assert len(rows) == row.lesions * metrics


def prepared(network: str) -> Problem:
    specimen = NETWORKS[network]
    x, y = specimen.inputs(9), specimen.targets(9)
    return Problem(specimen.build(), list(zip(x.split(5), y.split(5), strict=True)))


@pytest.mark.parametrize("kind", ["zero", "scale"])
@pytest.mark.parametrize(
    "network", ["post-activation", "pre-activation", "pre-norm transformer", "multi-residual", "dense"]
)
def test_shared_prefixes_change_nothing(network, kind, monkeypatch):
    options = {
        "sets": [2],
        "subsets": 4,
        "greedy": 1,
        "metric": ["loss", "kl"],
        "resamples": 10,
        "show": False,
    }
    options |= {"kind": kind, "factor": None if kind == "zero" else 0.5}
    shared = lesion_study(prepared(network), **options)
    monkeypatch.setattr(module, "prefix_reuse", lambda *_: "asked for")
    whole = lesion_study(prepared(network), **options)
    assert set(shared["passes"]) == {"prefix reuse"}
    assert set(whole["passes"]) == {"full passes: asked for"}
    torch.testing.assert_close(
        torch.tensor(shared["value"]), torch.tensor(whole["value"]), rtol=1e-12, atol=1e-14
    )


def test_shared_prefixes_halve_single_lesions():
    """n lesions of n blocks and the intact network: n (n + 1) / 2 branches and those of one pass more, at most."""
    problem = residual(blocks=12)
    options = {"sets": (), "groups": None, "dry_run": True}
    plan = lesion_study(problem, **options)
    assert set(plan["how"]) == {"prefix reuse"}
    assert plan["branch_evaluations"].sum() <= 2 * (12 * 13 / 2 + 12)
    whole = lesion_study(problem, kind="mean", **options)
    assert whole["branch_evaluations"].sum() == 2 * 13 * 12
    told = "full passes: a branch in a lesion of kind mean depends on more than its own value"
    assert set(whole["how"]) == {told}


def test_greedy_removal_costs_at_most_what_was_told(monkeypatch):
    problem = residual(blocks=7)
    options = {"sets": (), "groups": None, "singles": False, "greedy": 5, "show": False}
    told = lesion_study(problem, dry_run=True, **options)
    spent = []
    outputs = PrefixReuse.outputs

    def counted(self, inputs, closed):
        spent.append(self.evaluations(closed))
        return outputs(self, inputs, closed)

    monkeypatch.setattr(PrefixReuse, "outputs", counted)
    lesion_study(problem, **options)
    assert 0.5 * told["branch_evaluations"].sum() < sum(spent) <= told["branch_evaluations"].sum()
    assert sum(spent) < 0.75 * 2 * 7 * (1 + 7 + 6 + 5 + 4 + 3)


def test_what_cannot_share_says_why():
    problem = prepared("post-activation")
    asked = [junction_by_hand(problem.model, f"{block}.bn2", index=block) for block in (3, 4)]
    options = {"sets": (), "groups": None, "show": False}
    told = set(lesion_study(problem, junctions=asked, **options)["passes"])
    assert told == {"", "full passes: junctions were made by hand"}
    told = set(lesion_study(residual(blocks=1), **options)["passes"])
    assert told == {"", "full passes: lesions of a single branch share nothing"}
    deep = prepared("long skip")
    inner = [one for one in junctions(deep.model, deep.first_batch()[0]) if one.level]
    told = set(lesion_study(deep, junctions=inner, **options)["passes"])
    assert told == {"", "full passes: junctions lie in other junctions' branches"}
    found = junctions(problem.model, problem.first_batch()[0][:3])
    assert set(lesion_study(problem, junctions=found[:3], **options)["passes"]) == {"", "prefix reuse"}


def test_a_lesion_drawn_twice_is_run_once():
    problem = residual()
    options = {"singles": False, "groups": None, "show": False, "kind": "mean"}
    one = lesion_study(problem, sets=[4], subsets=1, dry_run=True, **options)
    many = lesion_study(problem, sets=[4], subsets=30, dry_run=True, **options)
    assert one["passes"].sum() == many["passes"].sum() == 4
    assert len(lesion_study(problem, sets=[4], subsets=30, **options)) == 32


def test_the_cost_is_said_before_the_work(capsys):
    problem = residual()
    lesion_study(problem, sets=(), groups=None)
    assert (
        capsys.readouterr()
        .err.splitlines()[0]
        .startswith("lesion study: 5 measurements, 6 forward passes (prefix reuse), about ")
    )
    layer_lesion_study(problem, at="0.branch.*")
    assert "forward passes" in capsys.readouterr().err
    lesion_study(problem, sets=(), groups=None, show=False)
    layer_lesion_study(problem, at="0.branch.*", show=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["everything", "divergence", "search alone"])
def test_progress_ends_at_its_total(name, monkeypatch):
    heard = []

    class Heard:
        def __init__(self, description, total, show):
            heard.append(total)

        def __enter__(self):
            return heard.append

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(module, "progress", Heard)
    specimen = NETWORKS["post-activation"]
    lesion_study((specimen.build(), (specimen.inputs(8), specimen.targets(8))), **ASKED[name])
    assert sum(heard[1:]) == heard[0] > 0
