"""Training on exactly so many blocks: how many are alive, which, and what the others get."""

import math

import pytest
import torch
from as_found import assert_as_found, snapshot
from networks import NETWORKS, Residual, mlp
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gradscope.instruments.gates import junction_by_hand
from gradscope.training import exact_blocks, random_depth

BLOCKS = 5


class Projected(nn.Module):
    def __init__(self):
        super().__init__()
        self.shortcut, self.branch = nn.Linear(3, 4), mlp(3, 2, 4)

    def forward(self, x):
        return self.shortcut(x) + self.branch(x)


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = [Residual(mlp(4, 3, 4)) for _ in range(BLOCKS - 1)]
        return nn.Sequential(Projected(), *blocks, nn.Linear(4, 3)).double().train()


def batch(examples=6):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(examples, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (examples,), generator=generator)


def by_hand(model, inputs, alive):
    """The same network with the other branches left out; the projection stays."""
    for place, block in enumerate(model[:BLOCKS]):
        skip = block.shortcut(inputs) if place == 0 else inputs
        inputs = skip + block.branch(inputs) if place in alive else skip
    return model[BLOCKS](inputs)


@pytest.mark.parametrize("blocks", range(BLOCKS + 1))
def test_a_step_runs_on_exactly_so_many_blocks(blocks):
    model, (inputs, labels) = network(), batch()
    seen = set()
    with exact_blocks(blocks).around(model, inputs) as step:
        for number in range(8):
            output = model(inputs)
            assert len(step.alive) == len(set(step.alive)) == blocks
            assert set(step.alive) <= set(range(BLOCKS))
            assert step.number == number + 1
            seen.add(step.alive)
            torch.testing.assert_close(output, by_hand(model, inputs, step.alive))
            model.zero_grad()
            step.backward(F.cross_entropy(output, labels))
            for place in range(BLOCKS):
                for weight in model[place].branch.parameters():
                    assert (weight.grad is not None and bool(weight.grad.any())) == (place in step.alive)
            assert model[0].shortcut.weight.grad.any()
    assert len(seen) == 1 if blocks in (0, BLOCKS) else len(seen) > 1


def test_in_eval_mode_all_blocks_are_there():
    model, (inputs, _) = network(), batch()
    model.eval()
    with exact_blocks(2).around(model, inputs) as step:
        assert torch.equal(model(inputs), by_hand(model, inputs, range(BLOCKS)))
        assert step.number == 0


def test_draws_are_uniform():
    """Each of the C(5, 2) = 10 sets is as likely as any other: chi-square with 9 degrees of freedom."""
    model, (inputs, _) = network(), batch(examples=1)
    draws, counts = 1000, {}
    with exact_blocks(2, seed=3).around(model, inputs) as step, torch.no_grad():
        for _ in range(draws):
            model(inputs)
            counts[step.alive] = counts.get(step.alive, 0) + 1
    assert len(counts) == math.comb(BLOCKS, 2)
    expected = draws / len(counts)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    # The 99.9 % quantile; the draws are fixed by the seed, so this never fails by chance.
    assert chi_square < 27.9


def drawn(option, first, steps):
    model, (inputs, _) = network(), batch()
    draws = []
    with option.around(model, inputs) as step:
        step.number = first
        for _ in range(steps):
            model(inputs)
            torch.rand(3)
            draws.append(step.alive)
    return draws


def test_draws_depend_on_seed_and_step_alone():
    whole = drawn(exact_blocks(2, seed=1), 0, 12)
    assert drawn(exact_blocks(2, seed=1), 7, 5) == whole[7:]
    assert drawn(exact_blocks(2, seed=2), 0, 12) != whole
    assert len(set(whole)) > 1


def test_blocks_can_be_chosen():
    model, (inputs, _) = network(), batch()
    named = exact_blocks(1, junctions="[34]*")
    hand = exact_blocks(1, junctions=[junction_by_hand(model, f"{place}.branch") for place in (3, 4)])
    for option in (named, hand):
        with option.around(model, inputs) as step:
            assert step.blocks == 2
            for _ in range(4):
                output = model(inputs)
                alive = {0, 1, 2} | {3 + place for place in step.alive}
                torch.testing.assert_close(output, by_hand(model, inputs, alive))


def test_dense_layers_and_parallel_branches_are_skipped_as_wholes():
    for name, blocks in (("dense list", 3), ("parallel transformer", 3)):
        specimen = NETWORKS[name]
        model = specimen.build().train()
        with exact_blocks(1).around(model, specimen.inputs()) as step:
            model(specimen.inputs()).sum().backward()
            assert step.blocks == blocks
        layers = model.layers if name == "dense list" else model[:3]
        used = [
            any(p.grad is not None and bool(p.grad.any()) for p in layer.parameters()) for layer in layers
        ]
        assert sum(used) == 1


def test_blocks_that_a_sum_without_a_skip_encloses_are_skipped():
    class PastTheTrunk(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Sequential(*[Residual(mlp(3, 4, 3)) for _ in range(3)])
            self.head, self.aside = mlp(3, 4, 2), mlp(3, 4, 2)

        def forward(self, x):
            return self.head(self.trunk(x)) + self.aside(x.sin())

    model, (inputs, _) = PastTheTrunk().double().train(), batch()
    for option in (exact_blocks(0), random_depth(junctions="trunk.*")):
        with option.around(model, inputs):
            pass
    with exact_blocks(0).around(model, inputs) as step:
        assert step.blocks == 3
        torch.testing.assert_close(model(inputs), model.head(inputs) + model.aside(inputs.sin()))


class Checkpointed(Residual):
    """Computed again in the backward pass, where no gate would act."""

    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=False)


@pytest.mark.parametrize("option", [exact_blocks(1), random_depth()], ids=str)
def test_blocks_that_are_computed_again_are_refused(option):
    model, (inputs, _) = nn.Sequential(*[Checkpointed(mlp(3, 4, 3)) for _ in range(2)]).double(), batch()
    message = r"again in the backward pass .* Turn checkpointing off"
    with pytest.raises(ValueError, match=message), option.around(model.train(), inputs):
        pass


class Stop(BaseException):
    pass


def test_the_model_is_as_found_whatever_is_raised():
    model, (inputs, _) = network(), batch()
    before = snapshot(model)
    with pytest.raises(Stop), exact_blocks(2).around(model, inputs):
        model(inputs)
        raise Stop
    assert_as_found(model, before)


def test_mistakes_are_told():
    model, (inputs, _) = network(), batch()
    for wrong in (-1, 0.5, True):
        with pytest.raises(ValueError, match="blocks is how many are alive in every step, from 0"):
            exact_blocks(wrong)
    with pytest.raises(ValueError, match="seed is a whole number"):
        exact_blocks(2, seed=0.5)
    highway = NETWORKS["highway"].build()[2:4]
    for option, net, given, message in [
        (exact_blocks(6), model, inputs, "asked for 6 blocks in a step, but Sequential has 5"),
        (exact_blocks(1), mlp(3, 4, 3).double(), inputs, "has no residual junction on this batch"),
        (exact_blocks(1), highway, inputs.repeat(1, 2)[:, :4], "only junctions of kind gated"),
    ]:
        with pytest.raises(ValueError, match=message), option.around(net, given):
            pass
