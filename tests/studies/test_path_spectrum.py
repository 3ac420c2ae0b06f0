"""The spectrum against sums over all paths, and against chains whose spectrum is known."""

import itertools
import math
from math import comb

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS, Repeated, Residual, mlp
from torch import nn

from gradscope.gradients.paths import path_gradients
from gradscope.nets import build, initialise
from gradscope.problem import Problem
from gradscope.studies.path_spectrum import path_spectrum


def problem_of(name: str, batch_norm: str = "auto") -> Problem:
    specimen = NETWORKS[name]
    return Problem(specimen.build(), (specimen.inputs(), specimen.targets()), batch_norm=batch_norm)


def values(frame, quantity: str, column: str = "value") -> list[float]:
    return frame[frame["quantity"] == quantity].sort_values("path_length")[column].tolist()


@pytest.mark.parametrize("name", ["post-activation", "multi-residual", "pre-norm transformer"])
def test_exact_quantities_are_those_of_the_split_gradient(name):
    problem = problem_of(name)
    graded = path_gradients(problem).flatten(1)
    whole = graded.sum(dim=0)
    frame = path_spectrum(problem, draws=0)
    shares = [float(row @ whole / (whole @ whole)) for row in graded]
    assert values(frame, "signed_share") == pytest.approx(shares, abs=1e-12)
    assert sum(values(frame, "signed_share")) == pytest.approx(1, abs=1e-12)
    norms = graded.norm(dim=1).tolist()
    assert values(frame, "coherent_norm") == pytest.approx(norms, rel=1e-12)
    assert values(frame, "coherent_norm_share") == pytest.approx([n / sum(norms) for n in norms], rel=1e-12)
    assert set(frame["status"]) == {"ok"} and set(frame["dtype"]) == {"float64"}


@pytest.mark.parametrize("name", ["post-activation", "multi-residual", "parallel transformer", "padding"])
def test_counts_are_those_of_all_paths(name):
    branches = NETWORKS[name].branches
    counts = [0] * (len(branches) + 1)
    for path in itertools.product(*(range(1 + number) for number in branches)):
        counts[sum(choice > 0 for choice in path)] += 1
    frame = path_spectrum(problem_of(name), draws=0)
    assert values(frame, "path_count") == counts
    assert values(frame, "path_count_share") == pytest.approx([c / sum(counts) for c in counts])


def chain(scale: float, times: int = 5) -> Problem:
    layer = nn.Linear(4, 4, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(scale * torch.eye(4, dtype=torch.float64))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Problem(Repeated(Residual(layer), times), (x, torch.zeros(3)), loss=lambda o, _: o.sum(dim=1))


def test_identical_paths_are_as_coherent_as_they_are_many():
    """T6: of C(n, k) equal paths a^k g. All 32 sign patterns are likely to be met in 400 draws."""
    n, a = 5, 0.8
    frame = path_spectrum(chain(a), draws=400, seed=1)
    head = math.sqrt(12) / 3
    for quantity, exact in {
        "incoherent_norm": [math.sqrt(comb(n, k)) * a**k * head for k in range(n + 1)],
        "rms_path_norm": [a**k * head for k in range(n + 1)],
        "veit_product": [comb(n, k) * a**k * head for k in range(n + 1)],
        "coherence": [comb(n, k) for k in range(n + 1)],
    }.items():
        assert values(frame, quantity) == pytest.approx(exact, rel=0.15), quantity
        assert values(frame, quantity)[0] == pytest.approx(exact[0], rel=1e-12), "no sign is crossed"
        low, high = values(frame, quantity, "low"), values(frame, quantity, "high")
        for lower, true, upper in zip(low, exact, high, strict=True):
            assert lower * (1 - 1e-9) <= true <= upper * (1 + 1e-9)
    assert values(frame, "coherent_norm") == pytest.approx([comb(n, k) * a**k * head for k in range(n + 1)])
    assert set(frame[frame["quantity"] == "coherence"]["n"]) == {400}


def test_batch_norm_chains_have_the_mean_length_of_stirling_numbers():
    """T14: h + W N(h) with linear branches, gains 1/(1 + l): mean length H_{n+1} - 1 by squared path norms."""
    n, lengths = 24, []
    for seed in range(2):
        model = build("residual_mlp", depth=n, width=192, outputs=1, normalise="batch", activation="linear")
        initialise(model, "he", gain=1.0, seed=seed)
        x = torch.randn(512, 192, generator=torch.Generator().manual_seed(seed))
        problem = Problem(model, (x, torch.zeros(512)), loss=lambda o, _: o.sum(dim=1), batch_norm="frozen")
        squares = [norm**2 for norm in values(path_spectrum(problem, draws=4), "incoherent_norm")]
        lengths.append(sum(k * square for k, square in enumerate(squares)) / sum(squares))
    expected = sum(1 / block for block in range(1, n + 2)) - 1
    assert sum(lengths) / 2 == pytest.approx(expected, rel=0.05)


def test_veits_product_is_an_upper_bound_of_what_arrives():
    frame = path_spectrum(problem_of("post-activation"), draws=64)
    for bound, arrived in zip(
        values(frame, "veit_product", "high"), values(frame, "coherent_norm"), strict=True
    ):
        assert arrived <= bound * (1 + 1e-9)


def test_draws_depend_on_the_seed_only():
    problem = problem_of("post-activation")
    once, again, other = (path_spectrum(problem, seed=seed) for seed in (3, 3, 4))
    assert once.equals(again) and not once.equals(other)


def test_zero_branches_leave_undefined_coherence_with_its_reason():
    problem = problem_of("multi-residual")
    with torch.no_grad():
        for block in problem.model[2:5]:
            for parameter in (*block.first[-1].parameters(), *block.second[-1].parameters()):
                parameter.zero_()
    frame = path_spectrum(problem)
    assert values(frame, "signed_share") == pytest.approx([1, 0, 0, 0], abs=1e-15)
    assert values(frame, "incoherent_norm")[1:] == [0, 0, 0]
    undefined = frame[frame["status"] == "undefined"]
    assert set(undefined["quantity"]) == {"coherence"} and list(undefined["path_length"]) == [1, 2, 3]
    assert set(undefined["reason"]) == {"no path has a norm above zero"}


def test_a_zero_gradient_is_undefined():
    specimen = NETWORKS["multi-residual"]
    data = (specimen.inputs(), specimen.targets())
    frame = path_spectrum(Problem(specimen.build(), data, loss=lambda o, _: o.sum(dim=1) * 0), draws=0)
    shares = frame[frame["quantity"] == "signed_share"]
    assert set(shares["status"]) == {"undefined"}
    assert set(shares["reason"]) == {"the gradient is zero or not finite"}


class TwoStreams(nn.Module):
    """Blocks side by side: no path meets all of them."""

    def __init__(self):
        super().__init__()
        self.left, self.right = Residual(mlp(4, 3, 4)), Residual(mlp(4, 3, 4))

    def forward(self, x):
        return torch.cat([self.left(x), self.right(x)], dim=1)


def test_paths_that_cross_the_same_branches_are_counted_but_not_told_apart():
    """Two paths cross nothing, one in each stream; two cross one branch each."""
    model = TwoStreams().double()
    x = torch.randn(3, 4, dtype=torch.float64)
    frame = path_spectrum((model, (x, torch.tensor([0, 1, 2]))), sampled=2)
    assert sum(values(frame, "signed_share")) == pytest.approx(1, abs=1e-12)
    assert values(frame, "path_count")[:2] == [2, 2]
    of_paths = [
        "squared_path_norms",
        "incoherent_norm",
        "incoherent_norm_share",
        "coherence",
        "rms_path_norm",
    ]
    of_paths += ["veit_product", "veit_product_share"]
    single = frame[frame["quantity"].isin(of_paths) & (frame["path_length"] < 2)]
    assert set(single["status"]) == {"undefined"} and single["value"].isna().all()
    assert single["reason"].str.startswith("several paths cross the same branches").all()
    sampled = frame[frame["quantity"] == "mean_path_norm"]
    assert set(sampled["status"]) == {"undefined"}
    assert sampled["reason"].iloc[0].startswith("single paths are drawn in chains only")


def test_sums_over_signs_at_parameters_are_undefined_or_say_what_they_add_up():
    """Where paths to the input are not told apart, those to the parameters are not; off chains else it is unknown."""
    inputs, targets = torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2])
    frame = path_spectrum((TwoStreams().double(), (inputs, targets)), at="parameters")
    sums = frame[frame["quantity"].isin(["squared_path_norms", "coherence"])]
    assert set(sums["status"]) == {"undefined"}
    frame = path_spectrum(problem_of("dense list"), at="parameters", draws=40)
    sums = frame[(frame["quantity"] == "incoherent_norm") & (frame["status"] == "ok")]
    assert len(sums) and sums["reason"].str.contains("added before they are squared").all()


def test_a_zero_gradient_has_no_row_without_a_reason():
    specimen = NETWORKS["multi-residual"]
    data = (specimen.inputs(), specimen.targets())
    frame = path_spectrum(Problem(specimen.build(), data, loss=lambda o, _: o.sum(dim=1) * 0), sampled=2)
    missing = frame[frame["value"].isna()]
    assert {"veit_product_share", "incoherent_norm_share", "coherence"} <= set(missing["quantity"])
    assert missing["reason"].ne("").all() and set(missing["status"]) == {"undefined"}


def test_one_draw_has_no_interval_and_says_so():
    frame = path_spectrum(problem_of("padding"), draws=1)
    rows = frame[frame["quantity"] == "incoherent_norm"]
    assert rows["low"].isna().all() and set(rows["reason"]) == {"one draw gives no interval"}


def test_truncated_spectra_agree():
    problem = problem_of("post-activation")
    assert (
        values(path_spectrum(problem, lengths=2), "coherent_norm")
        == values(path_spectrum(problem), "coherent_norm")[:3]
    )


def test_precision_is_said_and_a_copy_is_measured():
    specimen = NETWORKS["pre-norm transformer"]
    model = specimen.build().float()
    data = (specimen.inputs().float(), specimen.targets())
    narrow = path_spectrum((model, data))
    wide = path_spectrum((model, data), precision=torch.float64)
    assert set(narrow["dtype"]) == {"float32"} and set(wide["dtype"]) == {"float64"}
    assert next(model.parameters()).dtype is torch.float32
    assert values(narrow, "signed_share") == pytest.approx(values(wide, "signed_share"), abs=1e-5)


def test_the_model_is_as_found_and_batch_norm_is_named():
    problem = problem_of("post-activation", "train")
    used(problem.model)
    before = snapshot(problem.model)
    frame = path_spectrum(problem)
    assert_as_found(problem.model, before)
    assert set(frame["batch_norm"]) == {"train"}


def test_negative_draws_are_refused():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        path_spectrum(problem_of("padding"), draws=-1)
