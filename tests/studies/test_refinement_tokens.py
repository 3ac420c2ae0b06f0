"""Which states a refinement study reads token by token, against forwards written out by hand."""

import math

import pandas as pd
import pytest
import torch
from networks import Residual, mlp
from torch import Tensor, nn

from gradscope.problem import Problem
from gradscope.studies.refinement_study import refinement_study

STATES = ["block_influence", "angular_distance", "estimation_error_rms"]
cosine = nn.functional.cosine_similarity


def study(problem, what) -> pd.DataFrame:
    return refinement_study(problem, what=what, show=False)


def values(frame: pd.DataFrame, quantity: str) -> list:
    return frame[frame["quantity"] == quantity]["value"].tolist()


class Signals(nn.Module):
    """Two residual convolutions of signals [N, C, L], then the classes of each example."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        convolutions = [Residual(nn.Sequential(nn.Conv1d(2, 2, 3, padding=1), nn.Tanh())) for _ in range(2)]
        self.blocks, self.head = nn.Sequential(*convolutions).double(), nn.Linear(2, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).mean(dim=2))


def test_channels_of_a_signal_are_no_tokens():
    net = Signals()
    x = torch.randn(5, 2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frame = study((net, x), STATES)
    with torch.no_grad():
        first = net.blocks[0](x)
        last = net.blocks[1](first)
    influence = [1 - cosine(a.flatten(1), b.flatten(1)).mean() for a, b in ((x, first), (first, last))]
    assert values(frame, "block_influence") == pytest.approx([float(i) for i in influence])
    error = (first - last).mean(dim=0).square().mean().sqrt()
    assert values(frame, "estimation_error_rms")[0] == pytest.approx(float(error))


class Sentences(nn.Module):
    """Tokens to one class for each example, or with `pooled` off to logits for each token."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.blocks = nn.Embedding(7, 4), nn.Sequential(*[Residual(mlp(4, 4)) for _ in range(2)])
        self.head, self.pooled = nn.Linear(4, 3), pooled
        self.double()

    def forward(self, ids: Tensor) -> Tensor:
        state = self.blocks(self.embed(ids) if not ids.is_floating_point() else ids)
        return self.head(state.mean(dim=1) if self.pooled else state)


@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("pooled", [True, False])
def test_tokens_are_told_by_integer_inputs_or_by_the_output(integers, pooled):
    net = Sentences(pooled)
    ids = torch.randint(0, 7, (3, 5), generator=torch.Generator().manual_seed(0))
    x = ids if integers else net.embed(ids).detach()
    frame = study((net, x), ["block_influence", "angular_distance"])
    with torch.no_grad():
        before = net.embed(ids)
        after = net.blocks[0](before)
    flat, each = cosine(before.flatten(1), after.flatten(1)), cosine(before, after, dim=-1)
    influence = flat if pooled and not integers else each.mean(dim=1)
    assert values(frame, "block_influence")[0] == pytest.approx(float(1 - influence.mean()))
    angle = flat.arccos() if pooled else each[:, -1].arccos()
    assert values(frame, "angular_distance")[0] == pytest.approx(float(angle.mean()) / math.pi)


def test_a_mask_tells_tokens_too_and_leaves_padding_out():
    """With one class for each example and no integers among the inputs; NaN in padding harms nothing."""

    class Masked(Sentences):
        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            state = self.blocks(x)
            state = torch.where(attention_mask.unsqueeze(-1) > 0, state, 0.0)
            return self.head(state.sum(dim=1))

    net, mask = Masked(pooled=True), torch.tensor([[1, 1, 0], [1, 1, 1]])
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[0, 2] = math.nan
    frame = study(Problem(net, {"x": x, "attention_mask": mask}), [*STATES, "branch_norm"])
    assert (frame["status"] == "ok").all()
    with torch.no_grad():
        before, after = x, net.blocks[0](x)
    each = 1 - cosine(before, after, dim=-1)
    wanted = torch.stack([each[0, :2].mean(), each[1].mean()]).mean()
    assert values(frame, "block_influence")[0] == pytest.approx(float(wanted))
    norms = torch.stack([net.blocks[0].branch(x)[i, : mask[i].sum()].norm() for i in range(2)])
    assert values(frame, "branch_norm")[0] == pytest.approx(norms.mean().item())
