"""Does a kernel already know the labels? Alignment of two kernel matrices."""

import torch
from torch import Tensor

from gradscope.measures.gram_sums import as_gram


def kernel_alignment(gram: Tensor, other: Tensor) -> Tensor:
    """Alignment of two kernels on the same examples: the cosine between them as vectors of B^2 numbers.

    1 when they are proportional; for `class_kernel` as the other, near 1 when the gradients of a class agree and those
    of different classes are orthogonal. Uncentred, so that a large common part of all gradients counts as agreement
    with a large common part of the labels; see `centred_kernel_alignment`.

    Args:
        gram: [B, B].
        other: [B, B].

    Returns:
        Scalar, dimensionless, in [0, 1] up to rounding (both are positive semi-definite); float64. NaN if one is zero
        or has an entry that is not finite.

    Raises:
        ValueError: No two Gram matrices of the same examples.

    Source:
        Cristianini et al. (2001), On kernel-target alignment, NeurIPS, definition 1.
    """
    first, second = _alike("kernel_alignment", gram, other)
    return _cosine(first, second)


def centred_kernel_alignment(gram: Tensor, other: Tensor) -> Tensor:
    """Alignment of two kernels after their features are centred: what they share beyond a common mean.

    0 when the one says nothing about the other's differences, 1 when they are proportional there.

    Args:
        gram: [B, B].
        other: [B, B].

    Returns:
        Scalar, dimensionless, in [0, 1] up to rounding; float64. NaN if centring leaves nothing but rounding of one,
        as of the labels of one class, or an entry is not finite.

    Raises:
        ValueError: No two Gram matrices of the same examples.

    Source:
        Cortes et al. (2012), Algorithms for learning kernels based on centered alignment, arXiv:1203.0550.
    """
    first, second = _alike("centred_kernel_alignment", gram, other)
    one, two = centred(first), centred(second)
    for before, after in ((first, one), (second, two)):
        rounding = len(before) * torch.finfo(torch.float64).eps * before.abs().amax()
        if bool(after.abs().amax() <= rounding):
            return first.new_full((), torch.nan)
    return _cosine(one, two)


def centred(gram: Tensor) -> Tensor:
    """Gram matrix of the gradients less their mean over examples: H K H with H = 1 - 11^T / B, [B, B].

    Raises:
        ValueError: Not a Gram matrix.
    """
    gram = as_gram("centred", gram, least=1)
    rows = gram - gram.mean(dim=0, keepdim=True)
    return rows - rows.mean(dim=1, keepdim=True)


def class_kernel(labels: Tensor) -> Tensor:
    """1 for two examples of one class and 0 for others, [B, B]: the Gram matrix of one-hot labels; float64.

    Raises:
        ValueError: Labels that are not [B].
    """
    if labels.ndim != 1:
        raise ValueError(f"labels are one class number for each example, [B], got {list(labels.shape)}.")
    return (labels[:, None] == labels[None, :]).double()


def _alike(name: str, gram: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    first, second = as_gram(name, gram, least=1), as_gram(name, other, least=1)
    if first.shape != second.shape:
        raise ValueError(
            f"{name} compares two kernels on the same examples, got {list(first.shape)} and {list(second.shape)}."
        )
    return first, second.to(first.device)


def _cosine(one: Tensor, two: Tensor) -> Tensor:
    one, two = one / one.abs().amax(), two / two.abs().amax()
    return (one * two).sum() / torch.linalg.matrix_norm(one) / torch.linalg.matrix_norm(two)
