"""Networks run in ways in which residual sums cannot be counted: one clear error each, and what works all the same."""

import pytest
import torch
from networks import Residual, mlp
from torch import nn

from gradscope.instruments.junctions import junctions
from gradscope.problem import Problem
from gradscope.studies.lesion_study import lesion_study
from gradscope.studies.reordering_study import reordering_study

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])
STUDIES = {
    "lesions": lambda problem: lesion_study(problem, sets=(), groups=None, show=False),
    "orders": lambda problem: reordering_study(problem, swaps=[1], draws=1, show=False),
}


def net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(*[Residual(mlp(4, 5, 4)) for _ in range(2)], nn.Linear(4, 3)).eval()


def parts(model, inputs):
    return model[2](model[1](model[0](inputs)))


def twice(model, inputs):
    return model(inputs) + model(2 * inputs)


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
@pytest.mark.parametrize(
    ("forward", "told"),
    [
        (parts, "forward= runs parts of Sequential but never Sequential itself, .*forward of an nn.Module"),
        (twice, "forward= runs Sequential 2 times, .*forward of an nn.Module"),
    ],
)
def test_a_forward_that_does_not_run_the_model_once_is_refused(study, forward, told):
    with pytest.raises(ValueError, match=told):
        study(Problem(net(), (X, Y), forward=forward))


def test_junctions_that_would_not_be_closed_are_refused():
    """Found in the model, but looked for in vain where only its parts run."""
    model = net()
    with pytest.raises(ValueError, match="never Sequential itself"):
        lesion_study(Problem(model, (X, Y), forward=parts), junctions=junctions(model, X), show=False)


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_the_remedy_works(study):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, inputs):
            return parts(self.net, inputs)

    assert set(study(Problem(Twice(), (X, Y)))["status"]) == {"ok"}


def test_junctions_given_are_closed_in_each_run_of_the_model():
    model = net()
    problem = Problem(model, (X, Y), forward=twice)
    frame = lesion_study(
        problem, junctions=junctions(model, X)[:1], metric="loss", sets=(), groups=None, show=False
    )
    with torch.no_grad():
        closed = nn.functional.cross_entropy(model[1:](X) + model[1:](2 * X), Y)
    assert frame.set_index("quantity")["value"]["loss"] == pytest.approx(closed.item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore")  # torch warns of scripting and tracing at length
@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_a_scripted_part_is_named_and_a_traced_one_runs(study):
    scripted, traced = net(), net()
    scripted[1].branch = torch.jit.script(scripted[1].branch)
    traced[1].branch = torch.jit.trace(traced[1].branch, X)
    with pytest.raises(ValueError, match=r"1.branch is scripted by torch.jit.script.* Put the module"):
        study((scripted, (X, Y)))
    assert set(study((traced, (X, Y)))["status"]) == {"ok"}
