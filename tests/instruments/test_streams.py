"""What is heard at junctions is what the network computes, and hearing it changes nothing."""

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS, RESIDUAL, InsideBlock, Residual, mlp
from torch import Tensor, nn

from gradscope.instruments.junctions import trace
from gradscope.instruments.junctions.source import source_of
from gradscope.instruments.stages import stages_of
from gradscope.instruments.streams import streams


class Minus(Residual):
    """x - branch(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x - self.branch(x)


class InPlace(Residual):
    """The branch's output is overwritten by the sum, and that by a ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        out += x
        return out.relu_()


class Scaled(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.branch(x), alpha=0.5)


class Fused(Residual):
    """The product with the last weight and the sum are one call."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(x, self.branch[:-1](x), self.branch[-1].weight.T)


class Stacked(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x, self.branch(x)]).sum(dim=0)


def graded(model: nn.Module, x: Tensor):
    return [j for j in trace(model, model, x).junctions if j.level == 0 and j.graded]


def hear(model: nn.Module, x: Tensor):
    with streams(model, graded(model, x)) as heard, source_of(model, x) as (placed, _):
        output = model(placed)
    return heard, output


@pytest.mark.parametrize("name", RESIDUAL)
def test_skip_and_branch_make_the_sum_and_the_output_is_unchanged(name):
    model, x = NETWORKS[name].build(), NETWORKS[name].inputs()
    heard, output = hear(model, x)
    assert torch.equal(output, model(x))
    assert len(heard) == len(NETWORKS[name].branches)
    for stream in heard:
        torch.testing.assert_close(stream.skip + stream.branch, stream.total)


@pytest.mark.parametrize("block", [Residual, Minus, InPlace, Scaled, Stacked])
def test_states_and_gradients_are_those_of_a_forward_by_hand(block):
    torch.manual_seed(0)
    blocks = [block(mlp(3, 3)) for _ in range(3)]
    model, x = nn.Sequential(nn.Linear(3, 3), *blocks, nn.Linear(3, 2)).double(), torch.randn(5, 3).double()
    heard, output = hear(model, x)
    sign = {Minus: -1, Scaled: 0.5}.get(block, 1)
    state, skips, sums = model[0](x), [], []
    for layer in blocks:
        skips.append(state)
        sums.append(state + sign * layer.branch(state))
        state = sums[-1].relu() if block is InPlace else sums[-1]
    loss = model[4](state).square().sum()
    expected = torch.autograd.grad(loss, [*skips, *sums])
    for stream, skip, total, layer in zip(heard, skips, sums, blocks, strict=True):
        torch.testing.assert_close(stream.skip, skip)
        torch.testing.assert_close(stream.total, total)
        torch.testing.assert_close(stream.branch, sign * layer.branch(skip))
    edges = [stream.skip_edge for stream in heard] + [stream.total_edge for stream in heard]
    for found, wanted in zip(torch.autograd.grad(output.square().sum(), edges), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    found = stages_of(heard)
    assert found.stage == (0, 0, 0)
    behind = [found.output(heard, place) for place in range(3)]
    for place, wanted in enumerate([*skips[1:], state]):
        torch.testing.assert_close(behind[place], wanted)


def test_a_branch_far_below_the_rounding_of_the_stream_is_heard_exactly():
    torch.manual_seed(0)
    model, x = nn.Sequential(Residual(nn.Linear(3, 3)), nn.Linear(3, 2)), torch.randn(5, 3)
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter.mul_(1e-12)
    (stream,), _ = hear(model, x)
    assert torch.equal(stream.branch, model[0].branch(x))


def test_the_branch_of_a_fused_sum_is_what_it_adds():
    torch.manual_seed(0)
    block, x = Fused(mlp(3, 3, 3, bias=False)), torch.randn(5, 3)
    (stream,), _ = hear(nn.Sequential(block, nn.Linear(3, 2)), x)
    torch.testing.assert_close(stream.branch, block.branch(x))
    assert torch.equal(stream.skip, x)


@pytest.mark.parametrize(
    ("name", "stage", "where"),
    [
        ("post-activation", (0, 1, 1, 1, 2, 2), "after"),
        ("pre-activation", (0, 1, 1, 1, 2, 2), "total"),
        ("pre-norm transformer", (0,) * 6, "total"),
        ("parallel transformer", (0,) * 3, "total"),
        ("encoder layers", (0,) * 4, "after"),
        ("padding", (0, 0), "total"),
        ("tokens", (0, 0), "total"),
    ],
)
def test_stages_are_runs_at_one_shape(name, stage, where):
    found = stages_of(hear(NETWORKS[name].build(), NETWORKS[name].inputs())[0])
    assert found.stage == stage and set(found.found) == {where}


class TwoStreams(nn.Module):
    """Two residual streams of one shape, of which the second does not continue the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = Residual(mlp(3, 3)), Residual(mlp(3, 3)), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.first(x[:, :3]), self.second(x[:, 3:])], dim=1))


class Rescaled(Residual):
    """Between two blocks more happens than one function of the sum."""

    def forward(self, x: Tensor) -> Tensor:
        return (2 * super().forward(x)).tanh()


def test_streams_that_do_not_meet_are_two_stages():
    heard, _ = hear(TwoStreams(), torch.randn(4, 6))
    assert stages_of(heard).stage == (0, 1)


def test_the_state_behind_a_last_block_is_not_guessed():
    heard, _ = hear(nn.Sequential(*[Rescaled(mlp(3, 3)) for _ in range(3)]), torch.randn(4, 3))
    found = stages_of(heard)
    assert found.stage == (0, 0, 0) and found.found == ("next", "next", "")
    assert torch.equal(found.output(heard, 0), heard[1].skip) and found.output(heard, 2) is None


def test_each_forward_is_heard_anew_and_nothing_after_the_block():
    specimen = NETWORKS["post-activation"]
    model, x = specimen.build(), specimen.inputs()
    with streams(model, graded(model, x)) as heard:
        model(x)
        first = [stream.total for stream in heard]
        model(2 * x)
        assert len(heard) == 6 and not torch.equal(first[0], heard[0].total)
    last = list(heard)
    model(3 * x)
    assert heard == last


def test_the_model_is_as_found_also_when_the_body_raises():
    specimen = NETWORKS["post-activation"]
    model, x = used(specimen.build()), specimen.inputs()
    before = snapshot(model)
    with pytest.raises(KeyError), streams(model, graded(model, x)):
        model(x)
        raise KeyError
    assert_as_found(model, before)


def test_another_number_of_additions_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Residual(mlp(3, 3))

        def forward(self, x):
            return self.block(x) if len(x) > 2 else self.block(self.block(x))

    model = Twice()
    found = graded(model, torch.randn(3, 3))
    with (
        streams(model, found),
        pytest.raises(RuntimeError, match=r"called 2 additions, .* found in one that called 1"),
    ):
        model(torch.randn(2, 3))


def test_a_junction_without_a_skip_is_refused():
    specimen = NETWORKS["highway"]
    model, x = specimen.build(), specimen.inputs()
    with pytest.raises(ValueError, match="kind gated"), streams(model, trace(model, model, x).junctions):
        pass


def test_additions_inside_a_module_are_heard_too():
    torch.manual_seed(0)
    block, x = InsideBlock(3), torch.randn(4, 3)
    (stream,), _ = hear(nn.Sequential(block, nn.Linear(3, 2)), x)
    torch.testing.assert_close(stream.branch, block.back(block.wide(x).tanh(), torch.zeros_like(x)))
