"""Stiffness: does a step for one example help another, of the same class, or as far away?"""

from typing import NamedTuple

import torch
from torch import Tensor

from gradscope.measures.gram_cosines import cosines, pair_mean


class StiffnessByDistance(NamedTuple):
    """Mean stiffness of the pairs in each bin of distance.

    Attributes:
        distance: Mean distance of the pairs of a bin, [bins]; NaN in an empty one.
        stiffness: Mean over the pairs of a bin, [bins]; NaN in an empty one.
        pairs: How many pairs a bin holds, [bins].
    """

    distance: Tensor
    stiffness: Tensor
    pairs: Tensor


def signs(gram: Tensor) -> Tensor:
    """Sign of every product of two examples' gradients, [B, B]; rows and columns of zero gradients are NaN.

    Its `pair_mean` is the sign stiffness: 1 when every step helps everybody, 0 when it helps as often as it harms.

    Args:
        gram: [B, B] with B >= 2.

    Raises:
        ValueError: Not a Gram matrix.

    Source:
        Fort et al. (2019), Stiffness, arXiv:1901.09491.
    """
    matrix = cosines(gram)
    # The sign of NaN would be 0.
    return torch.where(matrix.isnan(), matrix, matrix.sign())


def sign_stiffness(gram: Tensor) -> Tensor:
    """Mean sign of the product of two examples' gradients, S_sign.

    Args:
        gram: [B, B] with B >= 2.

    Returns:
        Scalar, dimensionless, in [-1, 1], 1 when every step helps every other example; float64. Zero gradients are
        left out; NaN without a pair of others.

    Raises:
        ValueError: Not a Gram matrix.

    Source:
        Fort et al. (2019), arXiv:1901.09491.
    """
    return pair_mean(signs(gram))


def cosine_stiffness(gram: Tensor) -> Tensor:
    """Mean cosine of two examples' gradients, S_cos: as `sign_stiffness`, weighing how much a step helps.

    Args:
        gram: [B, B] with B >= 2.

    Returns:
        Scalar, dimensionless, in [-1/(B-1), 1]; float64. Zero gradients are left out; NaN without a pair of others.

    Raises:
        ValueError: Not a Gram matrix.

    Source:
        Fort et al. (2019), arXiv:1901.09491.
    """
    return pair_mean(cosines(gram))


def class_stiffness(matrix: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean stiffness between every two classes; on the diagonal within one, of different examples.

    Args:
        matrix: `signs` or `cosines`, [B, B]; pairs that are NaN are left out.
        labels: One class number for each example, [B].

    Returns:
        The classes there are, ascending, [C], and the mean of each two, symmetric, [C, C], in [-1, 1]; NaN without a
        pair.

    Raises:
        ValueError: Labels that are not [B].

    Source:
        Fort et al. (2019), arXiv:1901.09491.
    """
    if labels.ndim != 1 or len(labels) != len(matrix):
        raise ValueError(
            f"class_stiffness needs one class number for each of {len(matrix)} examples, got {list(labels.shape)}."
        )
    classes, place = labels.unique(return_inverse=True)
    members = torch.nn.functional.one_hot(place, len(classes)).to(matrix.dtype)
    counted = ~matrix.isnan()
    counted.fill_diagonal_(False)
    sums = members.T @ torch.where(counted, matrix, 0.0) @ members
    return classes, sums / (members.T @ counted.to(matrix.dtype) @ members)


def cosine_distances(inputs: Tensor) -> Tensor:
    """1 - cosine of every two inputs, [B, B]: 0 for one direction, 1 for orthogonal, 2 for opposite ones.

    Args:
        inputs: One row per example, [B, ...], floating-point. Whether a mean is taken off before is the caller's say.

    Returns:
        Dimensionless, in [0, 2]; float64. Rows and columns of inputs that are zero are NaN.

    Raises:
        ValueError: No floating-point rows.

    Source:
        Fort et al. (2019), arXiv:1901.09491, for inputs on the unit sphere.
    """
    if inputs.ndim < 2 or not inputs.is_floating_point():
        raise ValueError(
            f"cosine_distances needs floating-point inputs [B, ...], got {inputs.dtype} {list(inputs.shape)}."
        )
    rows = inputs.detach().double().flatten(start_dim=1)
    rows = rows / rows.abs().amax(dim=1, keepdim=True)
    rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return (1 - rows @ rows.T).clamp(0, 2)


def stiffness_by_distance(matrix: Tensor, distances: Tensor, bins: int = 8) -> StiffnessByDistance:
    """Mean stiffness against the distance of the inputs, in bins that hold as many pairs each.

    Args:
        matrix: `signs` or `cosines`, [B, B]; pairs that are NaN are left out.
        distances: Of every two inputs, [B, B], in any unit, such as `cosine_distances`.
        bins: How many, at least one.

    Raises:
        ValueError: Shapes that differ, or no bins.

    Source:
        Fort et al. (2019), arXiv:1901.09491.
    """
    if matrix.shape != distances.shape or bins < 1:
        raise ValueError(
            "stiffness_by_distance needs stiffness and distance of the same pairs and a bin, got "
            f"{list(matrix.shape)}, {list(distances.shape)} and {bins} bins."
        )
    above = torch.ones_like(matrix, dtype=torch.bool).triu(diagonal=1)
    counted = above & ~(matrix.isnan() | distances.isnan())
    far, order = distances[counted].double().sort(stable=True)
    stiff = matrix[counted].double()[order]
    # Places rather than edges decide, so that pairs of one distance fill bins too.
    parts = torch.tensor_split(torch.stack([far, stiff]), bins, dim=1)
    means = torch.stack([part.mean(dim=1) for part in parts])
    return StiffnessByDistance(means[:, 0], means[:, 1], torch.tensor([part.shape[1] for part in parts]))


def dynamical_critical_length(distance: Tensor, stiffness: Tensor) -> Tensor:
    """The first distance at which stiffness, falling, reaches 0: how far a step for one example helps others.

    Args:
        distance: Of each bin, ascending, [bins]; see `stiffness_by_distance`. Empty bins (NaN) are left out.
        stiffness: Of each bin, [bins].

    Returns:
        Scalar in the unit of `distance`, linearly between the last bin above 0 and the first that is not. NaN if it
        stays above 0, and where it is not above 0 in the first bin, which is then too wide to tell.

    Raises:
        ValueError: No two vectors of one length.

    Source:
        Fort et al. (2019), arXiv:1901.09491.
    """
    if distance.ndim != 1 or distance.shape != stiffness.shape:
        raise ValueError(
            f"dynamical_critical_length needs two vectors of one length, got {list(distance.shape)} and "
            f"{list(stiffness.shape)}."
        )
    kept = ~(distance.isnan() | stiffness.isnan())
    distance, stiffness = distance[kept].double(), stiffness[kept].double()
    reached = (stiffness <= 0).nonzero()
    if len(reached) == 0 or int(reached[0]) == 0:
        return distance.new_full((), torch.nan)
    after = int(reached[0])
    before, here = stiffness[after - 1], stiffness[after]
    return torch.lerp(distance[after - 1], distance[after], before / (before - here))
