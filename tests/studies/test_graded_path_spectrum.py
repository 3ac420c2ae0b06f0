"""Spectra in several variables against all sets of branches, and against the spectrum in one."""

import itertools
from collections import Counter

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import Residual
from path_enumeration import through_each_set
from path_networks import PATH_NETWORKS
from torch import nn

from gradscope.gradients.live import open_paths
from gradscope.problem import Problem
from gradscope.studies.graded_path_spectrum import graded_path_spectrum
from gradscope.studies.path_spectrum import path_spectrum
from gradscope.studies.paths.grouping import labels_of

SHORT = ["post-norm transformer", "parallel transformer", "tokens"]


def table(frame, quantity: str, groups: tuple[str, ...]) -> dict[tuple[int, ...], float]:
    rows = frame[frame["quantity"] == quantity]
    return dict(
        zip(zip(*(rows[f"length_{group}"] for group in groups), strict=True), rows["value"], strict=True)
    )


@pytest.mark.parametrize("name", SHORT)
def test_attention_and_the_rest_against_all_sets_of_branches(name):
    """In these networks every other branch is attention."""
    network = PATH_NETWORKS[name]
    number = len(network.branches)
    through = through_each_set(network.problem(), network.branches)["input"].flatten(1)
    whole = through.sum(dim=0)
    sums: dict[tuple[int, ...], torch.Tensor] = {}
    for pattern, part in zip(itertools.product([0, 1], repeat=number), through, strict=True):
        index = (sum(pattern[::2]), sum(pattern[1::2]))
        sums[index] = sums.get(index, 0) + part
    frame = graded_path_spectrum(network.problem())
    groups = ("attention", "other")
    shares, norms = table(frame, "signed_share", groups), table(frame, "coherent_norm", groups)
    assert shares.keys() == sums.keys()
    for index, part in sums.items():
        assert shares[index] == pytest.approx(float(part @ whole / (whole @ whole)), abs=1e-12)
        assert norms[index] == pytest.approx(float(part.norm()), abs=1e-12 * float(whole.norm()))
    total = sum(float(part.norm()) for part in sums.values())
    part = table(frame, "coherent_norm_share", groups)
    assert part[1, 1] == pytest.approx(norms[1, 1] / total, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("pre-norm transformer", "attention"),
        ("post-activation", "stage"),
        ("post-activation", "kind"),
        ("U-Net", "kind"),
    ],
)
def test_marginals_are_the_spectrum_in_one_variable(name, by):
    problem = PATH_NETWORKS[name].problem()
    frame = graded_path_spectrum(problem, by=by)
    spectrum = path_spectrum(problem, draws=0)
    for quantity in ("signed_share", "path_count"):
        one = spectrum[spectrum["quantity"] == quantity].set_index("path_length")["value"]
        several = frame[frame["quantity"] == quantity]
        if several["value"].isna().any():
            assert name == "U-Net" and quantity == "path_count" and several["value"].isna().all()
            continue
        marginal = several.groupby("path_length")["value"].sum()
        assert marginal.tolist()[: len(one)] == pytest.approx(one.tolist(), abs=1e-12)
        assert not any(abs(value) > 1e-12 for value in marginal.tolist()[len(one) :])


@pytest.mark.parametrize("name", ["pre-norm transformer", "DenseNet", "U-Net"])
def test_gradients_of_one_total_length_add_up(name):
    with open_paths(PATH_NETWORKS[name].problem()) as paths:
        variables = [place % 2 for place in range(len(paths.branches))]
        split = paths.by_variable(variables)
        one = paths.graded().gradients
        for length in range(len(one)):
            several = [split[a, length - a] for a in range(len(split)) if 0 <= length - a < split.shape[1]]
            torch.testing.assert_close(torch.stack(several).sum(dim=0), one[length], rtol=1e-9, atol=1e-14)


def test_counts_are_those_of_all_choices():
    """In each of three junctions a path takes the skip, attention or the perceptron."""
    expected: Counter = Counter()
    for choice in itertools.product(["skip", "attention", "other"], repeat=3):
        expected[choice.count("attention"), choice.count("other")] += 1
    frame = graded_path_spectrum(PATH_NETWORKS["parallel transformer"].problem())
    found = table(frame, "path_count", ("attention", "other"))
    assert {index: count for index, count in found.items() if count} == dict(expected)
    none = frame[(frame["length_attention"] == 3) & (frame["length_other"] == 3)]
    assert set(none[none["quantity"] != "path_count"]["reason"]) == {"no path of this length"}


def test_three_groups_by_function_and_by_name():
    problem = PATH_NETWORKS["projection"].problem()
    by_place = graded_path_spectrum(problem, by=lambda branch: "abc"[branch.junction.index])
    with open_paths(problem) as paths:
        names = [junction.name for junction in paths.junctions]
    by_name = graded_path_spectrum(problem, by=dict(zip(names, "abc", strict=True)))
    assert by_place.equals(by_name)
    shares = table(by_place, "signed_share", ("a", "b", "c"))
    assert len(shares) == 8 and sum(shares.values()) == pytest.approx(1)


def test_stages_begin_where_the_state_changes():
    def labels(name: str) -> list[str]:
        with open_paths(PATH_NETWORKS[name].problem()) as paths:
            return labels_of(paths.branches, "stage")

    # Two channels; projected to three; projected to four.
    assert labels("post-activation") == ["stage_0"] + ["stage_1"] * 3 + ["stage_2"] * 2
    assert labels("DenseNet") == ["stage_0"] * 3
    assert labels("parallel transformer") == ["stage_0"] * 6


def test_some_lengths_are_those_of_all():
    problem = PATH_NETWORKS["pre-norm transformer"].problem()
    some = table(
        graded_path_spectrum(problem, lengths={"attention": 1}), "signed_share", ("attention", "other")
    )
    every = table(graded_path_spectrum(problem), "signed_share", ("attention", "other"))
    assert len(some) == 2 * (1 + max(other for _, other in every)) < len(every)
    assert some == pytest.approx({index: every[index] for index in some}, abs=1e-12)


def test_examples():
    network = PATH_NETWORKS["tokens"]
    inputs, targets = network.inputs(4), network.targets(4)
    frame = graded_path_spectrum((network.build(), (inputs, targets)), norms="example", source="margin")
    alone = [
        graded_path_spectrum(
            (network.build(), (inputs[row : row + 1], targets[row : row + 1])), source="margin"
        )
        for row in range(4)
    ]
    for quantity in ("signed_share", "coherent_norm"):
        every = [one[one["quantity"] == quantity]["value"].tolist() for one in alone]
        mean = torch.tensor(every, dtype=torch.float64).mean(dim=0)
        found = frame[frame["quantity"] == quantity]
        assert found["value"].tolist() == pytest.approx(mean.tolist(), rel=1e-9)
        assert set(found["n"]) == {4} and set(found["source"]) == {"margin"}


def gains(first: float, second: float) -> Problem:
    """Three branches that multiply by one gain, then three by another, in float32."""
    layers = [nn.Linear(2, 2, bias=False) for _ in range(6)]
    for place, layer in enumerate(layers):
        layer.weight.data = (first if place < 3 else second) * torch.eye(2)
    model = nn.Sequential(*[Residual(layer) for layer in layers])
    return Problem(model, (torch.randn(2, 2), torch.zeros(2)), loss=lambda o, _: o.sum(dim=1))


def halves(branch) -> str:
    return "first" if branch.junction.index < 3 else "second"


def test_combinations_below_the_smallest_number_are_undefined_and_true_zeros_are_not():
    """Paths through k blocks of gain 1e-20 are lost from k = 2 on, however many other blocks they cross."""
    frame = graded_path_spectrum(gains(1e-20, 0.5), by=halves)
    rows = frame[frame["quantity"] == "coherent_norm"]
    lost = rows["status"] == "undefined"
    assert set(rows[lost]["length_first"]) == {2, 3} and lost.sum() == 8
    assert rows[lost]["reason"].str.contains("precision=torch.float64").all()
    wide = graded_path_spectrum(gains(1e-20, 0.5), by=halves, precision=torch.float64)
    found = table(wide, "coherent_norm", ("first", "second"))
    assert found[3, 1] == pytest.approx(3 * 0.5 * 1e-60, rel=1e-5) and set(wide["status"]) == {"ok"}
    zeros = graded_path_spectrum(gains(0, 0.5), by=halves)
    assert set(zeros["status"]) == {"ok"} and table(zeros, "coherent_norm", ("first", "second"))[1, 2] == 0


def test_the_model_is_as_found_and_bad_input_is_refused():
    problem = PATH_NETWORKS["projection"].problem()
    used(problem.model)
    before = snapshot(problem.model)
    graded_path_spectrum(problem, by="stage")
    assert_as_found(problem.model, before)
    for options, message in {
        ("by", "size"): "by is one of attention, stage, kind",
        ("by", 3): "by is one of attention, stage, kind",
        ("by", lambda branch: None): "label that is text, got None",
        ("lengths", 3): "longest length for some labels, got 3",
    }.items():
        with pytest.raises(ValueError, match=message):
            graded_path_spectrum(problem, **dict([options]))
    with pytest.raises(ValueError, match="no label for"):
        graded_path_spectrum(problem, by={"0:0": "first"})
    with pytest.raises(ValueError, match="lengths names 'heads', but the groups are other"):
        graded_path_spectrum(problem, lengths={"heads": 1})
    with pytest.raises(ValueError, match="lies between 0 and 3, got 4"):
        graded_path_spectrum(problem, lengths={"other": 4})
    assert_as_found(problem.model, before)


def test_too_many_combinations_are_refused_before_anything_is_computed():
    model = nn.Sequential(*[Residual(nn.Linear(2, 2)) for _ in range(14)])
    problem = Problem(model, (torch.randn(2, 2), torch.tensor([0, 1])))
    with pytest.raises(ValueError, match=r"16,384 combinations of lengths.*at most 10,000"):
        graded_path_spectrum(problem, by=lambda branch: str(branch.junction.index))
