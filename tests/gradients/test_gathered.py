"""One batch of all examples, in one order, whatever the loader does each time it is read."""

import torch
from as_found import assert_as_found, snapshot
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradscope.gradients.gathered import gathered
from gradscope.problem import Problem


def test_a_shuffling_loader_is_read_once():
    x, y = torch.arange(12.0)[:, None], torch.arange(12)
    loader = DataLoader(TensorDataset(x, y), batch_size=5, shuffle=True)
    model = nn.Linear(1, 2)
    problem = Problem(model, loader)
    before = snapshot(model)
    whole, largest = gathered(problem)
    assert_as_found(model, before)
    inputs, targets = whole.first_batch()
    assert largest == 5 and len(list(whole.batches())) == 1
    assert inputs[:, 0].tolist() == targets.tolist() != list(range(12))
    assert sorted(targets.tolist()) == list(range(12))
    assert torch.equal(whole.first_batch()[0], inputs), "read again, it is the same"


def test_one_batch_needs_no_blocks_and_the_problem_is_the_same_but_for_its_data():
    problem = Problem(nn.Linear(1, 2), (torch.ones(3, 1), torch.zeros(3, dtype=torch.long)), reduction="sum")
    whole, largest = gathered(problem)
    assert largest is None and whole.model is problem.model and whole.reduction == "sum"
