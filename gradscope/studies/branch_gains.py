"""What the operands of residual additions are like, heard while batches go by: sizes, scales, open shares."""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from gradscope.instruments.junctions import Edge, Junction
from gradscope.instruments.junctions.calls import Plan, additions
from gradscope.instruments.junctions.operand_factors import operand_factor
from gradscope.measures.ensemble import ChannelVariance, open_share, relative_size, root_mean_square
from gradscope.problem import Problem, examples_in
from gradscope.progress import progress


class Value(NamedTuple):
    """A number of a result row, with its interval; NaN with a reason where it is undefined."""

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 1
    reason: str = ""


def undefined(reason: str) -> Value:
    return Value(math.nan, n=0, reason=reason)


FUSED = "the operation multiplies before it adds, or writes into a view, so its operand is not what is added"


class Operand:
    """What is kept of one operand of one addition over all batches: numbers, for it may be overwritten."""

    def __init__(self, edge: Edge) -> None:
        self.factor = _factor(edge)
        self.by_example = True
        self.sizes: list[Tensor] = []
        self.examples: list[int] = []
        self.spread: ChannelVariance | None = ChannelVariance()
        self.open_shares: list[float] = []

    def listen(self, operand: Tensor, examples: int) -> None:
        """Note one batch's operand, [examples, ...]; where its rows are not examples, as one row."""
        by_example = operand.ndim > 0 and len(operand) == examples
        self.by_example &= by_example
        rows = operand if by_example else operand[None]
        self.examples.append(examples)
        # Additions made here are none of the network's, which gates around this forward count.
        with torch._C.DisableTorchFunction():
            self.sizes.append((self.factor or 0.0) * root_mean_square(rows).cpu())
            self._spread(rows)
            self.open_shares.append(float(open_share(rows)))

    def _spread(self, rows: Tensor) -> None:
        """Take in one batch's channels; rows without channels, or with other ones than before, have no spread."""
        known = 0 if self.spread is None else len(self.spread.means)
        if rows.ndim < 2 or (known and rows.shape[1] != known):
            self.spread = None
        if self.spread is not None:
            self.spread.add(rows)

    def mean(self, of_batches: Sequence[float]) -> float:
        """Over examples, of a number that each batch has one of."""
        total = math.fsum(n * value for n, value in zip(self.examples, of_batches, strict=True))
        return total / sum(self.examples)


class Block:
    """One junction with a skip: its operands, and the batch-norm weight of each branch."""

    def __init__(
        self, junction: Junction, skip: Edge, branches: Sequence[Edge], weights: Sequence[Tensor | None]
    ) -> None:
        self.junction = junction
        self.skip = Operand(skip)
        self.branches = [Operand(edge) for edge in branches]
        self.weights = [
            None if weight is None else weight.detach().double().abs().cpu() for weight in weights
        ]

    @property
    def operands(self) -> dict[tuple[int, int], Operand]:
        """By number of the addition and slot."""
        branches = dict(zip(self.junction.branches, self.branches, strict=True))
        return {self.junction.skips[0]: self.skip} | branches

    def gain(self, branch: int) -> Value:
        """Size of the branch over size of the skip: mean over examples, Student-t 95 %."""
        operand = self.branches[branch]
        if operand.factor is None or self.skip.factor is None:
            return undefined(FUSED)
        sizes, skips = torch.cat(operand.sizes), torch.cat(self.skip.sizes)
        if len(sizes) != len(skips) or not bool(torch.isfinite(torch.cat([sizes, skips])).all()):
            return undefined("an operand holds NaN or infinity, or not as many rows as the other one")
        ratios = relative_size(sizes, skips)
        n = len(ratios)
        if bool(ratios.isnan().any()):
            return undefined("the skip of some example is exactly zero")
        mean = float(ratios.mean())
        if n < 2:
            return Value(mean, n=n, reason="one ratio gives no interval")
        from scipy.stats import t

        half = float(t.ppf(0.975, n - 1)) * float(ratios.std()) / math.sqrt(n)
        by_example = operand.by_example and self.skip.by_example
        reason = "" if by_example else "rows of an operand are not examples, so there is one ratio a batch"
        return Value(mean, max(0.0, mean - half), mean + half, n, reason)

    def stream_scale(self) -> Value:
        """Standard deviation of the skip operand within a channel over all batches, root mean square over channels."""
        if self.skip.factor is None:
            return undefined(FUSED)
        if not self.skip.by_example:
            return undefined("rows of the skip operand are not examples")
        if self.skip.spread is None:
            return undefined("the skip operand has no channels, or another number of them in another batch")
        if self.skip.spread.entries < 2:
            return undefined("one entry a channel has no spread")
        scale = self.skip.factor * math.sqrt(self.skip.spread.variance())
        if not math.isfinite(scale):
            return undefined("the skip operand holds NaN or infinity")
        return Value(scale, n=sum(self.skip.examples))

    def open_share(self, branch: int) -> Value:
        operand = self.branches[branch]
        return Value(operand.mean(operand.open_shares), n=sum(operand.examples))

    def batch_norm_scale(self, branch: int) -> tuple[Value, Value]:
        """Mean and standard deviation over channels of the absolute weight."""
        weight = self.weights[branch]
        if weight is None:
            none = undefined("no batch-norm layer with a weight on every way through the branch")
            return none, none
        n = len(weight)
        return Value(float(weight.mean()), n=n), Value(float(weight.std(correction=0)), n=n)

    def batch_norm_beta(self, branch: int) -> Value:
        """Open share times batch-norm scale over stream scale: rho lambda / sigma."""
        scale, stream = self.batch_norm_scale(branch)[0], self.stream_scale()
        reason = scale.reason or stream.reason or ("" if stream.value > 0 else "the stream does not vary")
        if reason:
            return undefined(reason)
        return Value(self.open_share(branch).value * scale.value / stream.value, n=stream.n)


def listen(problem: Problem, blocks: Sequence[Block], show: bool | None) -> None:
    """Let all batches go by the operands of `blocks`, without gradients.

    Raises:
        RuntimeError: A batch took another way through the network than the one the junctions were found on.
    """
    operands = {edge: operand for block in blocks for edge, operand in block.operands.items()}
    expected = blocks[0].junction.additions
    examples = 0

    def heard_by(operand: Operand, tensor: Tensor) -> Tensor:
        operand.listen(tensor, examples)
        return tensor

    plan: Plan = {edge: partial(heard_by, operand) for edge, operand in operands.items()}
    with (
        progress("effective ensemble", problem.examples, show=show) as advance,
        additions(problem.model, plan) as counter,
        torch.no_grad(),
    ):
        for inputs, _ in problem.batches():
            examples = examples_in(inputs)
            problem.outputs(inputs)
            if counter.count != expected:
                raise RuntimeError(
                    f"One batch made {type(problem.model).__name__} call {counter.count} additions and the first one "
                    f"{expected}, so junctions cannot be told apart. Pass batches that take the same way."
                )
            advance(examples)


def _factor(edge: Edge) -> float | None:
    """By how much the addition at an edge multiplies its operand, without sign; None where that is not one number."""
    factor = operand_factor(edge.node, edge.slot)
    return None if factor is None or isinstance(factor, Tensor) else abs(factor)
