"""Derivatives carried forward against autograd on the same computation written out."""

import pytest
import torch

from gradscope.gradients.traces.forward_mode import Block, Linear, Normalise, Rectifier, depth_derivatives


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_steps_are_what_they_say_along_a_curve_in_the_plane():
    """Two inputs, a skip, stored statistics with scale and shift, batch statistics, and both kinds of rectifier."""
    first, bias, second, third = drawn(5, 2), drawn(5, seed=1), drawn(5, 10, seed=2), drawn(4, 5, seed=3)
    scale, shift, mean, variance = drawn(5, seed=4), drawn(5, seed=5), drawn(5, seed=6), drawn(5, seed=7) ** 2
    stored = Normalise(True, 1e-3, (mean, variance), scale, shift)
    blocks = [
        Block((Linear(first, bias), Rectifier())),
        Block((stored, Rectifier(both=True), Linear(second)), skip=True, alpha=0.7, beta=0.3),
        Block((Linear(third), Normalise(True, 1e-5), Rectifier()), beta=0.5),
    ]
    readouts = [drawn(5, seed=8), drawn(5, seed=9), drawn(4, seed=10)]
    points = drawn(11, 2, seed=11).requires_grad_()
    tangents = drawn(11, 2, seed=12)

    one = (points @ first.T + bias).relu()
    inner = scale * (one - mean) / (variance + 1e-3).sqrt() + shift
    two = 0.7 * (one + 0.3 * torch.cat([inner.relu(), (-inner).relu()], dim=1) @ second.T)
    three = two @ third.T
    fixed = three.detach()
    three = (three - fixed.mean(dim=0)) / (fixed.var(dim=0, correction=0) + 1e-5).sqrt()
    expected = [
        (torch.autograd.grad((state @ readout).sum(), points, retain_graph=True)[0] * tangents).sum(dim=1)
        for state, readout in zip([one, two, 0.5 * three.relu()], readouts, strict=True)
    ]
    before = [points.detach().clone(), first.clone()]
    found = depth_derivatives(blocks, readouts, points.detach(), tangents)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=1e-13)
    assert torch.equal(points.detach(), before[0]) and torch.equal(first, before[1])
    some = depth_derivatives(blocks, [None, readouts[1], None], points.detach(), tangents)
    assert torch.equal(some[0], found[1]) and len(some) == 1


def test_blocks_without_steps_and_those_that_begin_with_a_rectifier_keep_what_they_add_to():
    points, ones = drawn(6, 3), torch.ones(6, 3, dtype=torch.float64)
    readout = drawn(3, seed=1)
    found = depth_derivatives([Block((), skip=True, alpha=2.0, beta=0.5)], [readout], points, ones)
    torch.testing.assert_close(found[0], (3 * readout.sum()).expand(6))
    found = depth_derivatives([Block((Rectifier(),), skip=True, beta=0.5)], [readout], points, ones)
    torch.testing.assert_close(found[0], ((1 + 0.5 * (points > 0).double()) * readout).sum(dim=1))


def test_the_derivative_of_a_rectifier_at_zero_is_zero():
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    for both, readout in ((False, torch.ones(1)), (True, torch.ones(2))):
        assert float(depth_derivatives([Block((Rectifier(both),))], [readout], zero, one)) == 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"\[M, D\] alike, got \[3, 1\] and \[3\]"):
        depth_derivatives([], [], torch.ones(3, 1), torch.ones(3))
    with pytest.raises(ValueError, match="0 blocks but 1 readouts"):
        depth_derivatives([], [None], torch.ones(3, 1), torch.ones(3, 1))
