"""The passes of one product: up with the tangents of values, down with those of cotangents."""

from collections import Counter
from collections.abc import Sequence

from torch import Tensor, empty

from gradscope.curvature.r_operator.linear import Linear
from gradscope.curvature.r_operator.reading import Reading
from gradscope.curvature.r_operator.sums import Into, Sums, is_own


class Plan:
    """Steps, and how long each tangent is needed.

    Args:
        reading: A graph whose rules have settled.
    """

    def __init__(self, reading: Reading) -> None:
        self.steps, self.shapes, self.leaves = reading.steps, reading.shapes, reading.leaves
        takers: Counter[int] = Counter()
        last: dict[int, int] = {}
        read: set[int] = set()
        for number, step in enumerate(self.steps):
            for place in step.operands:
                if place is not None:
                    takers[place] += 1
                    last[place] = number
                    if step.rule.bends:
                        read.add(place)
        # Of each step, the operands whose tangents nobody else looks at, then or later.
        self.sole = [
            [place is not None and takers[place] == 1 and place not in read for place in step.operands]
            for step in self.steps
        ]
        self.forgotten: list[list[int]] = [[] for _ in self.steps]
        for place, number in last.items():
            if place not in read:
                self.forgotten[number].append(place)
        self.views = self._views()
        self.bound = {place for place, _, _ in self.views}

    def _views(self) -> list[tuple[int, int, Linear]]:
        """Places that are parameters seen otherwise: (place, what it is a view of, how)."""
        memory = {place: empty(self.shapes[place]) for place in self.leaves.values()}
        found = []
        for step in self.steps:
            before = step.operands[0]
            if before not in memory or not (isinstance(step.rule, Linear) and step.rule.view):
                continue
            place = step.results[0]
            seen = step.rule.apply(memory[before])
            if seen.untyped_storage().data_ptr() == memory[before].untyped_storage().data_ptr():
                memory[place] = seen
                found.append((place, before, step.rule))
        return found

    def add_product(self, vector: Sequence[Tensor], totals: Sequence[Tensor]) -> None:
        """Add the Hessian times `vector` to `totals`, both by parameter."""
        tangents = self._up(vector)
        sums = Sums(self.shapes)
        for number, place in self.leaves.items():
            sums.bind(place, totals[number])
        for place, before, rule in self.views:
            sums.bind(place, rule.apply(sums.at(before)))
        self._down(tangents, sums)

    def _up(self, vector: Sequence[Tensor]) -> list[Tensor | None]:
        tangents: list[Tensor | None] = [None] * len(self.shapes)
        own = [False] * len(self.shapes)
        for number, place in self.leaves.items():
            tangents[place] = vector[number]
        for number, step in enumerate(self.steps):
            given = [None if place is None else tangents[place] for place in step.operands]
            spare = [
                sole and place is not None and own[place]
                for sole, place in zip(self.sole[number], step.operands, strict=True)
            ]
            made = step.rule.forward(given, spare)
            results = made if isinstance(made, tuple | list) else (made,)
            for place, tangent in zip(step.results, results, strict=False):
                tangents[place], own[place] = tangent, is_own(tangent, given, spare)
            for place in self.forgotten[number]:
                tangents[place] = None
        return tangents

    def _down(self, tangents: list[Tensor | None], sums: Sums) -> None:
        for step in reversed(self.steps):
            if step.results[0] in self.bound:
                continue
            rule = step.rule
            arrived = [sums.take(place) for place in step.results]
            moving = [tensor for tensor, _ in arrived]
            given: list[Tensor | None] = [None] * len(step.operands)
            if rule.bends:
                given = [None if place is None else tangents[place] for place in step.operands]
            if any(tensor is not None for tensor in (*moving, *given)):
                into = Into(sums, step.operands, spare=not rule.several and arrived[0][1])
                rule.backward(moving if rule.several else moving[0], given, into)
            for place in step.results:
                tangents[place] = None
