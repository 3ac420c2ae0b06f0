"""How many directions do the gradients of a batch fill? Four ranks that are no whole numbers."""

import torch
from torch import Tensor

from gradscope.measures.gram_spectrum import kernel_spectrum, rounding_level
from gradscope.measures.gram_sums import as_gram


def stable_rank(gram: Tensor) -> Tensor:
    """Stable rank of the gradients: sum of the squared norms over the largest eigenvalue, tr K / lambda_max.

    1 when all gradients are along one line, B when they are orthogonal and equally long. What Balduzzi et al. call
    effective rank; see `entropy_effective_rank` for the other thing of that name. Shrinks and grows with B, so no
    interval over examples belongs to it.

    Args:
        gram: [B, B] with B >= 2, of any scale.

    Returns:
        Scalar, a number of directions in [1, B]; float64. NaN if every gradient is zero or an entry is not finite.

    Raises:
        ValueError: Not a Gram matrix.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, section 4; Vershynin (2012), arXiv:1011.3027, for the stable rank.
    """
    eigenvalues = kernel_spectrum(as_gram("stable_rank", gram))
    return _over(eigenvalues.sum(), eigenvalues[0])


def relative_effective_rank(gram: Tensor, white: Tensor | float) -> Tensor:
    """Stable rank over that of white noise of the same shape.

    Near 1 when gradients are as unrelated as white noise; small when few directions carry them.

    Args:
        gram: [B, B] with B >= 2, of any scale.
        white: Stable rank of white noise of B rows and as many coordinates as the gradients have:
            `white_stable_rank`, or `simulated_white_stable_rank` for the mean itself.

    Returns:
        Scalar, dimensionless, above 0; float64. About 1 at most; a little more where rows are more orthogonal than
        random ones. NaN if every gradient is zero or an entry is not finite.

    Raises:
        ValueError: Not a Gram matrix, or a baseline that is not positive.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, section 4.
    """
    if not float(white) > 0:
        raise ValueError(f"relative_effective_rank divides by the rank of white noise, got {float(white)}.")
    return stable_rank(gram) / white


def entropy_effective_rank(gram: Tensor) -> Tensor:
    """Effective rank of Roy and Vetterli: exp of the entropy of the singular values, normalised by their sum.

    1 when all gradients are along one line, B when they are orthogonal and equally long. Unlike `stable_rank`, small
    directions count. Singular values are roots of eigenvalues; those below the rounding level count as zero.

    Args:
        gram: [B, B] with B >= 2, of any scale.

    Returns:
        Scalar, a number of directions in [1, B]; float64. NaN if every gradient is zero or an entry is not finite.

    Raises:
        ValueError: Not a Gram matrix.

    Source:
        Roy and Vetterli (2007), The effective rank, EUSIPCO.
    """
    eigenvalues = kernel_spectrum(as_gram("entropy_effective_rank", gram))
    singular = torch.where(eigenvalues > rounding_level(eigenvalues), eigenvalues, 0.0).sqrt()
    if not bool(eigenvalues[0] > 0):
        return eigenvalues.new_full((), torch.nan)
    return torch.special.entr(singular / singular.sum()).sum().exp()


def participation_ratio(gram: Tensor) -> Tensor:
    """Participation ratio of the eigenvalues: (tr K)^2 / tr K^2, without computing them.

    1 when all gradients are along one line, B when they are orthogonal and equally long.

    Args:
        gram: [B, B] with B >= 2, of any scale.

    Returns:
        Scalar, a number of directions in [1, B]; float64. NaN if every gradient is zero or an entry is not finite.

    Raises:
        ValueError: Not a Gram matrix.

    Source:
        Bell and Dean (1970), Atomic vibrations in vitreous silica, for the ratio; applied to the spectrum of a Gram.
    """
    gram = as_gram("participation_ratio", gram)
    gram = gram / gram.abs().amax()
    return gram.diagonal().sum().square() / gram.square().sum()


def _over(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0, numerator / denominator, torch.full_like(numerator, torch.nan))
