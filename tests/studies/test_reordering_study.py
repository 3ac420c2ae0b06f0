"""Rearranged networks measured by the study and by hand."""

import copy

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS
from scipy.stats import binomtest
from torch import nn
from torch.nn import functional

from gradscope.nets import build
from gradscope.problem import Problem
from gradscope.studies.frames import where
from gradscope.studies.reordering_study import COLUMNS, reordering_study

EXAMPLES = 40


def problem_of(name="pre-norm transformer", **options):
    specimen = NETWORKS[name]
    return Problem(specimen.build(), (specimen.inputs(EXAMPLES), specimen.targets(EXAMPLES)), **options)


def study(problem, **options):
    return reordering_study(problem, **{"swaps": [1], "draws": 4, "show": False} | options)


def permuted(model, sources):
    """A copy of a Sequential with other blocks at some positions."""
    twin = copy.deepcopy(model)
    for position, source in sources.items():
        twin[position] = copy.deepcopy(model[source])
    return twin


def errors(model, problem):
    inputs, targets = problem.first_batch()
    with torch.no_grad():
        return (model(inputs).argmax(dim=1) != targets).double()


def test_the_only_pair_is_exchanged_and_never_put_back():
    problem = problem_of("post-activation")
    frame = study(problem, swaps=[1, 3], draws=4, recalibrate=True)
    intact = where(frame, quantity="intact_error", statistics="stale")["value"].item()
    assert intact == float(errors(problem.model, problem).mean())
    drawn = where(frame, quantity="error", intervention="swaps", statistics="stale")
    exchanged = float(errors(permuted(problem.model, {4: 5, 5: 4}), problem).mean())
    assert drawn["value"].tolist() == [exchanged] * 8
    # One inversion among the pairs of all six blocks, four of which stay.
    assert drawn["kendall_tau"].tolist() == pytest.approx([1 - 2 / 15] * 8)
    taus = where(frame, quantity="kendall_tau", intervention="swaps")
    assert set(taus["value"]) == {-1.0}
    # Twice is left out where the numbers are ours, and refused where they are asked for.
    assert set(where(study(problem, swaps=None), intervention="swaps")["swaps"]) == {1}
    with pytest.raises(ValueError, match=r"exchanging them 2 times changes nothing. Leave 2 out .* \[1, 2\]"):
        study(problem, swaps=[1, 2])


def test_rows_say_which_blocks_changed_places():
    problem = problem_of()
    options = {"interventions": ["reverse", "parallel", "skip"], "ends": 0, "swaps": [2], "draws": 5}
    frame = study(problem, **options)
    assert set(where(frame, quantity=["intact_error", "chance_error"])["blocks"]) == {""}
    near = where(frame, quantity="error", intervention="neighbour swap")
    assert near["blocks"].tolist() == ["1 at 0, 0 at 1", "2 at 1, 1 at 2"]
    for name, told in {"reverse": "2 at 0, 0 at 2", "parallel": "0, 1, 2", "skip": "0, 1, 2"}.items():
        assert set(where(frame, intervention=name)["blocks"]) == {told}
    drawn = where(frame, quantity="error", intervention="swaps")
    for row in drawn.itertuples():
        moved = dict(reversed(part.split(" at ")) for part in row.blocks.split(", "))
        sources = {int(place): int(source) for place, source in moved.items()}
        assert len(sources) == 3, "two exchanges of three blocks move all of them"
        assert row.value == float(errors(permuted(problem.model, sources), problem).mean())


def test_every_stage_has_its_own_tau():
    with torch.random.fork_rng(devices=[]):
        model = build("resnet", depth=20, width=2, channels=1, seed=0).eval()
        problem = Problem(model, (torch.randn(6, 1, 8, 8), torch.arange(6)))
        model.train()(torch.randn(8, 1, 8, 8))
    frame = study(problem, draws=2, interventions=["reverse"], ends=0, recalibrate=False)
    reverse = where(frame, quantity="kendall_tau", intervention="reverse")
    assert reverse[["group", "value", "n"]].values.tolist() == [[0, -1, 3], [1, -1, 2], [2, -1, 2]]
    # Three blocks reversed and two pairs exchanged, of nine blocks: five inversions of 36.
    assert where(frame, quantity="error", intervention="reverse")["kendall_tau"].item() == pytest.approx(
        1 - 10 / 36
    )
    near = where(frame, quantity="error", intervention="neighbour swap")
    assert near["index"].tolist() == [0, 1, 4, 7]
    assert near["kendall_tau"].tolist() == pytest.approx([1 - 2 / 36] * 4)


def test_neighbours_are_a_network_built_so():
    problem = problem_of()
    model = problem.model
    frame = study(problem)
    intact = errors(model, problem)
    for first in (0, 1):
        swapped = errors(permuted(model, {first: first + 1, first + 1: first}), problem)
        rows = where(frame, intervention="neighbour swap", index=first)
        assert where(rows, quantity="error")["value"].item() == float(swapped.mean())
        change = where(rows, quantity="error_difference")
        assert change["value"].item() == pytest.approx(float((swapped - intact).mean()), abs=1e-15)
        lost, gained = int((swapped > intact).sum()), int((swapped < intact).sum())
        expected = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
        assert change["p_value"].item() == pytest.approx(expected)


def test_interventions_are_networks_built_so():
    problem = problem_of("highway", loss="cross_entropy")
    model = problem.model
    inputs, targets = problem.first_batch()
    blocks = [model[i] for i in range(2, 6)]

    def loss(middle):
        with torch.no_grad():
            h = middle(model[:2](inputs))
            return float(functional.cross_entropy(model[6](h), targets))

    def chain(*order):
        return lambda h: nn.Sequential(*[blocks[i] for i in order])(h)

    def side_by_side(times):
        def middle(h):
            h = blocks[0](h)
            for _ in range(times):
                h = (blocks[1](h) + blocks[2](h)) / 2
            return blocks[3](h)

        return middle

    expected = {
        "reverse": loss(chain(0, 2, 1, 3)),
        "middle repeat": loss(chain(0, 2, 2, 3)),
        "parallel": loss(side_by_side(1)),
        "looped parallel": loss(side_by_side(4)),
        "skip": loss(chain(0, 3)),
    }
    names = [*expected, "random order"]
    frame = study(problem, neighbours=False, interventions=names, ends=1, loops=4, metric=["loss", "kl"])
    assert set(frame["quantity"]) == {
        *("intact_loss", "loss", "loss_difference", "intact_kl", "kl", "kl_difference", "kendall_tau")
    }
    rows = where(frame, quantity="loss").set_index("intervention")["value"]
    for name, value in expected.items():
        assert rows[name] == pytest.approx(value, abs=1e-12)
    for value in rows["random order"]:
        assert value == pytest.approx(expected["reverse"], abs=1e-12), "the only other order of two"
    undefined = where(frame, intervention=["middle repeat", "parallel", "looped parallel", "skip"])
    assert undefined["kendall_tau"].isna().all() and "kendall_tau" not in set(undefined["quantity"])
    assert where(frame, quantity="intact_kl")["value"].item() == 0
    assert (where(frame, quantity="kl", intervention="skip")["value"] > 0).all()


def test_statistics_are_estimated_anew_in_the_other_order():
    specimen = NETWORKS["post-activation"]
    calibration = specimen.inputs(12) + 0.3
    problem = problem_of("post-activation")
    frame = study(problem, draws=3, calibration=calibration, metric="loss")
    twin = permuted(problem.model, {4: 5, 5: 4})
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    twin.train()(calibration)
    inputs, targets = problem.first_batch()
    with torch.no_grad():
        expected = float(functional.cross_entropy(twin.eval()(inputs), targets))
    rows = where(frame, quantity="loss", intervention="swaps")
    renewed = where(rows, statistics="recalibrated")
    assert renewed["value"].tolist() == pytest.approx([expected] * 2, abs=1e-12), "half of three draws is two"
    assert renewed["draw"].tolist() == [0, 1] and set(renewed["reason"]) == {""}
    assert len(where(rows, statistics="stale")) == 3
    own = study(problem, recalibrate=True)
    assert set(where(own, statistics="recalibrated")["reason"]) == {"calibrated on the problem's own inputs"}
    assert set(study(problem, recalibrate=False)["statistics"]) == {"stale", ""}


def test_intervals_and_the_chance_level():
    problem = problem_of()
    frame = study(problem)
    _, targets = problem.first_batch()
    largest = int(torch.bincount(targets).max())
    assert where(frame, quantity="chance_error")["value"].item() == 1 - largest / EXAMPLES
    measured = where(frame, quantity=["error", "intact_error"])
    assert (measured["low"] <= measured["value"]).all() and (measured["value"] <= measured["high"]).all()
    assert set(measured["n"]) == {EXAMPLES} and set(frame["status"]) == {"ok"}
    assert list(frame.columns) == COLUMNS
    adjusted = where(frame, quantity="error_difference")
    assert (adjusted["p_holm"] >= adjusted["p_value"]).all()
    assert where(frame, quantity="error")["p_value"].isna().all()


def test_a_loss_that_is_not_finite_is_undefined():
    def loss(output, target):
        return torch.where(output[:, 0] > output[:, 0].median(), torch.inf, output[:, 0])

    frame = study(problem_of(loss=loss), metric="loss")
    rows = where(frame, quantity="loss")
    assert rows["value"].isna().all() and set(rows["status"]) == {"undefined"}
    assert rows["reason"].str.contains("no finite value").all()


def test_the_same_seed_gives_the_same_orders_and_equal_orders_run_once():
    problem = problem_of("post-activation")
    frames = [study(problem, draws=20, recalibrate=False, seed=seed) for seed in (3, 3)]
    assert frames[0].equals(frames[1])
    runs = []
    handle = problem.model.register_forward_hook(lambda *heard: runs.append(1))
    study(problem, draws=20, recalibrate=False)
    handle.remove()
    # One to find the blocks, one as it is, one with the only pair exchanged.
    assert len(runs) == 3


def test_a_dry_run_tells_the_passes(capsys):
    problem = problem_of("pre-activation")
    options = {"interventions": ["parallel", "skip"], "ends": 0, "recalibrate": True}
    cost = study(problem, dry_run=True, **options)
    assert list(cost.columns) == ["intervention", "statistics", "measurements", "passes", "seconds"]
    runs = []
    handle = problem.model.register_forward_hook(lambda *heard: runs.append(1))
    study(problem, **options)
    handle.remove()
    assert cost["passes"].sum() == len(runs) - 1, "all but the one that finds the blocks"
    assert (cost["seconds"] > 0).all()
    assert capsys.readouterr().err == ""
    study(problem, **options | {"show": True})
    assert "reordering study: 8 measurements, 12 forward passes, about" in capsys.readouterr().err


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_as_found(training):
    problem = problem_of("post-activation")
    used(problem.model).train(training)
    before = snapshot(problem.model)
    study(problem, interventions=["reverse", "parallel"], ends=0, metric="kl")
    assert_as_found(problem.model, before)

    def broken(output, target, intact):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study(problem, metric=broken)
    assert_as_found(problem.model, before)
    assert all("forward" not in module.__dict__ for module in problem.model.modules())


def test_groups_can_be_given():
    problem = problem_of()
    frame = study(problem, groups=[["2", "0"]], swaps=[1], draws=2, neighbours=False)
    expected = float(errors(permuted(problem.model, {0: 2, 2: 0}), problem).mean())
    rows = where(frame, quantity="error")
    assert rows["value"].tolist() == [expected] * 2
    # The block between them is in no group: its two junctions stay, and count as blocks of their own.
    assert rows["kendall_tau"].tolist() == pytest.approx([1 - 2 * 5 / 6] * 2)
    assert set(where(frame, quantity="kendall_tau")["value"]) == {-1.0}


def test_layers_of_a_plain_network_can_be_named():
    problem = problem_of("plain")
    frame = study(problem, groups=[["1", "2", "3"]], draws=1)
    expected = float(errors(permuted(problem.model, {1: 2, 2: 1}), problem).mean())
    rows = where(frame, quantity="error", intervention="neighbour swap")
    assert rows["value"].tolist()[0] == expected
    assert rows["kendall_tau"].tolist() == pytest.approx([1 - 2 / 3] * 2)


def test_dictionary_batches_and_tokens_will_do():
    plain = problem_of()
    named = Problem(
        plain.model,
        [{"images": x, "labels": y} for x, y in plain.batches()],
        forward=lambda model, inputs: model(inputs["images"]),
    )
    assert study(named)["value"].tolist() == study(plain)["value"].tolist()


def test_what_cannot_be_rearranged_is_refused():
    for name in ("plain", "shared weights", "dense", "padding"):
        with pytest.raises(ValueError, match="no two residual blocks of equal shape"):
            study(problem_of(name))
    problem = problem_of()
    for options, match in [
        ({"swaps": [0]}, r"at least 1, got swaps \[0\]"),
        ({"draws": 0}, "draws 0"),
        ({"recalibrate": "all"}, "True, False or 'half'.*'all'"),
        ({"interventions": ["shake"]}, "reverse, random order, .* got 'shake'"),
        ({"interventions": ["skip"], "ends": 2}, r"when 2 stay at either end; groups have \[3\]"),
        ({"interventions": ["skip"], "ends": -1}, "at least 0"),
        ({"interventions": ["looped parallel"], "ends": 0, "loops": 0}, "loops .* at least 1; got 0"),
        ({"groups": [["0"]]}, r"at least two blocks that change places, got \['0'\]"),
        ({"groups": [["0", "7"]]}, "no module '7'"),
        ({"groups": [["0", "1"], ["1", "2"]]}, "1 is named twice"),
        ({"resamples": 1}, "at least 2, got 1"),
        ({"metric": "speed"}, "got 'speed'"),
    ]:
        with pytest.raises(ValueError, match=match):
            study(problem, **options)
    with pytest.raises(
        ValueError, match=r"group of 4, which is given \[40, 3, 3, 3\], 6 maps .* to \[40, 4, 2, 2\]"
    ):
        study(problem_of("post-activation"), groups=[["4", "6"]])
    with pytest.raises(ValueError, match=r"2\.block does not run exactly once"):
        study(problem_of("shared weights"), groups=[["0", "2.block"]])
    with pytest.raises(ValueError, match="no meaning here"):
        study(problem_of(batch_norm="frozen"))
    fresh = build("resnet", depth=20, width=2, channels=1, seed=0)
    with pytest.raises(ValueError, match="never updated"):
        study((fresh, (torch.randn(4, 1, 8, 8), torch.arange(4))))
