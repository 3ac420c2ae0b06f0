"""Where, of what and through which junctions: the options of path gradients, and input that will not do."""

from dataclasses import replace

import pytest
import torch
from as_found import assert_as_found, snapshot
from every_path import EXACT, every_path, problem_of, summed
from networks import Residual, mlp
from torch import nn

from gradscope.gradients.live import open_paths
from gradscope.gradients.paths import path_gradients
from gradscope.instruments.junctions import junctions
from gradscope.problem import Problem


@pytest.mark.parametrize("name", ["post-activation", "multi-residual", "shared weights", "tokens"])
def test_gradients_at_parameters_split_too(name):
    """A block's own branch counts as one crossing, so nothing of the lengths' sum is lost."""
    problem = problem_of(name)
    split = path_gradients(problem, at="parameters")
    with problem.prepared():
        loss = problem.value(*problem.first_batch())
        whole = torch.autograd.grad(loss, list(problem.parameters.values()))
    for (name, parts), gradient in zip(split.items(), whole, strict=True):
        assert parts.shape == (len(next(iter(split.values()))), *problem.parameters[name].shape)
        torch.testing.assert_close(parts.sum(dim=0), gradient, **EXACT)


def test_what_lies_in_a_branch_has_crossed_it():
    problem = problem_of("post-activation")
    split = path_gradients(problem, at="parameters")
    assert split["2.conv1.weight"][0].abs().max() == 0
    assert split["0.weight"][0].abs().max() > 0


def test_gradients_at_a_site_split_by_what_lies_above_it():
    problem = problem_of("post-activation")
    below, above = path_gradients(problem, at="1"), path_gradients(problem, at="6")
    assert len(below) == len(above) == 7
    assert above[2:].abs().max() == 0 and above[1].abs().max() > 0
    kept = []
    with problem.prepared():
        handle = problem.model[6].register_forward_hook(lambda m, a, output: kept.append(output))
        loss = problem.value(*problem.first_batch())
        handle.remove()
        torch.testing.assert_close(above.sum(dim=0), torch.autograd.grad(loss, kept)[0], **EXACT)


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("2.nowhere", "No site of Sequential matches"),
        ("2.*", "matches 5 sites"),
        ("2.relu", "it ran 2 times"),
    ],
)
def test_sites_that_will_not_do_are_named(site, message):
    with pytest.raises(ValueError, match=message):
        path_gradients(problem_of("post-activation"), at=site)


def test_moments_take_three_cotangents():
    """T10."""
    problem = problem_of("parallel transformer")
    graded = path_gradients(problem)
    lengths = torch.arange(len(graded), dtype=torch.float64)[:, None, None, None]
    with open_paths(problem) as paths:
        moments = paths.moments(2)
    expected = [graded.sum(0), (lengths * graded).sum(0), (lengths * (lengths - 1) / 2 * graded).sum(0)]
    torch.testing.assert_close(moments, torch.stack(expected), **EXACT)


def test_several_variables_split_the_split():
    """Attention against the rest: marginals, and each coefficient from all paths."""
    problem = problem_of("pre-norm transformer")
    expected = torch.zeros(4, 4, *problem.first_batch()[0].shape, dtype=torch.float64)
    for path, gradient in every_path(problem).items():
        expected[sum(path[::2]), sum(path[1::2])] += gradient
    with open_paths(problem) as paths:
        split = paths.by_variable([0, 1] * 3)
        marginal = paths.by_variable([0, None] * 3)
        cut = paths.by_variable([0, 1] * 3, [1, 2])
    torch.testing.assert_close(split, expected, **EXACT)
    torch.testing.assert_close(marginal, expected.sum(dim=1), **EXACT)
    torch.testing.assert_close(cut, expected[:2, :3], **EXACT)


def test_masks_leave_single_paths():
    problem = problem_of("multi-residual")
    paths_one_by_one = every_path(problem)
    with open_paths(problem) as paths:
        branches = torch.zeros(len(paths_one_by_one), len(paths.branches))
        carries = torch.zeros(len(paths_one_by_one), len(paths.junctions))
        for row, choice in enumerate(paths_one_by_one):
            for junction, operand in enumerate(choice):
                if operand == 0:
                    carries[row, junction] = 1
                else:
                    branches[row, 2 * junction + operand - 1] = 1
        found = paths.gated(branches, carries)
    torch.testing.assert_close(found, torch.stack(list(paths_one_by_one.values())), **EXACT)


@pytest.mark.parametrize("source", ["logit", "margin", lambda outputs, targets: outputs.square().sum(dim=1)])
def test_other_sources_than_the_loss(source):
    problem = problem_of("post-activation")
    split = path_gradients(problem, source=source)
    with problem.prepared():
        x, targets = problem.first_batch()
        x = x.clone().requires_grad_()
        outputs = problem.outputs(x)
        own = outputs[torch.arange(len(x)), targets]
        if source == "logit":
            values = own
        elif source == "margin":
            rest = [
                max(o for c, o in enumerate(row) if c != t) for row, t in zip(outputs, targets, strict=True)
            ]
            values = own - torch.stack(rest)
        else:
            values = outputs.square().sum(dim=1)
        torch.testing.assert_close(split.sum(dim=0), torch.autograd.grad(values.mean(), x)[0], **EXACT)


def test_a_network_that_changes_between_passes_is_refused():
    class Counting(torch.autograd.Function):
        calls = 0

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            Counting.calls += 1
            return gradient * Counting.calls

    class Moody(nn.Module):
        def forward(self, x):
            return Counting.apply(x)

    model = nn.Sequential(Residual(mlp(3, 3)), Moody(), Residual(mlp(3, 3))).double()
    x = torch.ones(2, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="changes between backward passes"):
        path_gradients(Problem(model, (x, torch.zeros(2)), loss=summed), engine="passes")


def test_a_source_that_does_not_depend_on_the_place_is_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = Residual(mlp(3, 3)), Residual(mlp(3, 3))

        def forward(self, x):
            self.unused(x)
            return self.used(x)

    x = torch.ones(2, 3, dtype=torch.float64)
    problem = Problem(Two().double(), (x, torch.zeros(2)), loss=summed)
    with pytest.raises(ValueError, match="does not depend on site unused"):
        path_gradients(problem, at="unused")


def test_junctions_are_chosen_by_pattern_by_name_or_by_a_rule():
    problem = problem_of("pre-norm transformer")
    x, _ = problem.first_batch()
    found = junctions(problem.model, x)
    attention = path_gradients(problem, junctions="*:0")
    assert len(attention) == 4
    assert torch.equal(attention, path_gradients(problem, junctions=found.matching("*:0")))
    assert torch.equal(attention, path_gradients(problem, junctions=lambda j: j.name.endswith(":0")))
    with pytest.raises(ValueError, match="No junction matches 'layer9"):
        path_gradients(problem, junctions="layer9*")
    with pytest.raises(ValueError, match="cannot be counted at elsewhere:0"):
        path_gradients(problem, junctions=replace(found[0], name="elsewhere:0"))


def test_the_longest_paths_are_counted_at_the_input_of_chains_only():
    with pytest.raises(ValueError, match="not at site 1"):
        path_gradients(problem_of("post-activation"), 2, at="1", longest=True)


def test_behind_the_last_junction_there_is_one_path():
    problem = problem_of("post-activation")
    split = path_gradients(problem, at="9")
    assert split[1:].abs().max() == 0
    with open_paths(problem, at="9") as paths:
        torch.testing.assert_close(split[0], paths.backward(), rtol=0, atol=0)
        moments = paths.moments(1)
    assert torch.equal(moments[0], split[0]) and moments[1].abs().max() == 0


def test_a_source_without_the_outputs_is_named():
    with pytest.raises(ValueError, match="The source does not depend on the outputs"):
        path_gradients(problem_of("post-activation"), source=lambda outputs, _: outputs.detach().sum(dim=1))


def test_what_does_not_fit_says_how_much_it_is_and_leaves_no_hook():
    """A million million coefficients of 3 x 1 x 6 x 6 numbers."""
    problem = problem_of("post-activation")
    with open_paths(problem) as paths:
        before = paths.backward()
        with pytest.raises(
            MemoryError, match=r"result alone takes \d.*GiB \(1000000000001 coefficients.*path_moments"
        ):
            paths.moments(10**12)
        torch.testing.assert_close(paths.graded().gradients.sum(dim=0), before, **EXACT)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("not enough memory: you tried")]
)
def test_running_out_of_memory_on_the_way_is_one_clear_error(error, monkeypatch):
    problem = problem_of("post-activation")
    before = snapshot(problem.model)

    def full(*_, **__):
        raise error

    monkeypatch.setattr("gradscope.gradients.split.run", full)
    with pytest.raises(MemoryError, match=r"Out of memory: the result alone takes .* GiB"):
        path_gradients(problem)
    assert_as_found(problem.model, before)
