"""What a residual block does to the stream, against networks computed by hand and laws known beforehand."""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS, RESIDUAL, Residual, mlp, stack
from torch import Tensor, nn

from gradscope.instruments.gates import scale_branches
from gradscope.instruments.junctions import junctions
from gradscope.measures.intervals import wilson
from gradscope.nets import build
from gradscope.problem import Problem
from gradscope.studies.refinement_study import refinement_study


def study(name: str, sizes: tuple[int, ...] = (7, 5), **options) -> pd.DataFrame:
    return refinement_study(problem_of(name, sizes), show=False, **options)


def problem_of(name: str, sizes: tuple[int, ...] = (7, 5)) -> Problem:
    specimen = NETWORKS[name]
    x, y = specimen.inputs(sum(sizes)), specimen.targets(sum(sizes))
    return Problem(specimen.build(), list(zip(x.split(sizes), y.split(sizes), strict=True)))


def values(frame: pd.DataFrame, quantity: str, column: str = "value") -> list[float]:
    return frame[frame["quantity"] == quantity][column].tolist()


def linear_problem(blocks: int = 3, examples: int = 9) -> Problem:
    """h <- h + h A, read out linearly: everything below follows by hand."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *[Residual(nn.Linear(4, 4, bias=False)) for _ in range(blocks)], nn.Linear(4, 3)
    ).double()
    x = torch.randn(examples, 4, dtype=torch.float64)
    return Problem(net, (x, torch.arange(examples) % 3))


@torch.no_grad()
def by_hand(problem: Problem) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """States, branches and loss gradients at the states of a linear residual network."""
    (x, y), net = problem.first_batch(), problem.model
    states, branches = [x], []
    for block in net[:-1]:
        branches.append(states[-1] @ block.branch.weight.T)
        states.append(states[-1] + branches[-1])
    slope = (net[-1](states[-1]).softmax(dim=1) - nn.functional.one_hot(y, 3)) @ net[-1].weight
    slopes = [slope]
    for block in reversed(list(net[:-1])):
        slopes.insert(0, slopes[0] + slopes[0] @ block.branch.weight)
    return states, branches, slopes


def test_a_linear_residual_network_is_as_computed_by_hand():
    problem = linear_problem()
    frame = refinement_study(problem, show=False)
    states, branches, slopes = by_hand(problem)
    cosine = nn.functional.cosine_similarity
    expected: dict[str, list[Tensor]] = {
        "branch_norm": [b.norm(dim=1) for b in branches],
        "stream_norm": [s.norm(dim=1) for s in states[:-1]],
        "l2_ratio": [b.norm(dim=1) / s.norm(dim=1) for b, s in zip(branches, states, strict=False)],
        "block_influence": [1 - cosine(a, b) for a, b in pairwise(states)],
        "cosine_with_loss_gradient": [cosine(b, g) for b, g in zip(branches, slopes, strict=False)],
        "first_order_lesion": [-(b * g).sum(dim=1) for b, g in zip(branches, slopes[1:], strict=True)],
    }
    for quantity, wanted in expected.items():
        assert values(frame, quantity) == pytest.approx([float(w.mean()) for w in wanted]), quantity
        half = [2.306004 * float(w.std()) / 3 for w in wanted]
        low = [float(w.mean()) - h for w, h in zip(wanted, half, strict=True)]
        assert values(frame, quantity, "low") == pytest.approx(low), "Student's t with 8 degrees of freedom"
        assert values(frame, quantity, "n") == [9] * 3
    difference = [(s - states[-1]).mean(dim=0) for s in states[1:]]
    assert values(frame, "estimation_error_mean") == pytest.approx([float(d.mean()) for d in difference])
    spreads = [float(d.std(correction=0)) for d in difference]
    assert values(frame, "estimation_error_spread") == pytest.approx(spreads)
    assert values(frame, "estimation_error_rms")[-1] == 0


def test_lesions_and_lens_are_networks_without_the_block():
    problem = linear_problem()
    frame = refinement_study(problem, show=False)
    (x, y), net = problem.first_batch(), problem.model
    loss = nn.CrossEntropyLoss()
    without = [nn.Sequential(*[layer for k, layer in enumerate(net) if k != gone]) for gone in range(3)]
    with torch.no_grad():
        change = [float(loss(other(x), y) - loss(net(x), y)) for other in without]
        shorter = [nn.Sequential(*net[:kept], net[-1])(x) for kept in range(4)]
        assert values(frame, "lesion_loss_change") == pytest.approx(change)
        assert values(frame, "lens_loss") == pytest.approx([float(loss(logits, y)) for logits in shorter])
        hits = [int((logits.argmax(dim=1) == y).sum()) for logits in shorter]
        assert values(frame, "early_exit_accuracy") == [wilson(hit, 9).value for hit in hits]
        assert values(frame, "early_exit_accuracy", "low") == [wilson(hit, 9).low for hit in hits]
        same = [float((logits.argmax(1) == shorter[-1].argmax(1)).double().mean()) for logits in shorter]
        assert values(frame, "lens_agreement") == pytest.approx(same)
    lens = frame[frame["quantity"] == "lens_loss"]
    assert lens["position"].tolist() == [0, 1, 2, 3] and lens["index"].tolist() == [-1, 0, 1, 2]
    assert lens["kind"].tolist() == ["input", *["identity"] * 3]
    predicted = np.array(values(frame, "first_order_lesion"))
    assert values(frame, "first_order_ratio") == pytest.approx(predicted / np.array(change))


def test_the_ratio_has_the_interval_of_a_ratio_of_means():
    problem = linear_problem()
    row = refinement_study(problem, what="first_order_ratio", show=False).iloc[1]
    states, branches, slopes = by_hand(problem)
    (_, y), net = problem.first_batch(), problem.model
    loss = nn.CrossEntropyLoss(reduction="none")
    with torch.no_grad():
        measured = loss(net[3](net[2](states[1])), y) - loss(net[3](states[3]), y)
    predicted = -(branches[1] * slopes[2]).sum(dim=1)
    residual = predicted - row["value"] * measured
    half = 2.306004 * float(residual.std()) / 3 / abs(float(measured.mean()))
    assert (row["low"], row["high"]) == pytest.approx((row["value"] - half, row["value"] + half))


def test_blocks_that_step_down_the_gradient_have_cosine_minus_one():
    """F(h) = -c (h - t) with the loss |h - t|^2 / 2: each block goes exactly down the slope."""

    class Descent(nn.Module):
        def __init__(self):
            super().__init__()
            self.step = nn.Linear(3, 3)
            with torch.no_grad():
                self.step.weight.copy_(-0.3 * torch.eye(3))
                self.step.bias.copy_(0.3 * torch.tensor([1.0, -2.0, 0.5]))

        def forward(self, x):
            return x + self.step(x)

    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()
    target = torch.tensor([1.0, -2.0, 0.5]).double().expand(6, 3)
    net = nn.Sequential(*[Descent() for _ in range(4)]).double()
    frame = refinement_study(Problem(net, (x, target), loss="half_squared_error"), show=False)
    assert values(frame, "cosine_with_loss_gradient") == pytest.approx([-1] * 4)
    assert all(value > 0 for value in values(frame, "lesion_loss_change"))
    assert set(frame[frame["quantity"] == "early_exit_accuracy"]["status"]) == {"undefined"}


@pytest.mark.parametrize("name", RESIDUAL)
def test_laws_of_the_last_junction_on_every_network(name):
    frame = study(name)
    stages = frame[frame["quantity"] == "estimation_error_rms"].groupby("stage")["value"]
    assert (stages.last() == 0).all(), "the last state of a stage is what it estimates"
    if name != "long skip":
        lens = frame[frame["quantity"] == "lens_kl_to_output"]
        assert lens["value"].tolist()[-1] == pytest.approx(0, abs=1e-12)
        assert values(frame, "lens_agreement")[-1] == 1
    mean, spread, rms = (np.array(values(frame, f"estimation_error_{q}")) for q in ("mean", "spread", "rms"))
    np.testing.assert_allclose(rms**2, mean**2 + spread**2)
    defined = frame[frame["status"] == "ok"]
    assert (defined["low"] <= defined["value"]).all() and (defined["value"] <= defined["high"]).all()
    assert set(frame[frame["status"] != "ok"]["quantity"]) <= {"block_influence"}


def test_the_lens_at_the_last_junction_is_the_output_exactly():
    problem = problem_of("post-activation")
    frame = refinement_study(problem, what=["lens_loss", "early_exit_accuracy"], show=False)
    with torch.no_grad():
        losses = torch.cat([problem.losses(x, y) for x, y in problem.batches()])
    assert values(frame, "lens_loss")[-1] == pytest.approx(float(losses.mean()), rel=1e-14)
    assert values(frame, "lens_loss", "stage") == [2, 2], "earlier stages have another shape"


def test_a_projection_is_compared_with_the_gradient_at_its_sum():
    problem = problem_of("pre-activation", (6,))
    frame = refinement_study(
        problem, what=["cosine_with_loss_gradient", "l2_ratio", "block_influence"], show=False
    )
    (x, y), net = problem.first_batch(), problem.model
    state = net[2](net[1](net[0](x)))
    block = net[3]
    shared = block.norm(state).relu()
    skip, branch = block.down(shared), block.branch(shared)
    total = (skip + branch).detach().requires_grad_()
    out = total
    for layer in net[4:]:
        out = layer(out)
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(out, y, reduction="sum"), total)
    cosine = nn.functional.cosine_similarity(branch.flatten(1), slope.flatten(1)).mean()
    ratio = (branch.flatten(1).norm(dim=1) / skip.flatten(1).norm(dim=1)).mean()
    assert values(frame, "cosine_with_loss_gradient")[1] == pytest.approx(cosine.item())
    assert values(frame, "l2_ratio")[1] == pytest.approx(ratio.item())
    influence = frame[frame["quantity"] == "block_influence"]
    assert influence["status"].tolist() == ["ok", "undefined", "ok", "ok", "undefined", "ok"]
    assert "no angle" in influence["reason"].iloc[1]


def test_the_first_order_prediction_becomes_exact_for_small_branches():
    """T22: the ratio goes to 1, and its distance from 1 shrinks in proportion to the branches."""
    torch.manual_seed(1)
    net, y = stack(lambda: Residual(mlp(4, 3, 4)), 2).double(), torch.arange(6) % 3
    x = torch.randn(6, 4, dtype=torch.float64)
    distance = []
    for _ in range(3):
        frame = refinement_study((net, (x, y)), what=["first_order_ratio"], show=False)
        distance.append(np.abs(np.array(values(frame, "first_order_ratio")) - 1))
        with torch.no_grad():
            for block in net[2:4]:
                for parameter in block.branch[-1].parameters():
                    parameter.mul_(1e-2)
    assert (distance[2] < 1e-3).all() and (distance[1] > 0).all()
    np.testing.assert_allclose(distance[2] / distance[1], 1e-2, rtol=0.05)


def test_inside_a_gate_the_gated_network_is_measured():
    problem = linear_problem()
    found = junctions(problem.model, problem.first_batch()[0])
    with scale_branches(problem.model, found, 0.25):
        gated = refinement_study(problem, show=False)
    with torch.no_grad():
        for block in problem.model[:-1]:
            block.branch.weight.mul_(0.25)
    pd.testing.assert_frame_equal(gated, refinement_study(problem, show=False), rtol=1e-9)


def test_angular_distance_lists_what_would_be_deleted():
    frame = refinement_study(linear_problem(), what="angular_distance", show=False)
    states, *_ = by_hand(linear_problem())
    assert frame["deleted"].tolist() == ["0", "0,1", "0,1,2", "1", "1,2", "2"]
    for row in frame.itertuples():
        assert row.deleted.split(",")[0] == str(row.index) and row.deleted.split(",")[-1] == str(
            row.other_index
        )
    first = frame.set_index(["index", "other_index"])["value"]
    for (before, after), value in first.items():
        cosine = nn.functional.cosine_similarity(states[before], states[after + 1])
        assert value == pytest.approx(float(cosine.arccos().mean()) / math.pi)


class LanguageModel(nn.Module):
    """Tokens to logits for each token; a padded token is marked by its mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.blocks = nn.Sequential(*[Residual(mlp(4, 4)) for _ in range(2)])
        self.norm, self.out = nn.LayerNorm(4), nn.Linear(4, 7, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.out(self.norm(self.blocks(self.embed(input_ids))))


def next_token_loss(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output.mT, target, reduction="none").sum(dim=1)


def language_problem() -> tuple[Problem, Tensor, Tensor]:
    torch.manual_seed(0)
    ids = torch.randint(0, 7, (3, 5))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    data = [{"input_ids": ids, "attention_mask": mask, "labels": ids.roll(-1, dims=1)}]
    return Problem(LanguageModel().double(), data, loss=next_token_loss), ids, mask


def test_the_logit_lens_is_the_unembedding_of_the_normalised_state():
    problem, ids, mask = language_problem()
    frame = refinement_study(problem, show=False)
    model = problem.model
    with torch.no_grad():
        states = [model.embed(ids)]
        for block in model.blocks:
            states.append(block(states[-1]))
        logits = [model.out(model.norm(state)) for state in states]
        losses = [next_token_loss(some, ids.roll(-1, dims=1)).mean() for some in logits]
    assert values(frame, "lens_loss") == pytest.approx([float(loss) for loss in losses])
    final = logits[-1].log_softmax(dim=-1)
    divergences = []
    for some in logits:
        per_token = (final.exp() * (final - some.log_softmax(dim=-1))).sum(dim=-1)
        divergences.append(float(((per_token * mask).sum(dim=1) / mask.sum(dim=1)).mean()))
    assert values(frame, "lens_kl_to_output") == pytest.approx(divergences)
    by_user = refinement_study(
        problem, what="lens_loss", lens=lambda state: model.out(model.norm(state)), show=False
    )
    assert values(by_user, "lens_loss") == pytest.approx(values(frame, "lens_loss"))
    assert set(frame[frame["quantity"] == "early_exit_accuracy"]["status"]) == {"undefined"}


def test_language_models_are_compared_per_token_and_at_the_last_token_that_counts():
    problem, ids, mask = language_problem()
    frame = refinement_study(
        problem, what=["block_influence", "angular_distance", "estimation_error_mean"], show=False
    )
    model = problem.model
    with torch.no_grad():
        before = model.embed(ids)
        after = model.blocks[0](before)
        end = model.blocks[1](after)
    cosine = nn.functional.cosine_similarity(before, after, dim=-1)
    influence = (((1 - cosine) * mask).sum(dim=1) / mask.sum(dim=1)).mean()
    assert values(frame, "block_influence")[0] == pytest.approx(float(influence))
    last = torch.stack([cosine[0, 4], cosine[1, 2], cosine[2, 1]]).arccos().mean() / math.pi
    assert values(frame, "angular_distance")[0] == pytest.approx(float(last))
    means = torch.stack([(after - end)[i, : int(mask[i].sum())].mean(dim=0) for i in range(3)])
    assert values(frame, "estimation_error_mean")[0] == pytest.approx(float(means.mean()))


def test_batches_of_any_size_give_the_same_numbers():
    whole, split = study("post-activation", (12,)), study("post-activation", (1, 7, 4))
    pd.testing.assert_frame_equal(whole, split)


def test_group_jackknife_of_a_mean_is_its_standard_error():
    """With as many groups as examples the jackknife of a mean is the textbook formula."""
    frame = refinement_study(linear_problem(), what="estimation_error_mean", show=False)
    states, *_ = by_hand(linear_problem())
    per_example = (states[1] - states[3]).mean(dim=1)
    half = 2.306004 * float(per_example.std()) / 3
    assert frame["high"].iloc[0] - frame["value"].iloc[0] == pytest.approx(half)


def test_closed_branches_have_no_direction():
    net = nn.Sequential(Residual(nn.Linear(4, 4)), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for parameter in net[0].parameters():
            parameter.zero_()
    frame = refinement_study((net, (torch.ones(5, 4).double(), torch.arange(5) % 3)), show=False)
    row = frame[frame["quantity"] == "cosine_with_loss_gradient"].iloc[0]
    assert (row["status"], row["n"]) == ("undefined", 0) and "undefined for 5 of 5 examples" in row["reason"]
    ratio = frame[frame["quantity"] == "first_order_ratio"].iloc[0]
    assert (ratio["status"], ratio["reason"]) == ("undefined", "the measured change is exactly zero")
    assert values(frame, "l2_ratio") == [0] and values(frame, "lesion_loss_change") == [0]


def test_without_targets_everything_without_a_loss_is_measured():
    frame = refinement_study((linear_problem().model, torch.ones(2, 4)), show=False)
    measured = {"branch_norm", "block_influence", "angular_distance", "lens_kl_to_output"}
    assert measured <= set(frame["quantity"]) and "lens_loss" not in set(frame["quantity"])
    with pytest.raises(ValueError, match="lens_loss need targets, but the data has none"):
        refinement_study((linear_problem().model, torch.ones(2, 4)), what=["lens_loss"])


def test_an_output_that_goes_round_the_last_sum_has_no_lens():
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.out = Residual(mlp(4, 4)), nn.Linear(8, 3)

        def forward(self, x):
            return self.out(torch.cat([x, self.block(x)], dim=1))

    frame = refinement_study((Aside().double(), (torch.ones(3, 4), torch.arange(3))), show=False)
    row = frame[frame["quantity"] == "lens_loss"].iloc[0]
    assert row["status"] == "undefined" and "more than the last sum" in row["reason"]


def test_junctions_can_be_chosen():
    problem = problem_of("pre-norm transformer", (4,))
    found = junctions(problem.model, problem.first_batch()[0])
    frame = refinement_study(problem, junctions=[found[3], found[1]], what="l2_ratio", show=False)
    assert frame["index"].tolist() == [1, 3]
    whole = study("pre-norm transformer", (4,), what="l2_ratio")
    assert values(frame, "l2_ratio") == [whole["value"][1], whole["value"][3]]


@pytest.mark.parametrize("name", ["post-activation", "tokens", "frozen"])
def test_the_model_is_as_found(name):
    problem = problem_of(name)
    used(problem.model).train()
    before = snapshot(problem.model)
    refinement_study(problem, show=False)
    assert_as_found(problem.model, before)


def test_the_model_is_as_found_when_the_body_raises():
    problem = problem_of("post-activation")
    before = snapshot(used(problem.model))
    before = snapshot(problem.model)

    def lens(state: Tensor) -> Tensor:
        raise KeyError("lens")

    with pytest.raises(KeyError):
        refinement_study(problem, lens=lens, show=False)
    assert_as_found(problem.model, before)


def test_columns_stand_as_agreed():
    assert list(study("tokens").columns) == [
        *("quantity", "unit", "junction", "kind", "stage", "position", "index", "other_index", "deleted"),
        *("value", "low", "high", "n", "status", "reason"),
    ]


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (lambda: problem_of("plain"), {}, "Sequential has no residual junction with one skip and a branch"),
        (lambda: problem_of("highway"), {}, "no residual junction"),
        (lambda: problem_of("tokens"), {"what": "cosine"}, r"what names quantities, .* got \['cosine'\]"),
        (lambda: problem_of("tokens"), {"what": []}, "got none"),
        (
            lambda: (
                build("resnet", depth=8, channels=1, seed=0),
                (torch.randn(4, 1, 8, 8), torch.arange(4)),
            ),
            {},
            "never updated",
        ),
        (
            lambda: Problem(problem_of("post-activation").model, torch.ones(2, 1, 6, 6), batch_norm="train"),
            {},
            "batch_norm='train' has no meaning here",
        ),
        (
            lambda: Problem(Transposed(), torch.randn(3, 4)),
            {},
            r"has shape \[1, 3, 4\], but the batch has 3 examples",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(make, options, match):
    with pytest.raises(ValueError, match=match):
        refinement_study(make(), show=False, **options)


class Transposed(nn.Module):
    """Its states have an axis before the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Residual(mlp(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x[None]).squeeze(0)
