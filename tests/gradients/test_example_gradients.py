"""All three ways to the gradients of single examples against a backward pass of the whole batch for each."""

import pytest
import torch
from cases import CASES
from torch import Tensor, nn

from gradscope.gradients import example_gradients as module
from gradscope.gradients.example_gradients import example_gradients
from gradscope.gradients.example_values import example_values
from gradscope.gradients.mixing import Mixing
from gradscope.problem import Problem


def all_at_once(problem: Problem, source="loss") -> tuple[list[Tensor], list[int]]:
    """What `example_gradients` yields, put together, and the sizes of its chunks."""
    inputs, targets = problem.first_batch()
    with problem.prepared():
        try:
            parts = list(example_gradients(problem, inputs, targets, source, problem.parameters))
        except Mixing:
            parts = list(example_gradients(problem, inputs, targets, source, problem.parameters, among=True))
    return [torch.cat(columns) for columns in zip(*parts, strict=True)], [len(part[0]) for part in parts]


def one_by_one(problem: Problem, source="loss") -> list[Tensor]:
    inputs, targets = problem.first_batch()
    with problem.prepared():
        rows = [
            torch.autograd.grad(
                example_values(problem, inputs, targets, source)[i],
                list(problem.parameters.values()),
                allow_unused=True,
                materialize_grads=True,
            )
            for i in range(len(targets))
        ]
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def assert_right(problem: Problem, chunks: list[int], source="loss") -> None:
    found, sizes = all_at_once(problem, source)
    for gradient, expected in zip(found, one_by_one(problem, source), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    assert sizes == chunks


@pytest.mark.parametrize("case", ["plain", "tied weights", "convolution", "in-place ReLU", "attention"])
def test_vmap_takes_the_batch_at_once(case):
    assert_right(CASES[case](), [7])


def test_no_more_examples_are_held_than_fit(monkeypatch):
    problem = CASES["plain"]()
    monkeypatch.setattr(module, "_HELD", 3 * sum(p.numel() for p in problem.parameters.values()))
    assert_right(problem, [3, 3, 1])


class Branching(nn.Module):
    """Looks at a number, which vmap refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if float(x.abs().amax()) > 0 else x[:, :3]


def test_what_vmap_refuses_is_run_alone():
    inputs, targets = CASES["plain"]().first_batch()
    assert_right(Problem(Branching().double(), (inputs, targets)), [1] * 7)
    assert_right(CASES["plain"](), [1] * 7, source="logit")


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0)


@pytest.mark.parametrize("case", ["batch norm frozen", "batch norm train"])
def test_examples_that_mix_are_seen_among_the_others(case):
    assert_right(CASES[case](), [1] * 5)


def test_mixing_that_nobody_announced_is_noticed():
    inputs, targets = CASES["plain"]().first_batch()
    assert_right(Problem(nn.Sequential(nn.Linear(4, 3), Centred()).double(), (inputs, targets)), [1] * 7)


def test_inputs_in_a_dict():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.layer(x) * scale

    inputs, targets = CASES["plain"]().first_batch()
    batch = {"x": inputs, "scale": torch.tensor(2.0).double()}
    assert_right(Problem(Named().double(), (batch, targets)), [1] * 7)


def test_a_value_that_hangs_on_no_parameter_is_refused():
    problem = CASES["unused parameter"]()
    inputs, targets = problem.first_batch()
    names = {"unused.weight": problem.parameters["unused.weight"]}
    with problem.prepared():
        (part,) = example_gradients(problem, inputs, targets, "loss", names)
        assert not part[0].any(), (
            "autograd sees a way to other parameters, so that these have a zero gradient"
        )
        problem.model.requires_grad_(False)
        with pytest.raises(ValueError, match="does not depend on these parameters"):
            list(example_gradients(problem, inputs, targets, "loss", names))
