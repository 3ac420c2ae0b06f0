"""Lines and circles in the space of inputs, evenly spaced, along which a gradient is followed."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class InputPath:
    """Points in input space in their order along a path, evenly spaced.

    Attributes:
        points: [M, ...], M >= 2.
        tangents: The direction of travel at each point, of Euclidean length 1 over all coordinates; [M, ...].
        distances: From the first point along the path, [M], float64, in units of the input.
        closed: Whether the last point is followed by the first.
    """

    points: Tensor
    tangents: Tensor
    distances: Tensor
    closed: bool = False

    @property
    def spacing(self) -> float:
        """Distance between neighbouring points, in units of the input."""
        return float(self.distances[-1] - self.distances[0]) / (len(self.distances) - 1)


def scalar_line(grid: Tensor) -> InputPath:
    """A grid of scalar inputs, such as `data.line` makes, as a path.

    Args:
        grid: [M, 1], increasing and evenly spaced to a thousandth of a step.

    Raises:
        ValueError: Another shape, a single point, or uneven or decreasing steps.
    """
    if grid.ndim != 2 or grid.shape[1] != 1 or len(grid) < 2:
        raise ValueError(
            f"A path of scalars is a line of scalars, shape [N, 1] with N >= 2, got {list(grid.shape)}."
        )
    x = grid.detach().double().flatten()
    steps = x.diff()
    even = float((steps - steps.mean()).abs().max()) <= 1e-3 * float(steps.mean())
    if not even or float(steps.min()) <= 0:
        raise ValueError(
            f"The grid has to increase in even steps, got steps from {float(steps.min()):.3g} to "
            f"{float(steps.max()):.3g}. Make it with data.line."
        )
    return InputPath(grid.detach(), torch.ones_like(grid), x - x[0])


def line_between(x0: Tensor, x1: Tensor, points: int) -> InputPath:
    """The straight line from one input to another, both ends included.

    Args:
        x0: First input, any shape, without a dimension for examples.
        x1: Last input, of the same shape, dtype and device.
        points: M, at least 2.

    Returns:
        Path of M points of the inputs' dtype; the distances end at |x1 - x0|.

    Raises:
        ValueError: Inputs of different shapes, not floating-point, or equal; or fewer than two points.
    """
    first, last = _pair(x0, x1, points)
    length = float(torch.linalg.vector_norm(last - first))
    if length == 0:
        raise ValueError("The two inputs are equal: there is no line between them. Choose two others.")
    share = _column(torch.linspace(0, 1, points, dtype=torch.float64, device=first.device), first)
    tangents = ((last - first) / length).expand(points, *first.shape)
    places = torch.linspace(0, length, points, dtype=torch.float64)
    return InputPath(torch.lerp(first, last, share).to(x0.dtype), tangents.to(x0.dtype), places)


def circle(
    x0: Tensor, x1: Tensor, points: int, *, centre: Tensor | None = None, constant_norm: bool = True
) -> InputPath:
    """The closed path around a centre in the plane of two inputs, starting at the first.

    With `constant_norm` a great circle: every point is as far from the centre as the two inputs are on average, so
    that the network sees inputs of their size only, and the path meets the two rays from the centre through them.
    Without, the ellipse around the centre through both inputs themselves, evenly spaced by its length.

    Args:
        x0: First input, any shape, without a dimension for examples.
        x1: Another, of the same shape, dtype and device, in another direction from the centre.
        points: M, at least 3; the last one is a step before the first.
        centre: Of the inputs' shape, such as the mean of a data set; None for 0.
        constant_norm: Circle or ellipse.

    Returns:
        Path of M points of the inputs' dtype.

    Raises:
        ValueError: As `line_between`; or the inputs lie on one line with the centre, which spans no plane.

    Source:
        Poole et al. (2016), arXiv:1606.05340, section 3, for the great circle.
    """
    first, second = _pair(x0, x1, points)
    if points < 3:
        raise ValueError(f"A circle needs at least 3 points, got {points}.")
    middle = torch.zeros_like(first) if centre is None else centre.to(first)
    first, second = first - middle, second - middle
    norms = torch.linalg.vector_norm(first), torch.linalg.vector_norm(second)
    cosine = float((first * second).sum() / (norms[0] * norms[1]))
    if not abs(cosine) < 1 - 1e-9:
        raise ValueError(
            "The two inputs lie on one line with the centre, so that no single circle goes through them (of two "
            "samples around their own mean this is always so). Choose others, another centre, or a line."
        )
    if constant_norm:
        radius = (norms[0] + norms[1]) / 2
        first, second = first * (radius / norms[0]), second * (radius / norms[1])
    # Conjugate half axes: x(0) is the first input, and x(angle between the two) the second.
    other = (second - cosine * first) / math.sqrt(1 - cosine**2)
    angles, length = _even_angles(first, other, points)
    cosines, sines = (_column(part, first) for part in (angles.cos(), angles.sin()))
    tangents = cosines * other - sines * first
    sizes = torch.linalg.vector_norm(tangents.flatten(start_dim=1), dim=1)
    return InputPath(
        (middle + cosines * first + sines * other).to(x0.dtype),
        (tangents / _column(sizes, first)).to(x0.dtype),
        torch.arange(points, dtype=torch.float64) * (length / points),
        closed=True,
    )


def _pair(x0: Tensor, x1: Tensor, points: int) -> tuple[Tensor, Tensor]:
    if x0.shape != x1.shape or not x0.is_floating_point() or points < 2:
        raise ValueError(
            "A path goes between two floating-point inputs of one shape, with at least 2 points; got "
            f"{x0.dtype} {list(x0.shape)}, {list(x1.shape)} and {points} points."
        )
    return x0.detach().double(), x1.detach().double()


def _column(values: Tensor, like: Tensor) -> Tensor:
    """[M] as [M, 1, ..., 1], to multiply something of the shape of `like`."""
    return values.view(-1, *[1] * like.ndim)


def _even_angles(first: Tensor, other: Tensor, points: int) -> tuple[Tensor, float]:
    """Angles at which first cos + other sin is evenly spaced in its length, and the length of the whole."""
    fine = torch.linspace(0, 2 * math.pi, 64 * points + 1, dtype=torch.float64, device=first.device)
    a, b, c = (float((p * q).sum()) for p, q in ((first, first), (first, other), (other, other)))
    speed = (a * fine.sin().square() - b * (2 * fine).sin() + c * fine.cos().square()).clamp(min=0).sqrt()
    steps = (speed[1:] + speed[:-1]) / 2 * fine.diff()
    reached = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    length = float(reached[-1])
    wanted = torch.arange(points, dtype=torch.float64, device=first.device) * (length / points)
    after = torch.searchsorted(reached, wanted, right=True).clamp(1, len(fine) - 1)
    within = (wanted - reached[after - 1]) / (reached[after] - reached[after - 1])
    return torch.lerp(fine[after - 1], fine[after], within), length
