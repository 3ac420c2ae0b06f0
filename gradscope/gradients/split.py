"""One forward pass kept alive, whose gradient can be split by the residual branches it crosses."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gradscope.gradients.branches import Branch, Chosen, counted
from gradscope.gradients.engines.agreement import refuse_change
from gradscope.gradients.engines.choice import FEW, run
from gradscope.gradients.engines.graph import LiveGraph, Target
from gradscope.gradients.engines.order import place_of
from gradscope.gradients.engines.user_hooks import UserHooks
from gradscope.gradients.result import PathGradients
from gradscope.instruments.gates.polynomial import Gate, Powers
from gradscope.instruments.junctions import Edge, Junction, Trace
from gradscope.instruments.junctions.graph import Node

# What one batched backward, which cannot lift what is small, is trusted with in float32.
FLOAT32_LENGTHS = 30


class Paths:
    """One forward pass kept alive, whose backward can be split by path length as often as wanted.

    Attributes:
        loss: The scalar whose gradient is split.
        junctions: Those counted, in forward order.
        branches: Their branches, in the same order; those of one junction as its sum adds them up.
        carries: For each junction, the edges by which the gradient passes it without crossing a branch.
        longest: The number of junctions: no path crosses more branches.
        is_chain: Whether every path passes every junction, by its skip or by one of its branches.
        shape: Of the gradient (of the first parameter's, at the parameters).
    """

    def __init__(
        self,
        found: Trace,
        targets: tuple[Target, ...],
        at: str,
        chosen: Chosen = None,
        hooks: UserHooks | None = None,
    ) -> None:
        self.loss: Tensor = found.output
        self.at = at
        self.found = found
        junctions, branches, carries = counted(found, chosen)
        self.junctions: tuple[Junction, ...] = tuple(junctions)
        self.branches: tuple[Branch, ...] = tuple(branches)
        self.carries: tuple[tuple[Edge, ...], ...] = tuple(carries)
        self.longest = len(self.junctions)
        self.is_chain = found.is_chain and all(
            junction.outermost and found.on_every_way[junction.index] for junction in junctions
        )
        self.graph = LiveGraph(self.loss, targets, hooks)
        self.shape = targets[0].shape

    def backward(self) -> Any:
        """The ordinary gradient, [*shape] in float64; at the parameters, a dict.

        Raises:
            ValueError: It does not depend on the place asked for.
        """
        gradients = self.graph.ordinary
        if all(gradient is None for gradient in gradients):
            raise ValueError(
                f"What is differentiated does not depend on {self._place()}, so there is no gradient to split."
            )
        results = self.graph.empty()
        for result, gradient in zip(results, gradients, strict=True):
            if gradient is not None:
                result.copy_(gradient)
        return self._named(results)

    def graded(
        self,
        lengths: int | str = "all",
        *,
        signs: Tensor | Sequence[float] | None = None,
        longest: bool = False,
        engine: str = "auto",
    ) -> PathGradients:
        """The gradient by the number of branches crossed.

        Args:
            lengths: K, or `all`.
            signs: A factor for each branch, by which what crosses it is multiplied. Averaged over random signs, the
                squared norm of g_k is the sum of the squared norms of all paths of length k (Parseval).
            longest: The K+1 longest lengths, counted from the other end by delays on the skips (in float32 the engine
                `passes` takes all lengths for them, because it lifts numbers only between two passes).
            engine: As in `path_gradients`.

        Raises:
            ValueError: Out of range; `longest` where some path leads around a junction.
            RuntimeError: All lengths together are not the gradient.
        """
        highest = self._highest(lengths)
        factors = [1.0] * len(self.branches) if signs is None else [float(sign) for sign in signs]
        if len(factors) != len(self.branches):
            raise ValueError(f"signs has one number a branch, {len(self.branches)}, got {len(factors)}.")
        gates = {
            edge: Gate(None, 1.0, factor) if longest else Gate(0, 0.0, factor)
            for branch, factor in zip(self.branches, factors, strict=True)
            for edge in branch.edges
        }
        if longest:
            if not self.is_chain or self.at != "input":
                why = (
                    "some path here leads around a junction"
                    if self.at == "input"
                    else f"not at {self._place()}"
                )
                raise ValueError(
                    "The longest paths are counted by the skips they do not take, at the input of a network whose "
                    f"paths pass every junction; {why}. Take lengths='all'."
                )
            gates |= {edge: Gate(0) for edges in self.carries for edge in edges}
        gradient = self.backward()
        crossed = self.longest if longest else highest
        lifted = self._is_narrow and (engine != "vmap" or crossed > FLOAT32_LENGTHS)
        whole = highest == self.longest and signs is None
        # The longest paths vanish within one pass, in which only the walk lifts.
        few = 0 if lifted and longest else FEW
        results, name = self._run(
            gates, Powers((highest,)), lifted=lifted, whole=whole, engine=engine, few=few
        )
        found = [result[0].flip(0) if longest else result[0] for result in results]
        if lifted and longest and name == "passes":
            found = [self.graded(signs=signs, engine="passes").gradients[-highest - 1 :]]
        split = self._named(found)
        if whole:
            refuse_change(self.graph, found)
        first = self.longest - highest if longest else 0
        kept = range(first, first + highest + 1)
        return PathGradients(split, gradient, kept, self.junctions, self.loss.dtype, lifted, name)

    def by_variable(
        self, variables: Sequence[int | None], degrees: Sequence[int] | None = None, *, engine: str = "auto"
    ) -> Any:
        """The gradient by how many branches of each of several groups are crossed.

        Args:
            variables: For each branch the number of its group, from 0; None if it is not counted.
            degrees: The highest number of crossings kept for each group. None: all.

        Returns:
            [K_0+1, K_1+1, ..., *shape], float64. In float32 only the walk keeps long paths clear of underflow.

        Raises:
            ValueError: Groups that do not fit the branches or the degrees.
        """
        used = sorted({variable for variable in variables if variable is not None})
        if len(variables) != len(self.branches) or used != list(range(len(used))) or not used:
            raise ValueError(
                f"variables has one entry for each of {len(self.branches)} branches, a group number from 0 without "
                f"gaps or None, got {list(variables)}."
            )
        every = [
            len({b.junction.index for b, v in zip(self.branches, variables, strict=True) if v == group})
            for group in used
        ]
        wanted = every if degrees is None else list(degrees)
        if len(wanted) != len(every) or any(not 0 <= w <= e for w, e in zip(wanted, every, strict=True)):
            raise ValueError(f"degrees lie between 0 and {every}, one for each group, got {wanted}.")
        gates = {
            edge: Gate(variable)
            for branch, variable in zip(self.branches, variables, strict=True)
            if variable is not None
            for edge in branch.edges
        }
        lifted = self._is_narrow and engine != "vmap"
        results, _ = self._run(gates, Powers(tuple(wanted)), lifted=lifted, engine=engine)
        return self._named([result[0] for result in results])

    def moments(self, order: int = 1, *, engine: str = "auto") -> Any:
        """Binomial moments sum_k C(k, j) g_k for j = 0..order, [order+1, *shape], float64.

        By order+1 cotangents, however deep the network: the polynomial is expanded about t = 1 instead of 0. Each is
        a sum over paths of all lengths, which underflows only where the gradient itself does.

        Source:
            The expectation semiring: Eisner (2002); Li & Eisner (2009).
        """
        if order < 0:
            raise ValueError(f"order is at least 0, got {order}.")
        gates = {edge: Gate(0, 1.0) for branch in self.branches for edge in branch.edges}
        results, _ = self._run(gates, Powers((order,)), engine=engine)
        return self._named([result[0] for result in results])

    def gated(self, branches: Tensor, carries: Tensor | None = None, *, engine: str = "auto") -> Any:
        """M gradients, in each of which what crosses a branch, or a skip, is multiplied by a number.

        Args:
            branches: [M, branches]: random signs, zeros and ones that leave single paths, one zero that closes a block
                in the backward pass only.
            carries: [M, junctions], for the skips; None leaves them alone.

        Returns:
            [M, *shape], float64. In float32 only the walk keeps long single paths clear of underflow.

        Raises:
            ValueError: Another number of branches or junctions; `carries` where some path leads around a junction, for
                masks would not leave single paths there.
        """
        if branches.ndim != 2 or branches.shape[1] != len(self.branches):
            raise ValueError(
                f"branches is [M, {len(self.branches)}], one factor a branch, got {list(branches.shape)}."
            )
        if carries is not None and carries.shape != (len(branches), len(self.junctions)):
            raise ValueError(
                f"carries is [{len(branches)}, {len(self.junctions)}], one factor a junction, got "
                f"{list(carries.shape)}."
            )
        if carries is not None and not self.is_chain:
            raise ValueError(
                "Factors for the skips need a network whose paths pass every junction, but some path here leads around "
                "one. Leave carries out."
            )
        gates = {
            edge: Gate(None, 1.0, branches[:, number])
            for number, branch in enumerate(self.branches)
            for edge in branch.edges
        }
        if carries is not None:
            for number, edges in enumerate(self.carries):
                gates |= {edge: Gate(None, 1.0, carries[:, number]) for edge in edges}
        lifted = self._is_narrow and engine != "vmap"
        results, _ = self._run(gates, Powers((0,)), members=len(branches), lifted=lifted, engine=engine)
        return self._named([result[:, 0] for result in results])

    def _run(
        self,
        gates: Mapping[Edge, Gate],
        powers: Powers,
        members: int = 1,
        lifted: bool = False,
        whole: bool = False,
        engine: str = "auto",
        few: int = FEW,
    ) -> tuple[list[Tensor], str]:
        if not any(edge.node.next_functions[edge.slot][0] in self._leading for edge in gates):
            return self._untouched(powers, members)
        try:
            return run(self.graph, gates, powers, members, lifted=lifted, whole=whole, engine=engine, few=few)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise MemoryError(self._too_large(len(powers) * members)) from error
        except RuntimeError as error:
            if "can't allocate memory" in str(error) or "not enough memory" in str(error):
                raise MemoryError(self._too_large(len(powers) * members)) from error
            raise

    @cached_property
    def _is_narrow(self) -> bool:
        """Whether some numbers on the way are narrower than float64."""
        return self.graph.rounding > torch.finfo(torch.float64).eps

    @cached_property
    def _leading(self) -> set[Node]:
        """The values from which a way leads to the place of the gradient."""
        leading: set[Node] = {place_of(target)[0] for target in self.graph.targets}
        for node, operands in self.graph.operands.items():
            if any(operand in leading for operand, _ in operands):
                leading.add(node)
        return leading

    def _untouched(self, powers: Powers, members: int) -> tuple[list[Tensor], str]:
        """What gates leave that no way to the place meets, such as a site behind the last junction: the gradient."""
        results = self.graph.empty(members, *powers.shape)
        for result, gradient in zip(results, self.graph.ordinary, strict=True):
            if gradient is not None:
                result.flatten(1, len(powers.shape))[:, 0] = gradient.double()
        return results, "passes"

    def _too_large(self, coefficients: int) -> str:
        size = 8 * coefficients * sum(math.prod(target.shape) for target in self.graph.targets) / 2**30
        return (
            f"Out of memory: the result alone takes {size:.2g} GiB ({coefficients} coefficients in float64), and one "
            "cotangent is kept for each branch beside it. Take shorter lengths, or path_moments, which needs no single "
            "one; at the input also fewer examples, or engine='passes', which holds fewer cotangents at once."
        )

    def _highest(self, lengths: int | str) -> int:
        if lengths == "all":
            return self.longest
        if not isinstance(lengths, int) or isinstance(lengths, bool) or not 0 <= lengths <= self.longest:
            raise ValueError(
                f"lengths is 'all' or between 0 and {self.longest}, the longest path here, got {lengths!r}."
            )
        return lengths

    def _place(self) -> str:
        return {"input": "the input", "parameters": "any parameter"}.get(self.at, f"site {self.at}")

    def _named(self, results: list[Tensor]) -> Any:
        if self.at != "parameters":
            return results[0]
        return {target.name: result for target, result in zip(self.graph.targets, results, strict=True)}
