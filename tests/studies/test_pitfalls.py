"""What misleads in lesion, re-ordering and refinement studies: one case for each way to be misled."""

import pytest
import torch
from torch import nn

import gradscope as gs

QUIET = {"sets": (), "groups": None, "show": False}


class Block(nn.Module):
    def __init__(self, branch: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.after = branch, after or nn.Identity()

    def forward(self, x):
        return self.after(x + self.branch(x))


class Times(nn.Module):
    """A linear map with one weight: c x."""

    def __init__(self, factor: float, features: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(factor * torch.eye(features, dtype=torch.float64))

    def forward(self, x):
        return x @ self.weight


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def data(examples: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(examples, 4, dtype=torch.float64), torch.arange(examples) % 3


def value(frame, quantity, **conditions):
    rows = frame[frame["quantity"] == quantity]
    for column, wanted in conditions.items():
        rows = rows[rows[column] == wanted]
    return float(rows["value"].iloc[0])


def test_stale_statistics_pass_for_a_missing_path():
    # The branch multiplies by 9, which normalisation undoes: without it nothing is lost but the statistics.
    inputs, targets = data()
    model = nn.Sequential(
        Block(Times(9.0)), nn.BatchNorm1d(4, eps=1e-14, momentum=None), nn.Linear(4, 3)
    ).double()
    model(inputs)
    frame = gs.lesion_study((model.eval(), (inputs, targets)), metric="loss", calibration=inputs, **QUIET)
    assert abs(value(frame, "loss_difference", statistics="recalibrated")) < 1e-10
    assert abs(value(frame, "loss_difference", statistics="stale")) > 0.001


def test_a_block_that_changes_the_shape_keeps_its_projection_and_is_told_apart():
    class Projecting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.skip, self.branch = (
                nn.Linear(4, 5),
                nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5)),
            )

        def forward(self, x):
            return self.skip(x) + self.branch(x)

    inputs, targets = data()
    model = nn.Sequential(Projecting(), nn.Linear(5, 3)).double()
    frame = gs.lesion_study((model, (inputs, targets)), metric="loss", **QUIET)
    by_hand = nn.functional.cross_entropy(model[1](model[0].skip(inputs)), targets)
    assert value(frame, "loss", kind="projection") == pytest.approx(by_hand.item(), rel=1e-12)


def test_a_post_activation_block_without_its_branch_is_the_relu_of_its_input_not_its_input():
    inputs, _ = data()
    block = Block(nn.Linear(4, 4), nn.ReLU()).double()
    model = nn.Sequential(block, nn.Identity())
    with gs.lesion(model, gs.junctions(model, inputs)[0]):
        closed = model(inputs)
    assert torch.equal(closed, inputs.relu()) and not torch.equal(closed, inputs)


def test_fresh_statistics_are_refused():
    inputs, targets = data()
    model = nn.Sequential(Block(nn.Linear(4, 4)), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    for study in (gs.lesion_study, gs.refinement_study):
        with pytest.raises(ValueError, match="never updated"):
            study((model, (inputs, targets)), show=False)


def test_no_error_among_few_images_is_not_no_error():
    inputs, _ = data()
    model = nn.Sequential(Block(Times(0.1)), nn.Linear(4, 3, bias=False)).double()
    frame = gs.lesion_study((model, (inputs, model(inputs).argmax(dim=1))), **QUIET)
    intact = frame[frame["quantity"] == "intact_error"].iloc[0]
    assert intact["value"] == 0 and 0.08 < intact["high"] < 0.1, "Wilson's interval of 0 in 40"
    change = frame[frame["quantity"] == "error_difference"].iloc[0]
    assert change["p_value"] == 1 and change["low"] < 0 < change["high"]


def test_the_size_of_batches_and_of_the_losses_says_nothing_about_directions():
    inputs, targets = data()
    model = nn.Sequential(Block(nn.Linear(4, 4)), Block(nn.Linear(4, 4)), nn.Linear(4, 3)).double()
    batches = [(inputs[:7], targets[:7]), (inputs[7:], targets[7:])]
    frames = [
        gs.refinement_study(problem, what="cosine_with_loss_gradient", show=False)
        for problem in (
            gs.Problem(model, (inputs, targets), reduction="mean"),
            gs.Problem(model, (inputs, targets), reduction="sum"),
            gs.Problem(model, batches),
            gs.Problem(
                model,
                (inputs, targets),
                lambda o, t: 1e-6 * nn.functional.cross_entropy(o, t, reduction="none"),
            ),
        )
    ]
    for frame in frames[1:]:
        assert frame["value"].tolist() == pytest.approx(frames[0]["value"].tolist(), rel=1e-9)


def test_kendalls_tau_over_all_blocks_never_reaches_minus_one_within_stages():
    inputs, targets = data()
    stages = [nn.Sequential(*(Block(nn.Linear(4, 4)) for _ in range(3))) for _ in range(2)]
    model = nn.Sequential(*stages, nn.Linear(4, 3)).double()
    frame = gs.reordering_study(
        (model, (inputs, targets)),
        groups=[[f"{stage}.{place}" for place in range(3)] for stage in range(2)],
        swaps=(),
        neighbours=False,
        interventions=["reverse"],
        ends=0,
        show=False,
    )
    row = frame[(frame["quantity"] == "error") & (frame["intervention"] == "reverse")].iloc[0]
    # Six of fifteen pairs are turned round.
    assert row["kendall_tau"] == pytest.approx(1 - 2 * 6 / 15)
    within = frame[(frame["quantity"] == "kendall_tau") & (frame["intervention"] == "reverse")]
    assert within["value"].tolist() == [-1, -1]


def test_zero_is_not_the_mean_where_a_branch_has_one():
    inputs, _ = data()
    model = nn.Sequential(Block(nn.Linear(4, 4)), nn.Linear(4, 3)).double()
    with torch.no_grad():
        model[0].branch.bias += 5
    junction = gs.junctions(model, inputs)[0]
    outputs = {}
    for kind in ("zero", "mean", "resample"):
        with gs.lesion(model, junction, kind=kind):
            outputs[kind] = model(inputs)
    intact = model(inputs)
    distance = {kind: (output - intact).norm().item() for kind, output in outputs.items()}
    assert distance["mean"] < distance["resample"] < distance["zero"]


def test_dropout_of_a_network_in_train_mode_is_no_part_of_a_lesion():
    inputs, targets = data()
    model = nn.Sequential(Block(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))), nn.Linear(4, 3)).double()
    frames = [
        gs.lesion_study((model.train(mode), (inputs, targets)), metric="loss", **QUIET)
        for mode in (True, False)
    ]
    assert frames[0].equals(frames[1]) and not model.training


def test_a_module_used_twice_and_a_bias_behind_the_weights_are_closed_where_they_are_added():
    class Twice(nn.Module):
        """The same layer in two blocks."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            x = x + self.layer(x)
            return x + self.layer(x)

    inputs, _ = data()
    model = nn.Sequential(Twice(), nn.Identity()).double()
    first, second = gs.junctions(model, inputs)
    with gs.lesion(model, first):
        assert torch.equal(model(inputs), inputs + model[0].layer(inputs))
    once = inputs + model[0].layer(inputs)
    with gs.lesion(model, second):
        assert torch.equal(model(inputs), once)
    with torch.no_grad():
        model[0].layer.weight.zero_()
    # Zero weights leave the bias, so that way of closing is none.
    assert not torch.equal(model(inputs), inputs)


def test_junctions_are_counted_and_layers_are_something_else():
    model = gs.nets.build("resnet", depth=20, channels=1, seed=0)
    found = gs.junctions(model, torch.randn(2, 1, 8, 8))
    convolutions = sum(
        1 for module in model.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    )
    assert len(found) == 9 and convolutions - 1 == 2 * len(found)
