"""The stable rank of white noise: what a relative effective rank is relative to."""

import math

import torch
from torch import Tensor


def white_stable_rank(examples: int, coordinates: int) -> float:
    """Stable rank of a matrix of independent Gaussians, in closed form: d B / (sqrt d + sqrt B)^2.

    From the edge of the Marchenko-Pastur law, which the largest eigenvalue reaches for large shapes; finite matrices
    stay a little below the edge, so that the mean lies a little higher: 154.2 against 155.1 for 256 x 3072.

    Args:
        examples: B, at least 1.
        coordinates: d of each example's gradient, at least 1.

    Returns:
        A number of directions, between a quarter and the whole of min(B, d).

    Raises:
        ValueError: A shape without entries.

    Source:
        Marchenko and Pastur (1967); Balduzzi et al. (2017), arXiv:1702.08591, section 4.
    """
    _checked("white_stable_rank", examples, coordinates, 1)
    return examples * coordinates / (math.sqrt(coordinates) + math.sqrt(examples)) ** 2


def simulated_white_stable_rank(
    examples: int, coordinates: int, draws: int, generator: torch.Generator
) -> Tensor:
    """Stable ranks of drawn white noise, whose mean is the baseline without approximation.

    The Gram of a Gaussian matrix is drawn itself, through its Cholesky factor: Gaussians below the diagonal, roots of
    chi-squares on it. So the cost is that of min(B, d)^3 a draw, however large the other is.

    Args:
        examples: B, at least 1.
        coordinates: d of each example's gradient, at least 1.
        draws: How many, at least 1.
        generator: On the CPU.

    Returns:
        [draws], numbers of directions in [1, min(B, d)]; float64.

    Raises:
        ValueError: A shape without entries, or no draws.

    Source:
        Bartlett (1933), On the theory of statistical regression, for the factor.
    """
    _checked("simulated_white_stable_rank", examples, coordinates, draws)
    few, many = sorted((examples, coordinates))
    freedom = torch.arange(many, many - few, -1, dtype=torch.float64)
    ranks = []
    for _ in range(draws):
        factor = torch.randn(few, few, generator=generator, dtype=torch.float64).tril(diagonal=-1)
        factor += torch.diag(chi_squares(freedom, generator).sqrt())
        gram = factor @ factor.T
        ranks.append(gram.diagonal().sum() / torch.linalg.eigvalsh(gram)[-1])
    return torch.stack(ranks)


def chi_squares(freedom: Tensor, generator: torch.Generator) -> Tensor:
    """One chi-square for each entry of `freedom`, by rejection from a transformed Gaussian.

    Args:
        freedom: Degrees of freedom, whole numbers of 1 or more, any shape, float64.
        generator: On the CPU.

    Source:
        Marsaglia and Tsang (2000), A simple method for generating gamma variables.
    """
    shift = freedom.clamp(min=2) / 2 - 1 / 3
    width = 1 / (9 * shift).sqrt()
    drawn = torch.full_like(freedom, torch.nan)
    while bool(drawn.isnan().any()):
        normal = torch.randn(freedom.shape, generator=generator, dtype=freedom.dtype)
        uniform = torch.rand(freedom.shape, generator=generator, dtype=freedom.dtype)
        cube = (1 + width * normal) ** 3
        accepted = (cube > 0) & (uniform.log() < normal.square() / 2 + shift * (1 - cube + cube.log()))
        drawn = torch.where(drawn.isnan() & accepted, 2 * shift * cube, drawn)
    # Below two degrees the proposal does not cover; one degree is a square itself.
    alone = torch.randn(freedom.shape, generator=generator, dtype=freedom.dtype).square()
    return torch.where(freedom < 2, alone, drawn)


def _checked(who: str, examples: int, coordinates: int, draws: int) -> None:
    if min(examples, coordinates, draws) < 1:
        raise ValueError(
            f"{who} needs at least one example, coordinate and draw, got {examples}, {coordinates} and {draws}."
        )
