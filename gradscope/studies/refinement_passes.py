"""The passes a refinement study makes over one batch, and what it reads off each."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from gradscope.instruments.calls import additions
from gradscope.instruments.gates import lesion
from gradscope.instruments.junctions import Junction
from gradscope.instruments.source import source_of
from gradscope.instruments.stages import Stages, stages_of
from gradscope.instruments.streams import Stream, streams
from gradscope.measures import refinement as measure
from gradscope.problem import Problem, examples_in
from gradscope.studies.logit_lens import Lens, class_hits, lens_fits, own_lens, token_weights
from gradscope.studies.refinement_ledger import ERRORS, LENSES, LESIONS, Ledger

GRADIENTS = ("cosine_with_loss_gradient", "first_order_lesion", "first_order_ratio")
Advance = Callable[[int], None]
_SHAPE = "the block changes the shape or projects, so its input and output have no angle"
_UNKNOWN = "what the last block of this stage hands on cannot be told"
_BYPASSED = "the output depends on more than the last sum, or the last sum cannot be replaced"


class RefinementPasses:
    """Takes in one batch after the other.

    Args:
        problem: Its model is in eval mode.
        junctions: In forward order, at least one.
        wanted: Quantities by name.
        sequence: Whether the output is that of a language model, [N, T, classes].
        narrow: Whether every way to the output passes the last junction.
        lens: In place of the network's own last part.

    Attributes:
        number: Forward passes over the data, at most; all of them are reported to `advance`.
    """

    def __init__(
        self,
        problem: Problem,
        junctions: list[Junction],
        wanted: Sequence[str],
        *,
        sequence: bool,
        narrow: bool,
        lens: Lens | None,
    ) -> None:
        self.problem = problem
        self.junctions = junctions
        self.wanted = wanted
        self.sequence = sequence
        self.narrow = narrow
        self.lens = lens
        self.lesions = not set(LESIONS).isdisjoint(wanted)
        self.lenses = not set(LENSES).isdisjoint(wanted)
        self.slopes = not set(GRADIENTS).isdisjoint(wanted)
        self.number = 1 + len(junctions) * self.lesions + (len(junctions) + 1) * self.lenses
        self.ledger: Ledger | None = None

    def take_in(self, inputs: Any, targets: Tensor | None, advance: Advance) -> None:
        """Run and read everything on one batch."""
        heard, gradients = self._listened(inputs, targets)
        examples = examples_in(inputs)
        for stream in heard:
            if len(stream.total) != examples:
                raise ValueError(
                    f"The sum at {stream.junction.name} has shape {list(stream.total.shape)}, but the batch has "
                    f"{examples} examples, which the first axis has to count. Leave it out of junctions=."
                )
        if self.ledger is None:
            self.ledger = Ledger(self.junctions, stages_of(heard), self.problem.examples)
        for stream in heard:
            # The passes to come should not find the graph of this one in memory.
            stream.skip_edge = stream.total_edge = None
        advance(examples)
        self._sizes(heard, inputs)
        self._states(heard, inputs)
        if self.slopes:
            self._slopes(heard, gradients, inputs)
        if self.lesions:
            self._lesions(heard, gradients, inputs, targets, advance)
        if self.lenses:
            looks = self._lenses(heard, inputs, targets, advance)
            advance(examples * (len(heard) + 1 - looks))

    def rows(self) -> list[dict[str, Any]]:
        return [] if self.ledger is None else self.ledger.rows(self.wanted)

    def _listened(self, inputs: Any, targets: Tensor | None) -> tuple[list[Stream], list[list[Tensor]]]:
        """One forward; per junction the gradients of the summed loss at the place of the cosine and at the sum."""
        model = self.problem.model
        with (
            torch.enable_grad(),
            streams(model, self.junctions) as heard,
            source_of(model, inputs) as (placed, _),
        ):
            if not self.slopes:
                self.problem.outputs(placed)
                return heard, []
            loss = self.problem.losses(placed, targets).sum()
        edges = [
            edge
            for stream in heard
            for edge in (
                stream.skip_edge if stream.junction.kind == "identity" else stream.total_edge,
                stream.total_edge,
            )
        ]
        known = [edge for edge in edges if edge is not None]
        slopes = iter(torch.autograd.grad(loss, known, allow_unused=True))
        filled = [next(slopes) if edge is not None else None for edge in edges]
        sums = [stream.total for stream in heard for _ in range(2)]
        whole = [torch.zeros_like(s) if g is None else g for g, s in zip(filled, sums, strict=True)]
        return heard, [whole[place : place + 2] for place in range(0, len(whole), 2)]

    @property
    def _stages(self) -> Stages:
        return self._kept.stages

    @property
    def _kept(self) -> Ledger:
        if self.ledger is None:
            raise RuntimeError("No batch was taken in yet.")
        return self.ledger

    def _sizes(self, heard: Sequence[Stream], inputs: Any) -> None:
        for place, stream in enumerate(heard):
            branch, skip = (_without_padding(tensor, inputs) for tensor in (stream.branch, stream.skip))
            self._kept.add("branch_norm", place, measure.row_norms(branch))
            self._kept.add("stream_norm", place, measure.row_norms(skip))
            self._kept.add("l2_ratio", place, measure.norm_ratio(branch, skip))

    def _states(self, heard: Sequence[Stream], inputs: Any) -> None:
        stages = self._stages
        behind = [stages.output(heard, place) for place in range(len(heard))]
        for place, (stream, state) in enumerate(zip(heard, behind, strict=True)):
            if stream.junction.kind != "identity" or state is None:
                reason = _UNKNOWN if stream.junction.kind == "identity" else _SHAPE
                self._kept.blank("block_influence", place, reason)
                continue
            weights = token_weights(inputs, state.shape[:2])
            self._kept.add("block_influence", place, measure.block_influence(stream.skip, state, weights))
        for stage in range(stages.stage[-1] + 1):
            members = stages.members(stage)
            if not set(ERRORS).isdisjoint(self.wanted):
                self._errors(members, behind, inputs)
            if "angular_distance" in self.wanted:
                self._angles(members, heard, behind, inputs)

    def _errors(self, members: Sequence[int], behind: Sequence[Tensor | None], inputs: Any) -> None:
        last = behind[members[-1]]
        for place in members:
            state = behind[place]
            if last is None or state is None:
                for quantity in ERRORS:
                    self._kept.blank(quantity, place, _UNKNOWN)
            else:
                self._kept.differences[place].add(_unit_means(state.double() - last.double(), inputs))

    def _angles(
        self, members: Sequence[int], heard: Sequence[Stream], behind: Sequence[Tensor | None], inputs: Any
    ) -> None:
        first = heard[members[0]]
        states = {members[0] - 1: first.skip} if first.junction.kind == "identity" else {}
        states |= {place: state for place in members if (state := behind[place]) is not None}
        if len(states) < 2:
            return
        seen = [self._at_last_token(state, inputs) for state in states.values()]
        angles = measure.angular_distances(seen)
        for (row, before), (column, after) in combinations(enumerate(states), 2):
            self._kept.add("angular_distance", before + 1, angles[:, row, column], after)

    def _at_last_token(self, state: Tensor, inputs: Any) -> Tensor:
        if not self.sequence or state.ndim != 3:
            return _without_padding(state, inputs)
        weights = token_weights(inputs, state.shape[:2])
        if weights is None:
            return state[:, -1]
        steps = torch.arange(state.shape[1], device=state.device)
        last = torch.where(weights > 0, steps, 0).amax(dim=1)
        return state[torch.arange(len(state), device=state.device), last]

    def _slopes(self, heard: Sequence[Stream], gradients: Sequence[Sequence[Tensor]], inputs: Any) -> None:
        for place, (stream, (at_input, at_sum)) in enumerate(zip(heard, gradients, strict=True)):
            branch, slope = (_without_padding(tensor, inputs) for tensor in (stream.branch, at_input))
            self._kept.add("cosine_with_loss_gradient", place, measure.row_cosines(branch, slope))
            change = measure.first_order_change(stream.branch, at_sum)
            self._kept.add("first_order_lesion", place, change)

    def _lesions(
        self,
        heard: Sequence[Stream],
        gradients: Sequence[Sequence[Tensor]],
        inputs: Any,
        targets: Tensor | None,
        advance: Advance,
    ) -> None:
        # Additions are watched here too: torch takes another route through fused attention when they are.
        with torch.no_grad(), additions(self.problem.model):
            intact = self.problem.losses(inputs, targets)
        for place, (junction, stream) in enumerate(zip(self.junctions, heard, strict=True)):
            with torch.no_grad(), lesion(self.problem.model, junction):
                change = self.problem.losses(inputs, targets) - intact
            self._kept.add("lesion_loss_change", place, change)
            if gradients:
                predicted = measure.first_order_change(stream.branch, gradients[place][1])
                self._kept.add_ratio("first_order_ratio", place, predicted, change)
            advance(len(change))

    def _lenses(self, heard: Sequence[Stream], inputs: Any, targets: Tensor | None, advance: Advance) -> int:
        """Read the answer off every state of the last stage; how many there are."""
        members = self._stages.members(self._stages.stage[-1])
        wanted = [quantity for quantity in LENSES if quantity in self.wanted]
        with torch.no_grad(), additions(self.problem.model):
            output = self.problem.outputs(inputs)
        lens = own_lens(self.problem, inputs, self.junctions[-1]) if self.lens is None else self.lens
        if self.lens is None and not (self.narrow and lens_fits(lens, heard[-1].total, output)):
            for quantity in wanted:
                for place in members:
                    self._kept.blank(quantity, place, _BYPASSED)
            return 0
        first = heard[members[0]]
        states = {members[0] - 1: first.skip} if first.junction.kind == "identity" else {}
        states |= {place: heard[place].total for place in members}
        for place, state in states.items():
            with torch.no_grad():
                seen = lens(state)
            self._answers(place, seen, output, inputs, targets)
            advance(examples_in(inputs))
        return len(states)

    def _answers(self, place: int, seen: Tensor, output: Tensor, inputs: Any, targets: Tensor | None) -> None:
        ledger = self._kept
        if targets is not None and "lens_loss" in self.wanted:
            ledger.add("lens_loss", place, self.problem.loss(seen, targets))
        hits = class_hits(seen, targets)
        if hits is None:
            ledger.blank("early_exit_accuracy", place, "the targets are not one class per example")
        else:
            ledger.add("early_exit_accuracy", place, hits)
        if seen.shape != output.shape or output.ndim < 2 or output.shape[-1] < 2:
            for quantity in ("lens_kl_to_output", "lens_agreement"):
                ledger.blank(quantity, place, "the outputs are not logits of classes")
            return
        weights = token_weights(inputs, output.shape[:2])
        ledger.add("lens_kl_to_output", place, measure.divergence(output, seen, weights))
        ledger.add("lens_agreement", place, measure.agreement(output, seen, weights))


def _without_padding(state: Tensor, inputs: Any) -> Tensor:
    """A state [N, T, D] with zeros where the attention mask says padding; others as they are."""
    weights = token_weights(inputs, state.shape[:2]) if state.ndim == 3 else None
    return state if weights is None else state * (weights > 0).unsqueeze(-1)


def _unit_means(states: Tensor, inputs: Any) -> Tensor:
    """[N, T, D] averaged over tokens that count, [N, D]; others as they are."""
    if states.ndim != 3:
        return states
    weights = token_weights(inputs, states.shape[:2])
    if weights is None:
        return states.mean(dim=1)
    return (states * weights.unsqueeze(-1)).sum(dim=1) / weights.sum(dim=1, keepdim=True)
