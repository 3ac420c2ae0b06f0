"""Stochastic depth as an option of training, around the gate of that name."""

import pytest
import torch
from as_found import assert_as_found, snapshot
from networks import Residual, mlp
from torch import nn

from gradscope.training import random_depth

BLOCKS = 3


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(*[Residual(mlp(4, 3, 4)) for _ in range(BLOCKS)]).double().train()


INPUTS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_hand(model, x, factors):
    for block, factor in zip(model, factors, strict=True):
        x = x + factor * block.branch(x)
    return x


def patterns(option, first=0, steps=40):
    """Which blocks survived each step, told by the output alone."""
    model, seen = network(), []
    p = option.survival
    scales = [1 / q for q in p] if option.rescale == "training" else [1.0] * BLOCKS
    every = {tuple((code >> bit) & 1 for bit in range(BLOCKS)): None for code in range(2**BLOCKS)}
    outputs = {
        alive: by_hand(model, INPUTS, [a * s for a, s in zip(alive, scales, strict=True)]) for alive in every
    }
    with option.around(model, INPUTS) as step:
        step.number = first
        for _ in range(steps):
            output = model(INPUTS)
            seen += [
                alive for alive, expected in outputs.items() if torch.allclose(output, expected, atol=1e-12)
            ]
    assert len(seen) == steps
    return seen


@pytest.mark.parametrize("rescale", ["training", "test"])
def test_branches_survive_as_often_as_asked(rescale):
    survival = (1.0, 0.75, 0.5)
    seen = torch.tensor(patterns(random_depth(survival, rescale=rescale), steps=300), dtype=torch.float64)
    # Four standard deviations of a proportion; the draws are fixed by the seed.
    for place, p in enumerate(survival):
        assert abs(float(seen[:, place].mean()) - p) <= 4 * (p * (1 - p) / 300) ** 0.5


def test_draws_depend_on_seed_and_step_alone():
    survival = (0.5, 0.5, 0.5)
    whole = patterns(random_depth(survival, seed=1))
    assert patterns(random_depth(survival, seed=1), first=30, steps=10) == whole[30:]
    assert patterns(random_depth(survival, seed=2)) != whole


@pytest.mark.parametrize(("rescale", "factors"), [("training", (1, 1, 1)), ("test", (5 / 6, 4 / 6, 3 / 6))])
def test_in_eval_mode_branches_are_scaled_as_the_convention_has_it(rescale, factors):
    model = network().eval()
    with random_depth(0.5, rescale=rescale).around(model, INPUTS):
        torch.testing.assert_close(model(INPUTS), by_hand(model, INPUTS, factors))


def test_the_model_is_as_found_whatever_is_raised():
    model = network()
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt), random_depth(0.5).around(model, INPUTS):
        model(INPUTS)
        raise KeyboardInterrupt
    assert_as_found(model, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"survival": 1.5}, "survival is a probability"),
        ({"survival": 0.0}, "above 0 to rescale in training"),
        ({"survival": []}, "survival is a probability"),
        ({"rescale": "never"}, "rescale is training or test"),
        ({"per": "layer"}, "per is batch or example"),
        ({"seed": None}, "seed is a whole number"),
    ],
)
def test_mistakes_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        random_depth(**options)


def test_a_number_of_probabilities_that_is_not_that_of_the_blocks_is_told():
    option = random_depth((0.5, 0.5))
    with pytest.raises(ValueError, match="one for each of the 3 junctions"), option.around(network(), INPUTS):
        pass
