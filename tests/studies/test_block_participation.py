"""Backward lesions against gates at named modules, and against the mean path length."""

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from path_enumeration import gate_patterns
from path_networks import PATH_NETWORKS
from torch import nn

from gradscope.gradients.paths import path_gradients
from gradscope.problem import Problem
from gradscope.studies.block_participation import block_participation
from gradscope.studies.path_moments import path_moments

NAMES = [
    "projection",
    "post-activation",
    "parallel transformer",
    "highway",
    "DenseNet",
    "encoder-decoder",
    "U-Net",
]


def rows_of(frame, quantity: str, *, single: bool):
    """The rows of single branches, or those of whole junctions."""
    rows = frame[frame["quantity"] == quantity]
    several = rows["junction"].isin(rows[rows["branch"] >= 0]["junction"])
    return rows[(rows["branch"] >= 0) | ~several] if single else rows[rows["branch"] == -1]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("encoder-decoder", "U-Net")])
def test_a_closed_branch_is_a_gate_at_its_module(name):
    network = PATH_NETWORKS[name]
    number = len(network.branches)
    patterns = [[1.0] * number] + [[float(k != b) for k in range(number)] for b in range(number)]
    whole, *closed = gate_patterns(network.problem(), network.branches, patterns=patterns)["input"].flatten(1)
    frame = block_participation(network.problem())
    square = whole @ whole
    shares = [float((whole - left) @ whole / square) for left in closed]
    norms = [float((whole - left).norm() / whole.norm()) for left in closed]
    assert rows_of(frame, "participation", single=True)["value"].tolist() == pytest.approx(shares, abs=1e-12)
    assert rows_of(frame, "participation_norm", single=True)["value"].tolist() == pytest.approx(
        norms, rel=1e-9
    )
    without = rows_of(frame, "gradient_norm_without", single=True)
    assert without["value"].tolist() == pytest.approx([float(left.norm()) for left in closed], rel=1e-9)
    assert set(without["unit"]) == {"loss per input"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("single", [True, False])
def test_participation_adds_up_to_the_mean_path_length(name, single):
    """T19, by branches and, as no path crosses two branches of one junction, by junctions."""
    problem = PATH_NETWORKS[name].problem()
    graded = path_gradients(problem).flatten(1)
    whole = graded.sum(dim=0)
    mean = sum(k * float(g @ whole / (whole @ whole)) for k, g in enumerate(graded))
    frame = block_participation(problem)
    assert rows_of(frame, "participation", single=single)["value"].sum() == pytest.approx(mean, rel=1e-9)
    moments = path_moments(problem)
    assert moments["value"].iloc[0] == pytest.approx(mean, rel=1e-9)


def test_junctions_branches_and_attention_are_named():
    frame = block_participation(PATH_NETWORKS["parallel transformer"].problem())
    rows = frame[frame["quantity"] == "participation"]
    assert rows["branch"].tolist() == [-1, 0, 1] * 3
    assert rows["junction"].nunique() == 3 and rows["index"].tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert rows["attention"].tolist() == [True, True, False] * 3
    assert set(rows["kind"]) == {"identity"}


def test_results_do_not_depend_on_how_many_runs_are_held_at_once(monkeypatch):
    problem = PATH_NETWORKS["projection"].problem()
    together = block_participation(problem)
    monkeypatch.setattr("gradscope.studies.block_participation._HELD", 1)
    assert together.equals(block_participation(problem))


def test_each_example_participates_by_itself():
    network = PATH_NETWORKS["projection"]
    inputs, targets = network.inputs(4), network.targets(4)
    frame = block_participation((network.build(), (inputs, targets)), norms="example")
    for quantity in ("participation", "participation_norm", "gradient_norm_without"):
        alone = []
        for row in range(4):
            one = block_participation((network.build(), (inputs[row : row + 1], targets[row : row + 1])))
            alone.append(one[one["quantity"] == quantity]["value"].to_numpy())
        mean = torch.tensor([values.tolist() for values in alone], dtype=torch.float64).mean(dim=0)
        found = frame[frame["quantity"] == quantity]
        assert found["value"].tolist() == pytest.approx(mean.tolist(), rel=1e-9), quantity
        assert set(found["n"]) == {4} and found["low"].notna().all()


def test_a_dead_branch_has_no_part():
    problem = PATH_NETWORKS["projection"].problem()
    with torch.no_grad():
        for parameter in problem.model[1].branch[-1].parameters():
            parameter.zero_()
    frame = block_participation(problem)
    rows = frame[frame["index"] == 1].set_index("quantity")["value"]
    assert rows["participation"] == 0 and rows["participation_norm"] == 0
    dead = Problem(problem.model, (torch.randn(3, 4), torch.zeros(3)), loss=lambda o, _: o.sum(dim=1) * 0)
    frame = block_participation(dead)
    assert set(frame["status"]) == {"undefined"}
    assert set(frame["reason"]) == {"the gradient is zero or not finite"}


def test_the_model_is_as_found_and_bad_input_is_refused():
    problem = PATH_NETWORKS["post-activation"].problem("train")
    used(problem.model)
    before = snapshot(problem.model)
    assert set(block_participation(problem)["batch_norm"]) == {"train"}
    with pytest.raises(ValueError, match="couples the examples"):
        block_participation(problem, norms="example")
    assert_as_found(problem.model, before)
    with pytest.raises(ValueError, match="No residual addition"):
        block_participation((nn.Linear(2, 2), (torch.randn(2, 2), torch.zeros(2, dtype=torch.long))))
