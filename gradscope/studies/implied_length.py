"""How long would the paths be by the sizes of the branches alone? One forward pass, nothing added inside of it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gradscope.instruments.junctions import Trace
from gradscope.instruments.junctions.calls import Plan, additions
from gradscope.problem import Problem, examples_in
from gradscope.studies.branch_gains import Block, Value, undefined

AROUND = "these junctions are not passed one after the other, so their polynomials do not multiply"


def implied_path_lengths(problem: Problem, found: Trace) -> tuple[Value, Value]:
    """Mean path length of the ensemble that measured branch gains imply, for coherent and for incoherent paths.

    With gains beta of n blocks in a row (root mean square of the branch operand over that of the skip operand, mean
    over examples), paths across k branches weigh e_k(beta_1 .. beta_n) if they add up, as Littwin and Wolf assume, and
    their squares e_k(beta_1^2 .. beta_n^2) if they are orthogonal. The mean lengths are sum beta / (1 + beta) and
    sum beta^2 / (1 + beta^2): `implied_path_length` of the coherent and `implied_path_length_of_squares` of the
    incoherent mixture in `effective_ensemble`. Gains of parallel branches of one block add, or their squares.

    Args:
        problem: Already prepared; its first batch passes the network once more, without gradients.
        found: A forward pass of the same problem. Its junctions of level 0 with one skip form the ensemble.

    Returns:
        In branches, n: blocks; NaN with a reason where there is no such block, blocks are not in a row or a gain is
        not known.

    Raises:
        RuntimeError: The pass took another way through the network than the one `found`.

    Source:
        Littwin and Wolf (2016), arXiv:1611.02525, for equal gains; unequal ones: Poisson-binomial mean.
    """
    chosen = [j for j in found.junctions if j.outermost and j.graded and j.skips and j.branches]
    unclear_one = next((j.name for j in chosen if len(j.skips) > 1), None)
    if unclear_one is not None:
        unclear = undefined(f"{unclear_one}: several operands are its skip, so its gain is no ratio of two")
        return unclear, unclear
    if not chosen:
        none = undefined("no junction of level 0 adds a branch to a skip, so there is no gain to measure")
        return none, none
    if not all(found.on_every_way[j.index] for j in chosen):
        return undefined(AROUND), undefined(AROUND)
    # Of the weights of batch normalisation nothing is asked.
    blocks = [
        Block(j, found.skip_edges[j.index][0], found.branch_edges[j.index], [None] * len(j.branches))
        for j in chosen
    ]
    _listen(problem, blocks)
    gains = [[block.gain(branch) for branch in range(len(block.branches))] for block in blocks]
    for block, several in zip(blocks, gains, strict=True):
        for gain in several:
            if math.isnan(gain.value):
                unknown = undefined(f"{block.junction.name}: {gain.reason}")
                return unknown, unknown
    coherent = [sum(gain.value for gain in several) for several in gains]
    squares = [sum(gain.value**2 for gain in several) for several in gains]
    return _mean_length(coherent), _mean_length(squares)


def _mean_length(odds: list[float]) -> Value:
    return Value(math.fsum(odd / (1 + odd) for odd in odds), n=len(odds))


def _listen(problem: Problem, blocks: list[Block]) -> None:
    """Let the first batch go by the operands; what they are like is worked out afterwards.

    Working it out adds tensors, which counters around this forward, such as those of gates, would take for the
    network's own additions.
    """
    kept: dict[tuple[int, int], Tensor] = {}

    def keeping(place: tuple[int, int]) -> Callable[[Tensor], Tensor]:
        def keep(tensor: Tensor) -> Tensor:
            # A copy: a sum in place would overwrite what was heard.
            kept[place] = tensor.detach().clone()
            return tensor

        return keep

    operands = {place: operand for block in blocks for place, operand in block.operands.items()}
    plan: Plan = {place: keeping(place) for place in operands}
    inputs, _ = problem.first_batch()
    with additions(problem.model, plan) as counter, torch.no_grad():
        problem.outputs(inputs)
    if counter.count != blocks[0].junction.additions:
        raise RuntimeError(
            f"The same batch made {type(problem.model).__name__} call {blocks[0].junction.additions} additions once "
            f"and {counter.count} the next time, so junctions cannot be told apart. Measure it in a mode in which "
            "every forward pass is alike."
        )
    for place, operand in operands.items():
        operand.listen(kept[place], examples_in(inputs))
