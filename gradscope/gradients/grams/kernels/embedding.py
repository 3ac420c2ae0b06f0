"""Gram of an embedding's table: its per-example gradients touch few rows, and only rows in common make products."""

import torch
from torch import Tensor

from gradscope.gradients.grams.kernels.rows import gram_of_rows
from gradscope.gradients.grams.kernels.scale import kept_in_range

# Numbers gathered at once.
BLOCK = 4 * 2**20
# Shared by more than one in so many examples, a row of the table is multiplied as if all shared it.
OFTEN = 4


def embedding_gram(indices: Tensor, gradients: Tensor, padding_idx: int | None = None) -> Tensor:
    """Gram of per-example gradients of an embedding, without a table of gradients.

    Gradients of one example at one row of the table are added up; then row after row, only the examples that
    looked it up are multiplied with each other. Rows looked up by equally many examples are taken together.

    Args:
        indices: Rows of the table looked up by each example, [B, T], integer.
        gradients: At what came out, [B, T, D].
        padding_idx: The row that has no gradient, as in `nn.Embedding`.

    Returns:
        [B, B], float64.
    """
    if gradients.dtype not in (torch.float32, torch.float64):
        gradients = gradients.float()
    return kept_in_range(lambda scaled: _gram(indices, scaled, padding_idx), gradients)


def _gram(indices: Tensor, gradients: Tensor, padding_idx: int | None) -> Tensor:
    examples, width = len(indices), gradients.shape[-1]
    keys = (indices.long() * examples + torch.arange(examples, device=indices.device)[:, None]).flatten()
    flat = gradients.reshape(-1, width)
    if padding_idx is not None:
        kept = indices.flatten() != padding_idx
        keys, flat = keys[kept], flat[kept]
    keys, place = keys.unique(return_inverse=True)
    sums = torch.zeros(len(keys), width, dtype=flat.dtype, device=flat.device).index_add_(0, place, flat)
    owners = keys % examples
    counts = (keys // examples).unique_consecutive(return_counts=True)[1]
    starts = counts.cumsum(0) - counts
    gram = torch.zeros(examples, examples, dtype=torch.float64, device=flat.device)
    for count in counts.unique().tolist():
        for first in starts[counts == count].split(max(1, BLOCK // (examples * width))):
            rows = first[:, None] + torch.arange(count, device=first.device)
            add = _add_common if OFTEN * count >= examples else _add_rare
            add(gram, sums[rows], owners[rows])
    return (gram + gram.T).mul_(0.5)


def _add_rare(gram: Tensor, sums: Tensor, owners: Tensor) -> None:
    """Add products of [V, n, D], where the n examples `owners` [V, n] share each of V rows of the table."""
    if sums.shape[1] == 1:
        products = sums.double().square().sum(dim=2, keepdim=True)
    else:
        products = torch.bmm(sums, sums.transpose(1, 2)).double()
    places = owners[:, :, None] * len(gram) + owners[:, None, :]
    gram.view(-1).index_add_(0, places.flatten(), products.flatten())


def _add_common(gram: Tensor, sums: Tensor, owners: Tensor) -> None:
    """The same where most examples share a row, positions mostly: zeros for the others, and one product."""
    rows, _, width = sums.shape
    dense = torch.zeros(len(gram), rows, width, dtype=sums.dtype, device=sums.device)
    dense[owners, torch.arange(rows, device=sums.device)[:, None]] = sums
    gram += gram_of_rows(dense)
