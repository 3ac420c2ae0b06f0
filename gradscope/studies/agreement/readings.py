"""Everything that is read off one Gram matrix, by name."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from gradscope.measures.correlation import Estimate
from gradscope.measures.gram_alignment import centred_kernel_alignment, class_kernel, kernel_alignment
from gradscope.measures.gram_confusion import cosine_confusion, gradient_confusion
from gradscope.measures.gram_correlation import correlation_R_of_sums
from gradscope.measures.gram_cosines import cosines, same_class
from gradscope.measures.gram_diversity import (
    diversity_batch_bound,
    gradient_diversity,
    gradient_diversity_of_R,
    m_coherence,
    m_coherence_of_R,
)
from gradscope.measures.gram_jackknife import (
    carried,
    effective_examples,
    jackknife_of_pairs,
    jackknife_of_quantile,
    jackknife_of_share,
    jackknife_of_sums,
    within,
)
from gradscope.measures.gram_noise_scale import noise_scale, noise_scale_of_sums, simple_noise_scale_of_R
from gradscope.measures.gram_ranks import entropy_effective_rank, participation_ratio, stable_rank
from gradscope.measures.gram_stiffness import signs
from gradscope.measures.gram_sums import GramSums

LABELS, WIDTH = "labels", "width"
# The class number that torch's losses leave out.
IGNORED = -100


@dataclass(frozen=True, eq=False)
class Gram:
    """One Gram matrix with what its readings need besides.

    Attributes:
        products: [B, B], finite, with two non-zero gradients or more; on the CPU.
        labels: Class numbers [B], or None; -100 for an example that losses leave out.
        white: Stable rank of white noise of this shape, or None where the number of coordinates is unknown.
    """

    products: Tensor
    labels: Tensor | None
    white: Estimate | None

    @cached_property
    def cosines(self) -> Tensor:
        return cosines(self.products)

    @cached_property
    def correlation(self) -> Estimate:
        return within(jackknife_of_sums(self.products, correlation_R_of_sums), -1, 1)

    @cached_property
    def negative(self) -> Tensor:
        return torch.where(self.cosines.isnan(), self.cosines, (self.cosines < 0).double())

    @cached_property
    def plus(self) -> Tensor:
        """1 for a positive product, 0 for a negative one, 1/2 for none."""
        return (signs(self.products) + 1) / 2

    @cached_property
    def effective_examples(self) -> float:
        return effective_examples(self.products)

    @cached_property
    def labelled(self) -> Tensor:
        """Places of the examples whose labels count."""
        return (self._labels != IGNORED).nonzero()[:, 0]

    @cached_property
    def same_class(self) -> Tensor:
        return same_class(self._labels) & self._both_labelled

    @cached_property
    def other_class(self) -> Tensor:
        return ~same_class(self._labels) & self._both_labelled

    def aligned(self, alignment: Callable[[Tensor, Tensor], Tensor]) -> float:
        """Alignment with the classes of those examples whose labels count."""
        kept = self.labelled
        if len(kept) < 2:
            return math.nan
        return float(alignment(self.products[kept][:, kept], class_kernel(self._labels[kept])))

    @property
    def _both_labelled(self) -> Tensor:
        counts = self._labels != IGNORED
        return counts[:, None] & counts[None, :]

    @cached_property
    def stable_rank(self) -> float:
        return float(stable_rank(self.products))

    @property
    def baseline(self) -> Estimate:
        if self.white is None:
            raise ValueError("A reading that needs the width was asked of a Gram without it.")
        return self.white

    @property
    def _labels(self) -> Tensor:
        if self.labels is None:
            raise ValueError("A reading that needs labels was asked of a Gram without them.")
        return self.labels


class Reading(NamedTuple):
    """One quantity.

    Attributes:
        unit: Its unit.
        read: Its value, with an interval where one belongs to it.
        undefined: Why it may have no value although two gradients are not zero.
        needs: `labels`, `width` or nothing.
        interval: Why its interval may be missing; empty where none belongs to it.
        by_norms: Its interval hangs on the longest gradients.
    """

    unit: str
    read: Callable[[Gram], Estimate]
    undefined: str = "no pair of gradients is left"
    needs: str = ""
    interval: str = ""
    by_norms: bool = False


CANCEL = "the gradients cancel: their sum is zero to rounding"
NOISE = "the noise hides the signal: the unbiased estimate of the squared gradient is not positive"
ONE_CLASS = "no two examples with a gradient are of one class"
TWO_CLASSES = "no two examples with a gradient are of different classes"
FLAT = "centring leaves nothing: all labelled examples are of one class, or all gradients are the same"
LEFT_OUT = "no interval: it takes three examples, and a value without each of them"


def _of_sums(unit: str, statistic: Callable[[GramSums], Tensor], positive: bool = False) -> Reading:
    def read(gram: Gram) -> Estimate:
        found = jackknife_of_sums(gram.products, statistic, logarithm=positive)
        return within(found, 0, math.inf) if positive else found

    return Reading(unit, read, interval=LEFT_OUT, by_norms=True)


def _of_R(
    unit: str,
    statistic: Callable[[Tensor], Tensor],
    of_R: Callable[[float, int], float],
    undefined: str = CANCEL,
) -> Reading:
    """A function of R and the number of examples, with the interval of R carried over."""

    def read(gram: Gram) -> Estimate:
        return carried(
            gram.correlation, float(statistic(gram.products)), lambda R: of_R(R, len(gram.products))
        )

    return Reading(unit, read, undefined, interval=LEFT_OUT, by_norms=True)


def _of_quantile(level: float) -> Reading:
    def read(gram: Gram) -> Estimate:
        return jackknife_of_quantile(gram.cosines, level)

    return Reading("1", read, interval=LEFT_OUT)


def _of_pairs(
    matrix: Callable[[Gram], Tensor],
    chosen: Callable[[Gram], Tensor] | None = None,
    undefined: str = "no pair of gradients is left",
) -> Reading:
    def read(gram: Gram) -> Estimate:
        pairs = None if chosen is None else chosen(gram)
        return within(jackknife_of_pairs(matrix(gram), pairs), -1, 1)

    return Reading("1", read, undefined, "" if chosen is None else LABELS, LEFT_OUT)


def _alone(
    unit: str,
    value: Callable[[Gram], Tensor | float],
    undefined: str = "no direction is left",
    needs: str = "",
) -> Reading:
    def read(gram: Gram) -> Estimate:
        return Estimate(float(value(gram)), math.nan, math.nan)

    return Reading(unit, read, undefined, needs)


def _share(matrix: Callable[[Gram], Tensor], scale: float = 1, shift: float = 0) -> Reading:
    def read(gram: Gram) -> Estimate:
        found = jackknife_of_share(matrix(gram))
        return Estimate(*(scale * end + shift for end in found))

    return Reading("1", read, interval=LEFT_OUT)


def _cosines(gram: Gram) -> Tensor:
    return gram.cosines


# Free of scale, or in the number of directions: of any Gram, also of outputs and factors.
DIRECTIONS: dict[str, Reading] = {
    "correlation_R": Reading("1", lambda gram: gram.correlation, interval=LEFT_OUT, by_norms=True),
    "mean_cosine": _of_pairs(_cosines),
    "median_cosine": _of_quantile(0.5),
    "cosine_quantile_05": _of_quantile(0.05),
    "share_negative_cosines": _share(lambda gram: gram.negative),
    "within_class_cosine": _of_pairs(_cosines, lambda gram: gram.same_class, ONE_CLASS),
    "between_class_cosine": _of_pairs(_cosines, lambda gram: gram.other_class, TWO_CLASSES),
    "sign_stiffness": _share(lambda gram: gram.plus, scale=2, shift=-1),
    "cosine_confusion": _alone("1", lambda gram: cosine_confusion(gram.products)),
    "stable_rank": _alone("directions", lambda gram: gram.stable_rank),
    "entropy_effective_rank": _alone("directions", lambda gram: entropy_effective_rank(gram.products)),
    "participation_ratio": _alone("directions", lambda gram: participation_ratio(gram.products)),
}
# Against white noise of the same shape, where the number of coordinates is known.
WHITE: dict[str, Reading] = {
    "white_stable_rank": Reading("directions", lambda gram: gram.baseline, needs=WIDTH),
    "relative_effective_rank": _alone("1", lambda gram: gram.stable_rank / gram.baseline.value, needs=WIDTH),
}
# What adding gradients up does, which only those of parameters do in training.
SUMS: dict[str, Reading] = {
    "gradient_confusion": _alone("squared gradient", lambda gram: gradient_confusion(gram.products)),
    "gradient_diversity": _of_R("1", gradient_diversity, gradient_diversity_of_R),
    "diversity_batch_bound": _of_R(
        "examples", diversity_batch_bound, lambda R, examples: examples * gradient_diversity_of_R(R, examples)
    ),
    "m_coherence": _of_R("examples", m_coherence, m_coherence_of_R),
    "squared_gradient": _of_sums("squared gradient", lambda sums: noise_scale_of_sums(sums).squared_gradient),
    "gradient_covariance_trace": _of_sums(
        "squared gradient", lambda sums: noise_scale_of_sums(sums).covariance_trace, positive=True
    ),
    "simple_noise_scale": _of_R(
        "examples",
        lambda products: noise_scale(products).simple,
        lambda R, _: simple_noise_scale_of_R(R),
        NOISE,
    ),
    "label_alignment": _alone("1", lambda gram: gram.aligned(kernel_alignment), FLAT, LABELS),
    "centred_label_alignment": _alone("1", lambda gram: gram.aligned(centred_kernel_alignment), FLAT, LABELS),
}
READ: dict[str, dict[str, Reading]] = {
    "parameter": DIRECTIONS | WHITE | SUMS,
    "output": DIRECTIONS | WHITE,
    "forward": DIRECTIONS,
    "backward": DIRECTIONS,
}
