"""The coherence that the observer of path lengths draws random signs for, and what it says of few draws."""

import math

import pytest
import torch
from networks import Repeated, Residual, mlp
from torch import nn

from gradscope.studies.path_observer import PathObserver, coherence_of


def batch(examples=7):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(examples, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (examples,), generator=generator)


def test_the_interval_is_students_on_the_logarithmic_scale():
    from scipy.stats import t

    squares = torch.tensor([1.0, 2.0, 4.0, 5.0], dtype=torch.float64)
    value, low, high = coherence_of(6.0, squares)
    assert value == pytest.approx(2.0)
    error = math.sqrt(10 / 3) / math.sqrt(4) / 3
    half = t.interval(0.95, 3)[1] * error
    assert math.log(high / value) == pytest.approx(half)
    assert math.log(value / low) == pytest.approx(half)
    assert coherence_of(6.0, torch.full((3,), 2.0, dtype=torch.float64)) == (3.0, 3.0, 3.0)
    assert all(math.isnan(number) for number in coherence_of(1.0, torch.zeros(3, dtype=torch.float64)))


class Product(nn.Module):
    """Two residual streams multiplied: two paths cross nothing."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.head = Residual(mlp(3, 4, 3)), Residual(mlp(3, 4, 3)), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.one(x) * self.other(x))


def test_coherence_is_that_of_paths_or_undefined():
    observer = PathObserver(batch(), draws=4)
    observer(Product().double(), 0)
    rows = observer.frame().set_index("quantity")
    assert rows.loc["total_coherence", "status"] == "undefined"
    assert math.isnan(rows.loc["total_coherence", "value"])
    assert rows.loc["total_coherence", "reason"].startswith("several paths cross the same branches")
    assert rows.loc["mean_path_length", "status"] == "ok"


def test_few_draws_of_a_coherent_network_say_so():
    """Ten identical blocks x + x/2 cohere by (2.25 / 1.25)^10 = 357; so many draws are needed to see their sum."""
    block = Residual(nn.Linear(3, 3, bias=False))
    model = nn.Sequential(Repeated(block, 10), nn.Linear(3, 3)).double()
    with torch.no_grad():
        block.branch.weight.copy_(0.5 * torch.eye(3))
    for draws, says in ((8, True), (20_000, False)):
        observer = PathObserver(batch(examples=2), draws=draws)
        observer(model, 0)
        row = observer.frame().set_index("quantity").loc["total_coherence"]
        assert ("paths pull together" in row["reason"]) == says
    assert row["low"] < 1.8**10 < row["high"]


def test_paths_that_cancel_in_every_draw_are_not_said_to_be_none():
    block = Residual(nn.Linear(3, 3, bias=False))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(Repeated(block, 10), nn.Linear(3, 3)).double()
    with torch.no_grad():
        block.branch.weight.copy_(torch.eye(3))
    observer = PathObserver(batch(examples=2), draws=2)
    observer(model, 0)
    row = observer.frame().set_index("quantity").loc["total_coherence"]
    assert row["status"] == "undefined" and row["reason"].startswith("the paths cancelled in every draw")
