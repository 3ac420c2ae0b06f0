"""Eigenvalues of a kernel matrix, and how well conditioned it is, as far as rounding lets one see."""

from typing import NamedTuple

import torch
from torch import Tensor

from gradscope.measures.gram_sums import as_gram


class KernelCondition(NamedTuple):
    """Condition of a kernel matrix.

    Attributes:
        value: Largest over smallest eigenvalue, at least 1; where some are unresolved, a lower bound of it.
        largest: The largest eigenvalue, in the unit of the kernel.
        smallest: The smallest eigenvalue that is resolved, in the same unit.
        unresolved: How many eigenvalues lie below the rounding level and may as well be zero.
    """

    value: Tensor
    largest: Tensor
    smallest: Tensor
    unresolved: int


def kernel_spectrum(gram: Tensor) -> Tensor:
    """Eigenvalues of a Gram or kernel matrix, largest first.

    Args:
        gram: [B, B] with B >= 1.

    Returns:
        [B], in the unit of the kernel; float64. At least 0 but for rounding, which is B eps times the largest. NaN if
        an entry is not finite.

    Raises:
        ValueError: Not a Gram matrix.
    """
    gram = as_gram("kernel_spectrum", gram, least=1)
    scale = gram.abs().amax()
    if not bool(torch.isfinite(scale)):
        return gram.new_full((len(gram),), torch.nan)
    if not bool(scale > 0):
        return gram.new_zeros(len(gram))
    return torch.linalg.eigvalsh(gram / scale).flip(0) * scale


def rounding_level(eigenvalues: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """What rounding may have made of an eigenvalue of zero: B eps times the largest.

    Args:
        eigenvalues: [B], of `kernel_spectrum`.
        dtype: In which the matrix was computed, whatever it is stored in.
    """
    return len(eigenvalues) * torch.finfo(dtype).eps * eigenvalues.abs().amax()


def kernel_condition(gram: Tensor, dtype: torch.dtype = torch.float64) -> KernelCondition:
    """Condition number of a kernel matrix: largest over smallest eigenvalue.

    1 when all directions of the outputs are learned equally fast; infinite for a singular kernel, which arithmetic
    cannot tell from a nearly singular one. Eigenvalues below B eps of the largest are unresolved; an eigenvalue and its
    error may each be that large, so that the condition number is at least 1 / (2 B eps), and that is what is returned.

    Args:
        gram: [B, B] with B >= 1.
        dtype: In which its entries were computed; a float32 network's kernel is rounded in float32, though summed in
            float64.

    Returns:
        Dimensionless value and its parts. NaN for a kernel of zeros or with entries that are not finite.

    Raises:
        ValueError: Not a Gram matrix.

    Source:
        Jacot et al. (2018), arXiv:1806.07572, for why eigenvalues are rates of learning.
    """
    eigenvalues = kernel_spectrum(gram)
    largest = eigenvalues[0]
    if not bool(largest > 0):
        nothing = torch.full_like(largest, torch.nan)
        return KernelCondition(nothing, largest, nothing, len(eigenvalues))
    resolved = eigenvalues > rounding_level(eigenvalues, dtype)
    unresolved, smallest = int((~resolved).sum()), eigenvalues[resolved].min()
    bound = largest.new_tensor(1 / (2 * len(eigenvalues) * torch.finfo(dtype).eps))
    return KernelCondition(bound if unresolved else largest / smallest, largest, smallest, unresolved)


def kernel_trace(gram: Tensor) -> Tensor:
    """Sum of the eigenvalues of a kernel, which is that of its diagonal: the whole rate of learning.

    Args:
        gram: [B, B] with B >= 1.

    Returns:
        Scalar in the unit of the kernel, at least 0; float64.

    Raises:
        ValueError: Not a Gram matrix.
    """
    return as_gram("kernel_trace", gram, least=1).diagonal().sum()
