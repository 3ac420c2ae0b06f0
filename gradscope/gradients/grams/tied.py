"""Products between gradients of a table that is looked up and multiplied with, as tied embeddings are."""

import torch
from torch import Tensor

# Numbers of one block of products.
BLOCK = 4 * 2**20


def tied_cross_gram(
    indices: Tensor, gradients: Tensor, padding_idx: int | None, left: Tensor, right: Tensor
) -> Tensor:
    """Inner products of look-up gradients of one example with product gradients of another, no table formed.

    The first are sum_t e(indices_t) gradients_t^T, the second sum_s left_s right_s^T, so that their product is
    sum_{t,s} left_s[indices_t] <gradients_t, right_s>.

    Args:
        indices: Rows looked up, [B, T], integer.
        gradients: At what came out, [B, T, D].
        padding_idx: The row without a gradient.
        left: Factor along the rows of the table, [B, S, V].
        right: Factor along its columns, [B, S, D].

    Returns:
        [B, B], float64; row i the look-up gradient of example i, column j the product gradient of example j.
    """
    examples, positions = indices.shape
    if padding_idx is not None:
        gradients = gradients * (indices != padding_idx)[..., None]
    gram = torch.zeros(examples, examples, dtype=torch.float64, device=left.device)
    step = max(1, BLOCK // (positions * left.shape[0] * left.shape[1]))
    for start in range(0, examples, step):
        part = slice(start, min(start + step, examples))
        places = indices[part].flatten()
        picked = left[:, :, places]
        products = (right @ gradients[part].flatten(0, 1).T).mul_(picked)
        sums = products.sum(dim=1, dtype=torch.float64).view(examples, -1, positions).sum(dim=2)
        gram[part] = sums.T
    return gram
