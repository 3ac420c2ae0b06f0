"""The plain twin against networks written without skips, and scaled branches against written-out forwards."""

import pytest
import torch
from as_found import assert_as_found, snapshot
from hand_written import HAND_WRITTEN
from networks import NETWORKS, RESIDUAL
from torch import nn

from gradscope.instruments.gates import cut_skips, lesion, scale_branches
from gradscope.instruments.junctions import junctions


class PlainBlock(nn.Module):
    """What a residual block does without its skip; the weights are those of the block."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        block = self.block
        return block.bn2(block.conv2(block.bn1(block.conv1(x)).relu())).relu()


@pytest.mark.parametrize("name", ["post-activation", "out-of-place"])
@pytest.mark.parametrize("training", [False, True])
def test_a_residual_network_with_cut_skips_is_the_plain_network(name, training):
    specimen = NETWORKS[name]
    model, x = specimen.build(), specimen.inputs()
    plain = nn.Sequential(*[PlainBlock(layer) if hasattr(layer, "conv1") else layer for layer in model])
    found = junctions(model, x)
    model.train(training)
    before = snapshot(model)
    with cut_skips(model, found):
        cut = model(x)
    assert training or snapshot(model) == before
    assert torch.equal(cut, plain(x))


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_cut_skips_add_zero(name):
    specimen = NETWORKS[name]
    model, x = specimen.build(), specimen.inputs().requires_grad_()
    found = junctions(model, x)
    before = snapshot(model)
    for hit in ([0], [1, len(found) - 1], list(range(len(found)))):
        expected = HAND_WRITTEN[name](
            model, x, skip=lambda i, o, v, hit=hit: torch.zeros_like(v) if i in hit else v
        )
        with cut_skips(model, [found[i] for i in hit]):
            actual = model(x)
        assert torch.equal(actual, expected)
        gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (actual, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)
    assert_as_found(model, before)


@pytest.mark.parametrize("name", RESIDUAL)
def test_with_skips_cut_and_branches_closed_nothing_passes(name):
    """The output no longer depends on the input, wherever the junctions are on every way."""
    specimen = NETWORKS[name]
    model, x = specimen.build(), specimen.inputs(3)
    found = [j for j in junctions(model, x) if j.level == 0]
    with cut_skips(model, found[-1]), lesion(model, found[-1]):
        shown = model(x)
    assert torch.equal(shown[0], shown[1]) and torch.equal(shown[0], shown[2])


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_scaled_branches(name):
    specimen = NETWORKS[name]
    model, x = specimen.build(), specimen.inputs().requires_grad_()
    found = junctions(model, x)
    many = [0.5 + place for place in range(len(found))]
    for factor in (0.3, many):
        factors = [factor] * len(found) if factor == 0.3 else factor
        expected = HAND_WRITTEN[name](model, x, lambda i, o, v, f=factors: v * f[i])
        with scale_branches(model, found, factor):
            actual = model(x)
        assert torch.equal(actual, expected)
        gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (actual, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


def test_for_a_linear_network_scaling_is_a_polynomial_in_the_factor():
    """prod (I + s A_l) x, of degree 3 in s for three blocks, with the coefficients of the paths of each length."""
    specimen = NETWORKS["pre-norm transformer"]
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(3, 3, generator=generator, dtype=torch.float64) for _ in range(3)]

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterList(weights)

        def forward(self, x):
            for weight in self.weights:
                x = x + x @ weight.T
            return x

    model, x = Linear(), specimen.inputs(2)[:, 0, :3]
    a, b, c = weights
    eye = torch.eye(3, dtype=torch.float64)
    lengths = [eye, a + b + c, b @ a + c @ a + c @ b, c @ b @ a]
    found = junctions(model, x)
    for factor in (0.0, 0.5, -1.0, 2.0):
        expected = sum(x @ paths.T * factor**length for length, paths in enumerate(lengths))
        with scale_branches(model, found, factor):
            torch.testing.assert_close(model(x), expected)


def test_wrong_factors():
    specimen = NETWORKS["padding"]
    model, x = specimen.build(), specimen.inputs()
    found = junctions(model, x)
    for factor in ([1.0], [1.0, 2.0, 3.0], float("inf"), [1.0, float("nan")]):
        with pytest.raises(ValueError, match=r"one finite number, or one for each of the 2 junctions, got"):
            with scale_branches(model, found, factor):
                pass
