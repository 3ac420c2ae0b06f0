"""Paths in input space against their definitions, and gradients along them against one point at a time."""

import math

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import mlp
from torch import nn

from gradscope.data import line
from gradscope.gradients.traces.along import gradients_at
from gradscope.gradients.traces.paths import circle, line_between, scalar_line
from gradscope.problem import Problem


def image(seed: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, 3, 3, dtype=torch.float64, generator=generator)


def steps(points: torch.Tensor) -> torch.Tensor:
    return (points[1:] - points[:-1]).flatten(start_dim=1).norm(dim=1)


def test_a_line_goes_evenly_from_one_input_to_the_other():
    x0, x1 = image(0), image(1)
    path = line_between(x0, x1, 9)
    torch.testing.assert_close(path.points[0], x0)
    torch.testing.assert_close(path.points[-1], x1)
    torch.testing.assert_close(path.points[2], x0 + (x1 - x0) * 2 / 8)
    length = float((x1 - x0).square().sum()) ** 0.5
    torch.testing.assert_close(steps(path.points), torch.full((8,), length / 8).double())
    assert path.distances.tolist() == pytest.approx([length * k / 8 for k in range(9)])
    assert path.spacing == pytest.approx(length / 8) and not path.closed
    torch.testing.assert_close(path.tangents[3], (x1 - x0) / length)


def test_a_great_circle_keeps_its_distance_and_meets_both_directions():
    x0, x1, centre = image(0), image(1, 3.0), image(2, 0.1)
    path = circle(x0, x1, 40, centre=centre)
    radius = ((x0 - centre).norm() + (x1 - centre).norm()) / 2
    torch.testing.assert_close((path.points - centre).flatten(1).norm(dim=1), radius.expand(40))
    chord = steps(torch.cat([path.points, path.points[:1]]))
    torch.testing.assert_close(chord, (2 * radius * math.sin(math.pi / 40)).expand(40), rtol=1e-6, atol=0)
    assert path.closed and path.spacing == pytest.approx(float(radius) * 2 * math.pi / 40, rel=1e-6)
    torch.testing.assert_close(path.points[0] - centre, (x0 - centre) * radius / (x0 - centre).norm())
    away = x1 - centre
    angle = torch.acos(((x0 - centre) * away).sum() / (x0 - centre).norm() / away.norm())
    fine = circle(x0, x1, 4000, centre=centre)
    nearest = fine.points[round(float(angle) / (2 * math.pi) * 4000)]
    torch.testing.assert_close(
        nearest - centre, away * radius / away.norm(), rtol=0, atol=float(radius) / 600
    )


def test_an_ellipse_goes_through_both_inputs_in_even_steps():
    x0, x1 = image(0), image(1, 3.0)
    path = circle(x0, x1, 2000, constant_norm=False)
    torch.testing.assert_close(path.points[0], x0, rtol=1e-6, atol=1e-6)
    to_second = (path.points - x1).flatten(1).norm(dim=1)
    assert float(to_second.min()) < path.spacing
    chord = steps(torch.cat([path.points, path.points[:1]]))
    assert float(chord.max() / chord.min()) < 1.001
    assert float(chord.sum()) == pytest.approx(2000 * path.spacing, rel=1e-5)


@pytest.mark.parametrize("constant_norm", [True, False])
def test_tangents_are_differences_of_length_one(constant_norm):
    path = circle(image(0), image(1, 2.0), 5000, constant_norm=constant_norm)
    ahead = path.points[2:] - path.points[:-2]
    ahead = ahead / ahead.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(path.tangents[1:-1], ahead, rtol=0, atol=1e-5)


def test_gradients_are_those_of_single_points_for_every_source_and_block():
    model = nn.Sequential(nn.Flatten(), mlp(18, 7, 4)).double()
    points = line_between(image(0), image(1), 10).points
    labels = torch.zeros(2, dtype=torch.int64)
    problem = Problem(used(model), (torch.stack([image(0), image(1)]), labels))
    before = snapshot(model)
    cases = {
        "output": lambda out: out.sum(),
        "logit": lambda out: out[0, 2],
        1: lambda out: out[0, 1],
        "loss": lambda out: -out.log_softmax(dim=1)[0, 2],
    }
    for source, value in cases.items():
        rows = []
        for point in points:
            inputs = point[None].clone().requires_grad_()
            rows.append(torch.autograd.grad(value(model(inputs)), inputs)[0][0])
        for block in (None, 3):
            found = gradients_at(problem, points, target=torch.tensor(2), source=source, block_size=block)
            torch.testing.assert_close(found, torch.stack(rows), rtol=1e-12, atol=1e-14)
    assert_as_found(model, before)


def test_paths_that_make_no_sense_are_refused():
    x = image(0)
    cases = [
        (lambda: line_between(x, x, 5), "two inputs are equal"),
        (lambda: line_between(x, x[0], 5), "of one shape"),
        (lambda: line_between(x, 2 * x, 1), "at least 2 points"),
        (lambda: line_between(x.long(), x.long(), 3), "floating-point"),
        (lambda: circle(x, -x, 8), "lie on one line with the centre"),
        (lambda: circle(x, x, 8, centre=x), "lie on one line with the centre"),
        (lambda: circle(x, image(1), 2), "at least 3 points"),
        (lambda: scalar_line(torch.ones(4)), r"shape \[N, 1\]"),
        (lambda: scalar_line(torch.tensor([[0.0], [1.0], [3.0]])), "even steps"),
        (lambda: scalar_line(-line(8)), "even steps"),
    ]
    for call, match in cases:
        with pytest.raises(ValueError, match=match):
            call()


def test_inputs_without_a_gradient_are_refused():
    problem = Problem(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), torch.ones(4, 2))
    with pytest.raises(ValueError, match="batch statistics of its own"):
        gradients_at(problem, torch.ones(4, 2), block_size=2)
    with pytest.raises(ValueError, match=r"floating-point tensor, got torch\.int64"):
        gradients_at(problem, torch.ones(4, 2).long())
    constant = Problem(nn.Linear(2, 1), torch.ones(4, 2), forward=lambda _, x: x.detach())
    with pytest.raises(ValueError, match="does not depend on the input"):
        gradients_at(constant, torch.ones(4, 2))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        gradients_at(constant, torch.ones(4, 2), block_size=0)
