"""The gradient of any residual network, split exactly by the number of residual branches crossed."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradscope.instruments.gates.delay import delays
from gradscope.instruments.junctions import Edge, Junction, Trace, trace
from gradscope.problem import Problem, as_problem

FLOAT32_LENGTHS = 30


@dataclass(frozen=True)
class PathGradients:
    """Gradients by path length, and what they were measured on.

    Attributes:
        gradients: [K+1, *input.shape], float64: through 0..K branches; unsigned draws sum to `gradient`.
        gradient: The ordinary gradient at the input, float64.
        junctions: The junctions whose branches were counted.
        dtype: Precision of the backward passes.
    """

    gradients: Tensor
    gradient: Tensor
    junctions: tuple[Junction, ...]
    dtype: torch.dtype


def path_gradients(problem: Any, lengths: int | None = None) -> Tensor:
    """The loss gradient at the input through exactly k residual branches, for k = 0..K.

    A unit delay on every branch edge and K+1 backward passes on one retained graph: pass k emits g_k.
    Exact for any network whose residual additions are found, in any batch-normalisation mode; no
    sampling, no cancellation. Costs K+1 backward passes and one stored cotangent for each branch.

    Args:
        problem: Problem or (model, data); its first batch is used.
        lengths: Longest path K. None: all lengths, so that the sum over k is the gradient.

    Returns:
        [K+1, *input.shape], float64 (for integer inputs: of the first embedding's output). In units of
        loss over units of input.

    Raises:
        ValueError: The network has no residual addition with a branch, or `lengths` is out of range.

    Source:
        Veit et al. (2016), arXiv:1605.06431, section 3 for the unravelled view.
    """
    with open_paths(problem) as paths:
        return paths.graded(lengths).gradients


class Paths:
    """One forward pass kept alive, whose backward can be run by path length as often as wanted."""

    def __init__(self, loss: Tensor, found: Trace) -> None:
        graded = [
            (junction, branches, skips)
            for junction, branches, skips in zip(
                found.junctions, found.branch_edges, found.skip_edges, strict=True
            )
            if junction.level == 0 and junction.graded
        ]
        unseen = [j.name for j in found.junctions if j.level == 0 and not j.graded]
        if not graded:
            kinds = f" Additions of other kinds: {', '.join(unseen)}." if unseen else ""
            raise ValueError(
                f"No residual addition with a branch was found, so there are no path lengths.{kinds}"
            )
        self.loss = loss
        self.source = found.source
        self.junctions: tuple[Junction, ...] = tuple(junction for junction, _, _ in graded)
        self.edges: list[tuple[Edge, ...]] = [branches for _, branches, _ in graded]
        self.skip_edges: list[tuple[Edge, ...]] = [skips for _, _, skips in graded]
        self.branches = sum(len(edges) for edges in self.edges)
        self.longest = len(self.junctions)
        self.is_chain = found.is_chain

    def backward(self, seed: float = 1.0) -> Tensor:
        """The gradient at the source, for a cotangent of the loss."""
        cotangent = torch.full_like(self.loss, seed)
        return torch.autograd.grad(self.loss, self.source, cotangent, retain_graph=True)[0]

    def graded(self, lengths: int | None = None, signs: Tensor | None = None) -> PathGradients:
        """Gradients by path length; with `signs`, one a branch, each branch's cotangent is multiplied by its own.

        Averaged over random signs, the squared norm of the signed g_k is the sum of the squared norms
        of all paths of length k (Parseval).
        """
        longest = self.longest if lengths is None else lengths
        if not 0 <= longest <= self.longest:
            raise ValueError(
                f"lengths is between 0 and {self.longest}, the longest path here, got {lengths}."
            )
        # A power of two leaves the digits alone and keeps long paths clear of underflow.
        scale = 2.0 if self.loss.dtype is torch.float32 and longest > FLOAT32_LENGTHS else 1.0
        factors = [scale] * self.branches if signs is None else (scale * signs.double()).tolist()
        one_by_one = [(edge,) for edges in self.edges for edge in edges]
        gradients = torch.empty(
            (longest + 1, *self.source.shape), dtype=torch.float64, device=self.source.device
        )
        with delays(one_by_one, factors) as line:
            for k in range(longest + 1):
                gradients[k] = self.backward(1.0 if k == 0 else 0.0).double() / scale**k
        if not line.crossed:
            raise RuntimeError(
                "No gradient met a delay, so the split would be wrong. Please report this model."
            )
        return PathGradients(gradients, self.backward().double(), self.junctions, self.loss.dtype)


@contextmanager
def open_paths(problem: Any, precision: torch.dtype | None = None) -> Iterator[Paths]:
    """Forward the first batch once and hold its graph; the model is as found afterwards.

    Args:
        problem: Problem or (model, data).
        precision: float64 measures a copy of the model in that precision. None: the model's own.

    Raises:
        ValueError: No graded junction, or batch normalisation in `own` mode.
    """
    problem = as_problem(problem)
    if problem.batch_norm_name == "own":
        raise ValueError(
            "batch_norm='own' takes one backward pass for each example; path lengths are those of the whole batch's "
            "gradient. Use batch_norm='train' (differentiated through) or 'frozen'."
        )
    if precision is not None and precision is not problem.dtype:
        problem = _converted(problem, precision)
    with problem.prepared():
        inputs, targets = problem.first_batch()
        found = trace(problem.model, lambda placed: problem.value(placed, targets), inputs)
        yield Paths(found.output, found)


def _converted(problem: Problem, precision: torch.dtype) -> Problem:
    converted = copy.copy(problem)
    converted.model = copy.deepcopy(problem.model).to(precision)
    return converted
