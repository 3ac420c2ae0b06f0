"""What may be asked of a path spectrum: sources, places, and norms of examples."""

import math

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS, Residual, transformer
from path_enumeration import through_each_set
from path_networks import PATH_NETWORKS
from torch import nn

from gradscope.gradients.paths import path_gradients
from gradscope.problem import Problem
from gradscope.studies.graded_path_spectrum import graded_path_spectrum
from gradscope.studies.path_spectrum import path_spectrum


def values(frame, quantity: str, column: str = "value") -> list[float]:
    return frame[frame["quantity"] == quantity].sort_values("path_length")[column].tolist()


@pytest.mark.parametrize(
    "name", ["projection", "parallel transformer", "highway", "DenseNet, lists", "tokens", "encoder-decoder"]
)
def test_all_paths_are_counted(name):
    network = PATH_NETWORKS[name]
    frame = path_spectrum(network.problem(), draws=0)
    counts = values(frame, "path_count")
    assert counts[: len(network.counts)] == list(network.counts) and not any(counts[len(network.counts) :])
    assert sum(values(frame, "path_count_share")) == pytest.approx(1)
    assert sum(values(frame, "signed_share")) == pytest.approx(1)


def test_a_length_without_paths_says_so():
    frame = path_spectrum(PATH_NETWORKS["encoder-decoder"].problem(), draws=2)
    none = frame[frame["path_length"] == 0]
    assert set(none["reason"]) >= {"no path of this length"}
    assert values(frame, "path_count")[0] == 0 and values(frame, "coherent_norm")[0] == 0
    undefined = none[none["status"] == "undefined"]
    assert {"rms_path_norm", "coherence"} <= set(undefined["quantity"])
    assert set(undefined["reason"]) == {"no path of this length"}


def logit_of_class_one(outputs, targets):
    return outputs[:, 1]


@pytest.mark.parametrize("source", ["loss", "logit", "margin", logit_of_class_one])
def test_what_is_differentiated(source):
    problem = PATH_NETWORKS["multi-residual"].problem()
    graded = path_gradients(problem, source=source).flatten(1)
    whole = graded.sum(dim=0)
    frame = path_spectrum(problem, draws=0, source=source)
    name = source if isinstance(source, str) else "logit_of_class_one"
    assert set(frame["source"]) == {name}
    assert set(frame[frame["quantity"] == "coherent_norm"]["unit"]) == {f"{name} per input"}
    assert values(frame, "signed_share") == pytest.approx((graded @ whole / (whole @ whole)).tolist())


SHORT = PATH_NETWORKS["pre-norm transformer"]._replace(
    make=lambda: transformer(parallel=False, layers=2),
    branches=PATH_NETWORKS["pre-norm transformer"].branches[:4],
)


@pytest.mark.parametrize("at", ["0.attention.query_key_value", "0", "1.mlp"])
def test_paths_end_at_the_site(at):
    """From the loss to a block's output, to a branch's inside, and to what a branch reads."""
    network = SHORT
    through = through_each_set(network.problem(), network.branches, at=at)[at].flatten(1)
    lengths = torch.tensor([bin(code).count("1") for code in range(len(through))])
    # What no path crosses is not exactly 0 after so many differences.
    crossed = through.norm(dim=1) > 1e-13 * through.norm()
    expected = [int((crossed & (lengths == length)).sum()) for length in range(5)]
    frame = path_spectrum(network.problem(), draws=1, at=at)
    assert values(frame, "path_count") == expected
    assert set(frame["at"]) == {at} and set(frame["unit"]) >= {"loss per output"}


@pytest.mark.parametrize("at", ["3", "4"])
def test_one_path_crosses_nothing_at_a_site_behind_the_last_junction(at):
    model = nn.Sequential(
        *[Residual(nn.Linear(4, 4)) for _ in range(3)], nn.Linear(4, 4), nn.Linear(4, 3)
    ).double()
    inputs, targets = torch.randn(5, 4, dtype=torch.float64), torch.arange(5) % 3
    problem = Problem(model, (inputs, targets))
    kept = {}
    hook = model.get_submodule(at).register_forward_hook(lambda m, i, o: kept.update(output=o))
    loss = nn.functional.cross_entropy(model(inputs), targets)
    hook.remove()
    norm = float(torch.autograd.grad(loss, kept["output"])[0].norm())
    frame = path_spectrum(problem, at=at, sampled=3)
    for quantity in ("coherent_norm", "incoherent_norm", "rms_path_norm", "veit_product", "mean_path_norm"):
        rows = frame[frame["quantity"] == quantity].sort_values("path_length")
        assert rows["value"][rows["path_length"] == 0].tolist() == pytest.approx([norm]), quantity
        assert rows["reason"][rows["path_length"] > 0].eq("no path of this length").all()
    assert values(frame, "path_count") == [1, 0, 0, 0]
    assert values(frame, "signed_share") == pytest.approx([1, 0, 0, 0])
    graded = graded_path_spectrum(problem, at=at, by="kind")
    assert values(graded, "path_count") == [1, 0, 0, 0]


def test_paths_to_a_site_off_the_way_to_the_input_are_not_counted():
    class Told(nn.Module):
        """Three blocks that read a learned state: three paths to it cross one branch."""

        def __init__(self) -> None:
            super().__init__()
            self.state, self.reads = nn.Linear(1, 4), nn.ModuleList(nn.Linear(8, 4) for _ in range(3))

        def forward(self, x):
            state = self.state(torch.ones(len(x), 1, dtype=x.dtype))
            for read in self.reads:
                x = x + read(torch.cat([x, state], dim=1)).tanh()
            return x

    model = nn.Sequential(Told(), nn.Linear(4, 3)).double()
    data = torch.randn(5, 4, dtype=torch.float64), torch.arange(5) % 3
    frame = path_spectrum((model, data), at="0.state")
    counts = frame[frame["quantity"] == "path_count"]
    assert set(counts["status"]) == {"undefined"}
    assert counts["reason"].str.startswith("no way leads from this site to the input").all()
    assert set(frame[frame["quantity"] == "incoherent_norm"]["status"]) == {"ok"}


def test_parameters_have_lengths_but_no_counts():
    problem = PATH_NETWORKS["projection"].problem()
    split = path_gradients(problem, at="parameters")
    norms = torch.cat([part.flatten(1) for part in split.values()], dim=1).norm(dim=1)
    frame = path_spectrum(problem, at="parameters", draws=2)
    assert values(frame, "coherent_norm") == pytest.approx(norms.tolist())
    assert set(frame[frame["quantity"] == "path_count"]["status"]) == {"undefined"}
    assert set(frame[frame["quantity"] == "incoherent_norm"]["status"]) == {"ok"}


def tensor(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_norms_of_examples_are_those_of_each_alone(reduction):
    network = PATH_NETWORKS["projection"]
    inputs, targets = network.inputs(5), network.targets(5)
    problem = Problem(network.build(), (inputs, targets), reduction=reduction)
    together = path_spectrum(problem, norms="example", draws=3, sampled=6)
    alone = [
        path_spectrum((network.build(), (inputs[row : row + 1], targets[row : row + 1])), draws=3, sampled=6)
        for row in range(5)
    ]
    for quantity in ("signed_share", "coherent_norm", "mean_path_norm"):
        every = tensor([values(frame, quantity) for frame in alone])
        assert values(together, quantity) == pytest.approx(every.mean(dim=0).tolist(), rel=1e-9), quantity
    lower, upper = values(together, "signed_share", "low"), values(together, "signed_share", "high")
    shares = tensor([values(frame, "signed_share") for frame in alone])
    half = 2.776445 * shares.std(dim=0) / math.sqrt(5)
    assert lower == pytest.approx((shares.mean(dim=0) - half).tolist(), rel=1e-6)
    assert upper == pytest.approx((shares.mean(dim=0) + half).tolist(), rel=1e-6)
    batch = path_spectrum(problem, draws=3)
    assert values(together, "coherence") == pytest.approx(values(batch, "coherence"), rel=1e-9)
    root = tensor([values(frame, "coherent_norm") for frame in alone]).square().mean(dim=0).sqrt()
    scale = 5 if reduction == "mean" else 1
    whole = [scale * norm / math.sqrt(5) for norm in values(batch, "coherent_norm")]
    assert whole == pytest.approx(root.tolist(), rel=1e-9)


def test_examples_without_gradient_are_left_out_and_said():
    network = PATH_NETWORKS["projection"]
    hidden = torch.tensor([1.0, 0, 1], dtype=torch.float64)
    problem = Problem(network.build(), (network.inputs(), hidden), loss=lambda o, t: o.sum(dim=1) * t)
    frame = path_spectrum(problem, norms="example", draws=0)
    shares = frame[frame["quantity"] == "signed_share"]
    assert (
        set(shares["n"]) == {2} and shares["reason"].str.startswith("1 of 3 examples have no gradient").all()
    )


def test_bad_input_is_refused_each_with_one_error():
    problem = PATH_NETWORKS["projection"].problem()
    for options, message in {
        ("draws", -1): "draws is a whole number, at least 0, got -1",
        ("draws", 2.0): "draws is a whole number",
        ("sampled", -3): "sampled is a whole number, at least 0, got -3",
        ("norms", "row"): "norms is 'batch'",
        ("source", "logits"): "source is one of loss, logit, margin",
        ("lengths", None): "lengths is 'all' or between 0 and 3",
        ("lengths", 4): "lengths is 'all' or between 0 and 3",
        ("at", "nowhere"): "nowhere",
    }.items():
        with pytest.raises(ValueError, match=message):
            path_spectrum(problem, **dict([options]))
    with pytest.raises(ValueError, match="summed over examples"):
        path_spectrum(problem, norms="example", at="parameters")
    with pytest.raises(ValueError, match="couples the examples"):
        path_spectrum(PATH_NETWORKS["post-activation"].problem("train"), norms="example")
    with pytest.raises(ValueError, match="No residual addition"):
        path_spectrum(PATH_NETWORKS["plain"].problem())
    merged = Problem(
        nn.Sequential(Residual(nn.Linear(4, 4)), nn.Flatten(0), nn.Unflatten(0, (3, 4))).double(),
        (torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2])),
    )
    with pytest.raises(ValueError, match=r"one row for each example, but at 1 it has \[12\]"):
        path_spectrum(merged, norms="example", at="1")


def test_the_model_is_as_found_after_all_options_and_after_errors():
    network = PATH_NETWORKS["post-activation"]
    problem = network.problem()
    used(problem.model)
    before = snapshot(problem.model)
    path_spectrum(problem, draws=2, sampled=2, norms="example", source="margin")
    assert_as_found(problem.model, before)
    with pytest.raises(ValueError, match="norms"):
        path_spectrum(problem, norms="")
    assert_as_found(problem.model, before)


def test_chosen_junctions_count_and_the_others_do_not():
    specimen = NETWORKS["post-activation"]
    problem = Problem(specimen.build(), (specimen.inputs(), specimen.targets()))
    frame = path_spectrum(problem, junctions=lambda junction: junction.kind == "projection", draws=0)
    assert values(frame, "path_count") == [1, 2, 1]
