"""Stochastic depth: how often branches survive, and what they are expected to be."""

import itertools
import math

import pytest
import torch
from as_found import assert_as_found, snapshot
from hand_written import HAND_WRITTEN
from networks import NETWORKS
from scipy import stats
from torch import nn

from gradscope.instruments.gates import linear_survival, stochastic_depth
from gradscope.instruments.junctions import junctions

WEIGHTS = [1.0, 10.0, 100.0]


class Digits(nn.Module):
    """x plus one branch a digit, of a constant 1, 10, 100: the output spells which branches survived."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList([nn.Linear(1, 1) for _ in WEIGHTS])
        for layer, value in zip(self.branches, WEIGHTS, strict=True):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, value)

    def forward(self, x):
        for branch in self.branches:
            x = x + branch(x)
        return x


def digits():
    model, x = Digits().double(), torch.zeros(4, 1, dtype=torch.float64)
    return model, x, junctions(model, x)


def spelled(output):
    """[examples, 3]: the digit of each branch."""
    return torch.stack([(output[:, 0] / value).floor() % 10 for value in WEIGHTS], dim=1)


def test_the_linear_rule():
    assert linear_survival(5) == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])
    assert linear_survival(1, 0.25) == [0.25] and linear_survival(3, 1.0) == [1.0] * 3
    # Huang et al.: about three quarters of the blocks are active for p_L = 0.5.
    assert sum(linear_survival(54)) / 54 == pytest.approx(0.75, abs=1 / 54)
    with pytest.raises(ValueError, match=r"at least 1 block and last in \[0, 1\], got 3 and 1.5"):
        linear_survival(3, 1.5)


@pytest.mark.parametrize("per", ["batch", "example"])
@pytest.mark.parametrize(("survival", "rates"), [(0.4, (0.8, 0.6, 0.4)), ([0.1, 0.5, 0.9], (0.1, 0.5, 0.9))])
def test_branches_survive_as_often_as_asked(per, survival, rates):
    model, x, found = digits()
    forwards = 200
    with torch.no_grad(), stochastic_depth(model, found, survival=survival, per=per, training=True, seed=3):
        alive = torch.stack([spelled(model(x)) for _ in range(forwards)])
    assert set(alive.unique().tolist()) == {0.0, 1.0}
    if per == "batch":
        assert (alive == alive[:, :1]).all()
        alive = alive[:, :1]
    rows = alive.flatten(end_dim=1)
    for column, rate in zip(rows.T, rates, strict=True):
        assert stats.binomtest(int(column.sum()), len(column), rate).pvalue > 1e-3
    # Pairs of branches are independent of each other, and forwards of the forward before.
    for one, other in itertools.combinations(range(3), 2):
        table = [[int(((rows[:, one] == a) & (rows[:, other] == b)).sum()) for a in (0, 1)] for b in (0, 1)]
        assert stats.fisher_exact(table).pvalue > 1e-3
    before, after = alive[:-1, 0, 1], alive[1:, 0, 1]
    table = [[int(((before == a) & (after == b)).sum()) for a in (0, 1)] for b in (0, 1)]
    assert stats.fisher_exact(table).pvalue > 1e-3


def linear_network():
    generator = torch.Generator().manual_seed(1)

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            draw = [torch.randn(3, 3, generator=generator, dtype=torch.float64) / 2 for _ in range(3)]
            self.weights = nn.ParameterList(draw)

        def forward(self, x):
            for weight in self.weights:
                x = x + x @ weight.T
            return x

    model = Linear()
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    return model, x, junctions(model, x)


def with_branches(model, x, factors):
    for factor, weight in zip(factors, model.weights, strict=True):
        x = x + factor * (x @ weight.T)
    return x


RATES = [0.9, 0.5, 0.7]


@pytest.mark.parametrize("rescale", ["test", "training"])
def test_dropping_is_one_of_all_choices_and_their_mean_is_the_output_in_testing(rescale):
    """For linear branches, the mean output over all 2^L draws is what both conventions give in testing."""
    rescaled = rescale == "training"
    model, x, found = linear_network()
    outcomes, weights = [], []
    for alive in itertools.product((0, 1), repeat=3):
        factors = [a / p if rescaled else a for a, p in zip(alive, RATES, strict=True)]
        outcomes.append(with_branches(model, x, factors))
        weights.append(math.prod(p if a else 1 - p for a, p in zip(alive, RATES, strict=True)))
    law = sum(w * outcome for w, outcome in zip(weights, outcomes, strict=True))
    expectation = with_branches(model, x, [1.0] * 3 if rescaled else RATES)
    torch.testing.assert_close(law, expectation)
    seen = []
    with torch.no_grad(), stochastic_depth(model, found, survival=RATES, rescale=rescale):
        torch.testing.assert_close(model.eval()(x), expectation)
        model.train()
        for _ in range(400):
            output = model(x)
            near = [place for place, o in enumerate(outcomes) if torch.allclose(o, output, rtol=1e-12)]
            assert len(near) == 1
            seen.append(near[0])
    counts = torch.bincount(torch.tensor(seen), minlength=8)
    assert stats.chisquare(counts.numpy(), 400 * torch.tensor(weights).double().numpy()).pvalue > 1e-3


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_in_testing_it_is_the_network_with_branches_scaled_by_their_survival(name):
    specimen = NETWORKS[name]
    model, x = specimen.build(), specimen.inputs()
    found = junctions(model, x)
    rates = linear_survival(len(found), 0.3)
    with stochastic_depth(model, found, survival=0.3):
        assert torch.equal(model(x), HAND_WRITTEN[name](model, x, lambda i, o, value: value * rates[i]))


@pytest.mark.parametrize("name", ["post-activation", "parallel transformer", "padding"])
@pytest.mark.parametrize("rescale", ["test", "training"])
def test_each_forward_and_its_gradient_are_those_of_some_draw(name, rescale):
    """Operands of one junction share their draw; gradients go through the survivors only."""
    specimen = NETWORKS[name]
    model, x = specimen.build(), specimen.inputs().requires_grad_()
    found = list(junctions(model, x))[:3]
    rates = [0.5, 0.4, 0.6][: len(found)]
    expected = []
    for alive in itertools.product((0.0, 1.0), repeat=len(found)):
        scale = [a / p if rescale == "training" else a for a, p in zip(alive, rates, strict=True)]
        y = HAND_WRITTEN[name](model, x, lambda i, o, v, s=scale: v * s[i] if i < 3 else v)
        expected.append((y, torch.autograd.grad(y.square().sum(), x)[0]))
    hit = set()
    with stochastic_depth(model, found, survival=rates, rescale=rescale, training=True, seed=5):
        for _ in range(8):
            y = model(x)
            slope = torch.autograd.grad(y.square().sum(), x)[0]
            near = [i for i, (o, _) in enumerate(expected) if torch.allclose(o, y, rtol=1e-11, atol=1e-12)]
            assert len(near) == 1
            torch.testing.assert_close(slope, expected[near[0]][1], rtol=1e-9, atol=1e-12)
            hit.add(near[0])
    assert len(hit) > 1


def test_each_forward_goes_by_the_mode_the_model_is_in_unless_told():
    model, x, found = digits()
    rates = [0.9, 0.5, 0.2]
    scaled = x + sum(p * value for p, value in zip(rates, WEIGHTS, strict=True))
    for rescale, in_testing in (("test", scaled), ("training", x + 111)):
        with stochastic_depth(model, found, survival=rates, rescale=rescale):
            for _ in range(2):
                torch.testing.assert_close(model.eval()(x), in_testing)
                assert not torch.isclose(model.train()(x), in_testing).all()
        with stochastic_depth(model.train(), found, survival=rates, rescale=rescale, training=False):
            torch.testing.assert_close(model(x), in_testing)


def test_survival_of_one_and_of_zero():
    model, x, found = digits()
    with stochastic_depth(model, found, survival=1.0, training=True):
        assert torch.equal(model(x), x + 111)
    with stochastic_depth(model, found, survival=[0.0, 1.0, 0.0], training=True):
        assert torch.equal(model(x), x + 10)
    with stochastic_depth(model, [], survival=0.5):
        assert torch.equal(model(x), x + 111)


def test_a_dropped_branch_adds_zero_even_where_it_is_not_finite():
    model, x, found = digits()
    nn.init.constant_(model.branches[1].bias, float("inf"))
    with stochastic_depth(model, found[1], survival=[0.0], training=True):
        assert torch.equal(model(x), x + 101)


def test_a_number_draws_the_same_anew_and_a_generator_goes_on():
    model, x, found = digits()
    before = snapshot(model)

    def some(seed):
        with torch.no_grad(), stochastic_depth(model, found, survival=[0.5] * 3, training=True, seed=seed):
            return [model(x) for _ in range(10)]

    def same(one, other):
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    assert same(some(3), some(3)) and not same(some(3), some(4))
    generator = torch.Generator().manual_seed(3)
    first = some(generator)
    assert same(first, some(3)) and not same(first, some(generator))
    assert_as_found(model, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"survival": 1.2}, r"in \[0, 1\] and above 0 to rescale in training; got 1.2 with rescale='test'"),
        ({"survival": [0.5]}, r"one for each of the 3 junctions.*got \[0.5\]"),
        ({"survival": float("nan")}, r"got nan"),
        ({"survival": [0.5, 0.0, 1.0], "rescale": "training"}, r"above 0 to rescale in training"),
        (
            {"rescale": "never"},
            r"rescale is test or training and per is batch or example, got rescale='never'",
        ),
        ({"per": "row"}, r"per='row'"),
    ],
)
def test_wrong_options(options, message):
    model, _, found = digits()
    with pytest.raises(ValueError, match=message):
        with stochastic_depth(model, found, **options):
            pass
