"""The passes a refinement study makes over one batch, and what it reads off each."""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from gradscope.instruments.gates import lesion
from gradscope.instruments.junctions import Junction
from gradscope.instruments.junctions.calls import additions
from gradscope.instruments.junctions.source import source_of
from gradscope.instruments.stages import Stages, stages_of
from gradscope.instruments.streams import Stream, streams
from gradscope.measures import refinement as measure
from gradscope.problem import Problem, examples_in
from gradscope.studies.refinement.ledger import ERRORS, LENSES, LESIONS, Ledger
from gradscope.studies.refinement.logit_lens import Lens, class_hits, lens_fits, own_lens, token_weights
from gradscope.studies.tokens import are_tokens, at_last_token, token_means, without_padding

GRADIENTS = ("cosine_with_loss_gradient", "first_order_lesion", "first_order_ratio")
Advance = Callable[[int], None]
_SHAPE = "the block changes the shape or projects, so its input and output have no angle"
_UNKNOWN = "what the last block of this stage hands on cannot be told"
_BYPASSED = "the output depends on more than the last sum, or the last sum cannot be replaced"


class RefinementPasses:
    """Takes in one batch after the other.

    Args:
        problem: Its model is in eval mode.
        junctions: All that stages are made of, in forward order.
        chosen: Names of those among them that are reported, at least one.
        wanted: Quantities by name.
        output_shape: Of the network's output on the first batch.
        passed: Names of the junctions that every way to the output passes.
        lens: In place of the network's own last part.

    Attributes:
        number: Forward passes over the data, at most; all of them are reported to `advance`.
    """

    def __init__(
        self,
        problem: Problem,
        junctions: list[Junction],
        chosen: Collection[str],
        wanted: Sequence[str],
        *,
        output_shape: tuple[int, ...],
        passed: Collection[str],
        lens: Lens | None,
    ) -> None:
        self.problem = problem
        self.junctions = junctions
        self.chosen = chosen
        self.wanted = wanted
        self.output_shape = output_shape
        self.passed = passed
        self.lens = lens
        self.places: list[int] = []
        self.tokens: list[bool] = []
        self.lesions = not set(LESIONS).isdisjoint(wanted)
        self.lenses = not set(LENSES).isdisjoint(wanted)
        self.slopes = not set(GRADIENTS).isdisjoint(wanted)
        self.number = 1 + len(chosen) * self.lesions + (len(chosen) + 1) * self.lenses
        self.ledger: Ledger | None = None

    def take_in(self, inputs: Any, targets: Tensor | None, advance: Advance) -> None:
        """Run and read everything on one batch."""
        heard, gradients = self._listened(inputs, targets)
        examples = examples_in(inputs)
        for stream in list(heard):
            if len(stream.total) == examples:
                continue
            if self.ledger is None and stream.junction.name not in self.chosen:
                heard.remove(stream)
                continue
            raise ValueError(
                f"The sum at {stream.junction.name} has shape {list(stream.total.shape)}, but the batch has "
                f"{examples} examples, which the first axis has to count. Leave it out of junctions=."
            )
        if self.ledger is None:
            self.junctions = [stream.junction for stream in heard]
            self.places = [place for place, j in enumerate(self.junctions) if j.name in self.chosen]
            self.tokens = [are_tokens(stream.total, inputs, self.output_shape) for stream in heard]
            self.ledger = Ledger(self.junctions, stages_of(heard), self.problem.examples)
        for stream in heard:
            # The passes to come should not find the graph of this one in memory.
            stream.skip_edge = stream.total_edge = stream.after_edge = stream.input_edge = None
        advance(examples)
        self._sizes(heard, inputs)
        self._states(heard, inputs)
        if self.slopes:
            self._slopes(heard, gradients, inputs)
        if self.lesions:
            self._lesions(heard, gradients, inputs, targets, advance)
        if self.lenses:
            looks = self._lenses(heard, inputs, targets, advance)
            advance(examples * (len(self.chosen) + 1 - looks))

    def rows(self) -> list[dict[str, Any]]:
        return [] if self.ledger is None else self.ledger.rows(self.wanted)

    def _listened(
        self, inputs: Any, targets: Tensor | None
    ) -> tuple[list[Stream], dict[str, tuple[Tensor, Tensor]]]:
        """One forward; by name the gradients of the summed loss at the place of the cosine and at the sum."""
        model = self.problem.model
        with (
            torch.enable_grad(),
            streams(model, self.junctions) as heard,
            source_of(model, inputs) as (placed, _),
        ):
            if not self.slopes:
                self.problem.outputs(placed)
                return heard, {}
            loss = self.problem.losses(placed, targets).sum()
        asked = [stream for stream in heard if stream.junction.name in self.chosen]
        edges = [
            edge
            for stream in asked
            for edge in (
                stream.input_edge if stream.junction.kind == "identity" else stream.total_edge,
                stream.total_edge,
            )
        ]
        known = [edge for edge in edges if edge is not None]
        slopes = iter(torch.autograd.grad(loss, known, allow_unused=True))
        filled = [next(slopes) if edge is not None else None for edge in edges]
        sums = [stream.total for stream in asked for _ in range(2)]
        whole = [torch.zeros_like(s) if g is None else g for g, s in zip(filled, sums, strict=True)]
        names = [stream.junction.name for stream in asked]
        return heard, dict(zip(names, zip(whole[::2], whole[1::2], strict=True), strict=True))

    @property
    def _stages(self) -> Stages:
        return self._kept.stages

    @property
    def _kept(self) -> Ledger:
        if self.ledger is None:
            raise RuntimeError("No batch was taken in yet.")
        return self.ledger

    def _seen(self, state: Tensor, place: int) -> Tensor:
        """A state as it is read: [N, T, D] of tokens as it is, [N, C, L] of channels flattened."""
        return state.flatten(start_dim=1) if state.ndim == 3 and not self.tokens[place] else state

    def _sizes(self, heard: Sequence[Stream], inputs: Any) -> None:
        for place in self.places:
            branch, base = (
                without_padding(self._seen(tensor, place), inputs)
                for tensor in (heard[place].branch, heard[place].base)
            )
            self._kept.add("branch_norm", place, measure.row_norms(branch))
            self._kept.add("stream_norm", place, measure.row_norms(base))
            self._kept.add("l2_ratio", place, measure.norm_ratio(branch, base))

    def _states(self, heard: Sequence[Stream], inputs: Any) -> None:
        stages = self._stages
        behind = []
        for place in range(len(heard)):
            state = stages.output(heard, place)
            behind.append(None if state is None else self._seen(state, place))
        for place in self.places:
            stream, state = heard[place], behind[place]
            if stream.junction.kind != "identity" or state is None:
                reason = _UNKNOWN if stream.junction.kind == "identity" else _SHAPE
                self._kept.blank("block_influence", place, reason)
                continue
            weights = token_weights(inputs, state.shape[:2]) if self.tokens[place] else None
            before = self._seen(stream.skip, place)
            self._kept.add("block_influence", place, measure.block_influence(before, state, weights))
        for stage in sorted({stages.stage[place] for place in self.places}):
            members = stages.members(stage)
            if not set(ERRORS).isdisjoint(self.wanted):
                self._errors(members, behind, inputs)
            if "angular_distance" in self.wanted:
                self._angles(members, heard, behind, inputs)

    def _errors(self, members: Sequence[int], behind: Sequence[Tensor | None], inputs: Any) -> None:
        last = behind[members[-1]]
        for place in self._reported(members):
            state = behind[place]
            if last is None or state is None:
                for quantity in ERRORS:
                    self._kept.blank(quantity, place, _UNKNOWN)
                continue
            difference = state.double() - last.double()
            means = token_means(difference, inputs) if self.tokens[place] else difference
            self._kept.differences[place].add(means)

    def _angles(
        self, members: Sequence[int], heard: Sequence[Stream], behind: Sequence[Tensor | None], inputs: Any
    ) -> None:
        first = heard[members[0]]
        entering = self._seen(first.skip, members[0]) if first.junction.kind == "identity" else None
        # Between the blocks of a stage there is one state more than blocks.
        between = [entering, *(behind[place] for place in members)]
        reported = self._reported(members)
        ends = {members.index(place) + step for place in reported for step in (0, 1)}
        states = {end: state for end in sorted(ends) if (state := between[end]) is not None}
        if len(states) < 2:
            return
        last_only = len(self.output_shape) == 3 and self.tokens[members[0]]
        read = at_last_token if last_only else without_padding
        angles = measure.angular_distances([read(state, inputs) for state in states.values()])
        for (row, start), (column, end) in combinations(enumerate(states), 2):
            if members[start] in reported and members[end - 1] in reported:
                self._kept.add("angular_distance", members[start], angles[:, row, column], members[end - 1])

    def _reported(self, members: Sequence[int]) -> list[int]:
        return [place for place in members if place in self.places]

    def _slopes(
        self, heard: Sequence[Stream], gradients: Mapping[str, tuple[Tensor, Tensor]], inputs: Any
    ) -> None:
        for place in self.places:
            stream = heard[place]
            at_input, at_sum = gradients[stream.junction.name]
            branch, slope = (
                without_padding(self._seen(tensor, place), inputs) for tensor in (stream.branch, at_input)
            )
            self._kept.add("cosine_with_loss_gradient", place, measure.row_cosines(branch, slope))
            change = measure.first_order_change(stream.branch, at_sum)
            self._kept.add("first_order_lesion", place, change)

    def _lesions(
        self,
        heard: Sequence[Stream],
        gradients: Mapping[str, tuple[Tensor, Tensor]],
        inputs: Any,
        targets: Tensor | None,
        advance: Advance,
    ) -> None:
        # Additions are watched here too: torch takes another route through fused attention when they are.
        with torch.no_grad(), additions(self.problem.model):
            intact = self.problem.losses(inputs, targets)
        for place in self.places:
            junction, stream = self.junctions[place], heard[place]
            with torch.no_grad(), lesion(self.problem.model, junction):
                change = self.problem.losses(inputs, targets) - intact
            self._kept.add("lesion_loss_change", place, change)
            if gradients:
                predicted = measure.first_order_change(stream.branch, gradients[junction.name][1])
                self._kept.add_ratio("first_order_ratio", place, predicted, change)
            advance(len(change))

    def _lenses(self, heard: Sequence[Stream], inputs: Any, targets: Tensor | None, advance: Advance) -> int:
        """Read the answer off every state of the last stage; how many there are."""
        members = self._stages.members(self._stages.last)
        reported = self._reported(members)
        if not reported:
            return 0
        wanted = [quantity for quantity in LENSES if quantity in self.wanted]
        last = members[-1]
        with torch.no_grad(), additions(self.problem.model):
            output = self.problem.outputs(inputs)
        lens = own_lens(self.problem, inputs, self.junctions[last]) if self.lens is None else self.lens
        narrow = self.junctions[last].name in self.passed
        if self.lens is None and not (narrow and lens_fits(lens, heard[last].total, output)):
            for quantity in wanted:
                for place in reported:
                    self._kept.blank(quantity, place, _BYPASSED)
            return 0
        first = heard[members[0]]
        entering = first.junction.kind == "identity" and members[0] in reported
        states = {members[0] - 1: first.skip} if entering else {}
        states |= {place: heard[place].total for place in reported}
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
