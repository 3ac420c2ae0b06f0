"""Tensors of any layout as the dense ones that hold their numbers."""

import torch
from torch import Tensor

_COMPRESSED_BY_ROWS = (torch.sparse_csr, torch.sparse_bsr)
_COMPRESSED_BY_COLUMNS = (torch.sparse_csc, torch.sparse_bsc)


def dense_parts(tensor: Tensor) -> list[Tensor]:
    """What a tensor is stored in: itself where it is dense, or indices and values of a sparse one.

    Complex numbers come as pairs of real ones. Parts share the tensor's memory.
    """
    if tensor.layout == torch.strided:
        parts = [tensor]
    elif tensor.layout == torch.sparse_coo:
        parts = [tensor._indices(), tensor._values()]
    elif tensor.layout in _COMPRESSED_BY_ROWS:
        parts = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    elif tensor.layout in _COMPRESSED_BY_COLUMNS:
        parts = [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    else:
        parts = [tensor]
    return [torch.view_as_real(part.resolve_conj()) if part.is_complex() else part for part in parts]


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one layout hold the same numbers in the same way."""
    pairs = zip(dense_parts(one), dense_parts(other), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)
