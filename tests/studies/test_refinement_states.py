"""States, weighted sums and undefined examples of a refinement study, against forwards written out by hand."""

import math
from itertools import pairwise

import pandas as pd
import pytest
import torch
from networks import NETWORKS, Residual, mlp
from torch import Tensor, nn
from torch.nn import functional

from gradscope.instruments.junctions import junctions, trace
from gradscope.studies.effective_ensemble import effective_ensemble
from gradscope.studies.refinement_study import refinement_study

STATES = ["block_influence", "angular_distance", "estimation_error_rms"]
cosine = functional.cosine_similarity


def study(problem, what, **options) -> pd.DataFrame:
    return refinement_study(problem, what=what, show=False, **options)


def values(frame: pd.DataFrame, quantity: str, column: str = "value") -> list:
    return frame[frame["quantity"] == quantity][column].tolist()


class Chain(nn.Module):
    """A stem, blocks that join h and f(h) in some way, a head."""

    def __init__(self, join, blocks: int = 3, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Linear(4, 4)
        self.branches = nn.ModuleList(mlp(4, 4) for _ in range(blocks))
        self.head, self.join = nn.Linear(4, 3), join
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.states(x)[-1])

    def states(self, x: Tensor) -> list[Tensor]:
        states = [self.stem(x)]
        for branch in self.branches:
            states.append(self.join(states[-1], branch(states[-1])))
        return states


def drawn(examples: int = 7, seed: int = 1) -> tuple[Tensor, Tensor]:
    x = torch.randn(examples, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, torch.arange(examples) % 3


def rectified(h: Tensor, f: Tensor) -> Tensor:
    return (h + f).relu()


@torch.no_grad()
def positive_at_first() -> tuple[Chain, Tensor]:
    """All sums of the first example are positive, so that its ReLU changes nothing, and no others are."""
    net = Chain(rectified)
    net.stem.weight.copy_(torch.eye(4))
    net.stem.bias.zero_()
    for branch in net.branches:
        for parameter in branch.parameters():
            parameter.mul_(0.3)
    x = torch.cat([torch.full((1, 4), 9.0, dtype=torch.float64), drawn(6)[0] + 0.5])
    states = net.states(x)
    assert all((state[0] > 0).all() for state in states) and (states[1][1:] == 0).any()
    assert all(state.any(dim=1).all() for state in states), "every state has a direction"
    return net, x


@pytest.mark.parametrize("sizes", [(7,), (1, 2, 4), (1,) * 7])
def test_the_state_behind_a_block_is_that_behind_its_relu_whatever_the_first_batch_holds(sizes):
    net, x = positive_at_first()
    frame = study((net, list(x.split(sizes))), STATES)
    with torch.no_grad():
        states = net.states(x)
    influence = [float(1 - cosine(a, b).mean()) for a, b in pairwise(states)]
    assert values(frame, "block_influence") == pytest.approx(influence)
    error = [float((s - states[-1]).mean(0).square().mean().sqrt()) for s in states[1:]]
    assert values(frame, "estimation_error_rms") == pytest.approx(error)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("post-activation", [0, 2]),
        ("post-activation", [1]),
        ("pre-activation", [0, 1, 5]),
        ("pre-norm transformer", [0, 2, 5]),
        ("padding", [1]),
        ("long skip", [1]),
    ],
)
def test_a_selection_reports_some_of_the_rows_of_all(name, places):
    specimen = NETWORKS[name]
    data = specimen.build(), (specimen.inputs(6), specimen.targets(6))
    model = data[0]
    able = [j for j in trace(model, model, specimen.inputs(6)).junctions if j.graded]
    whole = refinement_study(data, junctions=able, show=False)
    part = refinement_study(data, junctions=[able[place] for place in places], show=False)
    indices = {able[place].index for place in places}
    kept = whole["index"].isin(indices) & whole["other_index"].isin(indices | {-1})
    expected = whole[kept & (whole["kind"] != "input")]
    entering = part["kind"] == "input"
    pd.testing.assert_frame_equal(part[~entering].reset_index(drop=True), expected.reset_index(drop=True))
    assert set(part[entering]["index"]) <= {whole[whole["kind"] == "input"]["index"].min()}


def test_a_gap_deletes_junctions_that_are_not_reported_too():
    net, (x, _) = Chain(lambda h, f: h + f), drawn()
    found = junctions(net, x)
    frame = study((net, x), "angular_distance", junctions=[found[0], found[2]])
    assert frame["deleted"].tolist() == ["0", "0,1,2", "2"]
    with torch.no_grad():
        states = net.states(x)
    wanted = [(0, 1), (0, 3), (2, 3)]
    angles = [float(cosine(states[a], states[b]).arccos().mean()) / math.pi for a, b in wanted]
    assert frame["value"].tolist() == pytest.approx(angles)
    assert set(frame["position"]) == {1, 3}


def test_inner_junctions_hand_on_to_inner_junctions():
    """Two blocks inside of one long skip: what the first hands on is its sum, not that of the outer block."""
    inner = [Residual(mlp(4, 4)) for _ in range(2)]
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 4), Residual(nn.Sequential(*inner)), Residual(mlp(4, 4)), nn.Linear(4, 3)
    )
    net, (x, _) = net.double(), drawn()
    found = trace(net, net, x).junctions
    assert [j.level for j in found] == [1, 1, 0, 0]
    frame = study((net, x), ["block_influence", "estimation_error_rms"], junctions=found[:1])
    with torch.no_grad():
        h = net[0](x)
        first = inner[0](h)
        second = inner[1](first)
    assert values(frame, "block_influence") == pytest.approx([float(1 - cosine(h, first).mean())])
    error = float((first - second).mean(0).square().mean().sqrt())
    assert values(frame, "estimation_error_rms") == pytest.approx([error])


@pytest.mark.parametrize(
    ("join", "kept", "added"),
    [
        (lambda h, f: torch.lerp(h, f, 0.3), 0.7, 0.3),
        (lambda h, f: torch.add(f, h, alpha=2), 2, 1),
        (lambda h, f: f - h, -1, 1),
        (lambda h, f: torch.stack([h, f]).mean(0), 0.5, 0.5),
    ],
)
def test_first_order_and_sizes_of_a_weighted_sum_are_those_of_its_lesion(join, kept, added):
    net, (x, y) = Chain(join, blocks=1), drawn()
    frame = refinement_study((net, (x, y)), show=False)
    h = net.stem(x)
    branch = added * net.branches[0](h)
    total = (kept * h + branch).detach().requires_grad_()
    loss = functional.cross_entropy(net.head(total), y, reduction="sum")
    (slope,) = torch.autograd.grad(loss, total)
    (at_input,) = torch.autograd.grad(
        functional.cross_entropy(net.head(kept * h + branch), y, reduction="sum"), h
    )
    h, branch = h.detach(), net.branches[0](h).detach() * added
    expected = {
        "first_order_lesion": -(branch * slope).sum(1),
        "cosine_with_loss_gradient": cosine(branch, at_input),
        "branch_norm": branch.norm(dim=1),
        "stream_norm": abs(kept) * h.norm(dim=1),
        "l2_ratio": branch.norm(dim=1) / (abs(kept) * h.norm(dim=1)),
        "block_influence": 1 - cosine(h, total.detach()),
    }
    for quantity, wanted in expected.items():
        assert values(frame, quantity) == pytest.approx([float(wanted.mean())]), quantity
    gains = values(effective_ensemble((net, x), show=False), "branch_gain")
    if join(torch.ones(1), torch.ones(1)) != 1 or kept == 0.7:
        assert values(frame, "l2_ratio") == pytest.approx(gains), "the gain of effective_ensemble"


def test_the_first_order_prediction_becomes_exact_for_small_branches_of_a_lerp():
    net, data = Chain(lambda h, f: torch.lerp(h, f, 0.3)), drawn()
    distance = []
    for _ in range(3):
        distance.append(
            [abs(v - 1) for v in values(study((net, data), "first_order_ratio"), "first_order_ratio")]
        )
        with torch.no_grad():
            for branch in net.branches:
                branch[-1].weight.mul_(1e-2)
                branch[-1].bias.mul_(1e-2)
    assert max(distance[2]) < 1e-3
    assert [b / a for a, b in zip(*distance[1:], strict=True)] == pytest.approx([1e-2] * 3, rel=0.05)


@pytest.mark.parametrize(
    "skip", [lambda h: h * 1.0, lambda h: h.view(len(h), 2, 2).view(len(h), 4), lambda h: h.to(torch.float32)]
)
def test_skips_that_are_computed_are_compared_with_the_gradient_at_their_sum(skip):
    net, (x, y) = Chain(lambda h, f: skip(h) + f, blocks=1), drawn()
    assert [j.kind for j in junctions(net, x)] == ["nonparam-skip"]
    frame = study((net, (x, y)), "cosine_with_loss_gradient")
    h = net.stem(x)
    total = (skip(h) + net.branches[0](h)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(functional.cross_entropy(net.head(total), y), total)
    assert frame["value"].item() == pytest.approx(cosine(net.branches[0](h), slope).mean().item())


def test_an_example_that_is_not_a_number_is_left_out_alike_everywhere():
    net, (x, y) = Chain(lambda h, f: h + f), drawn(8)
    x[3, 1] = math.nan
    others = torch.arange(8) != 3
    broken = refinement_study((net, [(x[:5], y[:5]), (x[5:], y[5:])]), show=False)
    sound = refinement_study((net, (x[others], y[others])), show=False)
    averaged = ~broken["quantity"].str.startswith("estimation_error")
    assert (broken[averaged]["n"] == 7).all() and (broken[averaged]["status"] == "ok").all()
    assert broken[averaged]["reason"].str.contains("undefined for 1 of 8 examples").all()
    assert not broken["reason"].str.contains("the measured change is exactly zero").any()
    for column in ("value", "low", "high"):
        assert broken[averaged][column].tolist() == pytest.approx(
            sound[averaged][column].tolist(), nan_ok=True
        )
    errors = broken[~averaged]
    assert (errors["status"] == "undefined").all() and errors["value"].isna().all()


def test_all_examples_undefined_are_not_a_change_of_zero():
    net, (x, y) = Chain(lambda h, f: h + f, blocks=1), drawn(4)
    row = study((net, (x * math.nan, y)), "first_order_ratio").iloc[0]
    assert (row["status"], row["n"]) == ("undefined", 0)
    assert row["reason"] == "undefined for 4 of 4 examples: a change is not a number"


def test_classes_that_are_ruled_out_leave_the_lens_defined():
    class Ruled(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.tensor([0.0, 0.0, -math.inf], dtype=torch.float64)

    net, (x, y) = Ruled(lambda h, f: h + f), drawn()
    frame = refinement_study((net, (x, y % 2)), show=False)
    with torch.no_grad():
        logits = [net.head(state)[:, :2].log_softmax(dim=1) for state in net.states(x)]
    wanted = [float((logits[-1].exp() * (logits[-1] - own)).sum(dim=1).mean()) for own in logits]
    assert values(frame, "lens_kl_to_output") == pytest.approx(wanted)
