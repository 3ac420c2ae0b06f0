"""What batches cotangents without telling the gates must not pass for a gated backward."""

import warnings

import pytest
import torch
from networks import NETWORKS
from torch import Tensor, nn

from gradscope.gradients.engines.vmapped import stack_gates
from gradscope.gradients.live import open_paths
from gradscope.instruments.gates.polynomial import Gate, Powers
from gradscope.problem import Problem


def paths_of(name: str):
    specimen = NETWORKS[name]
    return open_paths(Problem(specimen.build(), (specimen.inputs(), specimen.targets())))


@pytest.mark.parametrize("batched", [True, False])
def test_gates_on_stacks_raise_where_the_stack_cannot_be_seen(batched):
    """With is_grads_batched=True a gate without this check is silently the identity, and all mass is in g_0."""
    with paths_of("pre-norm transformer") as paths:
        gates = {edge: Gate(0) for branch in paths.branches for edge in branch.edges}
        seeds = torch.eye(paths.longest + 1, dtype=torch.float64)[0]
        with (
            stack_gates(gates, Powers((paths.longest,)), 1) as met,
            pytest.raises(RuntimeError, match=r"run without torch.vmap .* would be ignored.*engine='walk'"),
        ):
            torch.autograd.grad(
                paths.loss,
                paths.found.source,
                seeds if batched else seeds[0],
                retain_graph=True,
                is_grads_batched=batched,
            )
        assert not met
        ordinary = torch.autograd.grad(paths.loss, paths.found.source, retain_graph=True)[0]
        torch.testing.assert_close(ordinary, paths.backward(), rtol=0, atol=0)


def test_lengths_beyond_float32_are_refused():
    model = nn.Sequential(*[nn.TransformerEncoderLayer(2, 1, 2, batch_first=True) for _ in range(16)])
    batch = torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(1)
    problem = Problem(model, batch, loss=lambda output, _: output.square().sum(dim=(1, 2)))
    with open_paths(problem) as paths, pytest.raises(ValueError, match="at most 30 lengths"):
        paths.graded("all", engine="vmap")


class Distances(nn.Module):
    """PyTorch's batching rule of the backward of torch.cdist gives another gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.3 * torch.tanh(torch.cdist(self.layer(x), x + 1) @ x)


@pytest.mark.parametrize("at", ["input", "parameters"])
def test_a_wrong_batching_rule_is_found_out_whatever_is_asked(at):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = nn.Sequential(*[Distances() for _ in range(3)]).double(), torch.randn(5, 4).double()
    problem = Problem(model, (x, torch.zeros(5)), loss=lambda output, _: output.square().sum(dim=1))
    for ask in (
        lambda paths: paths.graded("all", engine="vmap"),
        lambda paths: paths.graded(1, engine="vmap"),
        lambda paths: paths.graded(1, signs=[1, -1, 1], engine="vmap"),
        lambda paths: paths.moments(1, engine="vmap"),
        lambda paths: paths.gated(torch.ones(2, 3), engine="vmap"),
        lambda paths: paths.by_variable([0, 1, 1], engine="vmap"),
    ):
        with (
            open_paths(problem, at=at) as paths,
            pytest.raises(
                RuntimeError, match=r"Under torch.vmap .* wrong .*engine='auto', 'walk' or 'passes'"
            ),
        ):
            ask(paths)


def test_the_first_batched_backward_of_a_graph_is_compared_and_later_ones_are_not():
    with paths_of("pre-norm transformer") as paths:
        first, second = (paths.graded(2, engine="vmap").gradients for _ in range(2))
        assert paths.graph.batched
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-15)


def test_operations_without_a_batching_rule_are_looped_over_in_silence():
    """Fused attention on a CPU has none."""
    layers = [nn.TransformerEncoderLayer(4, 2, 4, batch_first=True, dropout=0.0) for _ in range(2)]
    model = nn.Sequential(*layers).double()
    batch = (
        torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        torch.zeros(2),
    )
    with open_paths(Problem(model, batch, loss=lambda output, _: output.square().sum(dim=(1, 2)))) as paths:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = paths.graded(engine="vmap").gradients
        torch.testing.assert_close(found, paths.graded(engine="passes").gradients, rtol=1e-10, atol=1e-14)
