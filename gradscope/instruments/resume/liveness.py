"""Which calls of a recorded forward pass are still needed when some of its values are given or closed."""

from collections.abc import Collection, Sequence

from gradscope.instruments.junctions.junction import Junction
from gradscope.instruments.resume.record import ModuleCall, Record


class Liveness:
    """Backwards through a recorded pass: a call is needed if something needed later reads what it writes.

    Storages are taken as a whole and never forgotten while anything may still read them, so a call that is
    not needed really is not, provided that torch saw every reader.

    Attributes:
        gated: For each junction, its branches' operands, as storages by the place of the call that adds them.
        unused: Calls with new results that nobody needs in the intact pass.
    """

    def __init__(self, record: Record, junctions: Sequence[Junction]) -> None:
        self.record = record
        self.gated: list[dict[int, frozenset[int]]] = []
        for junction in junctions:
            calls: dict[int, frozenset[int]] = {}
            for number, slot in junction.branches:
                place = record.numbered[number]
                calls[place] = calls.get(place, frozenset()) | {record.operands[number, slot]}
            self.gated.append(calls)
        # What is read just before each call, in the intact pass.
        self._intact: list[frozenset[int]] = [frozenset()] * (len(record.calls) + 1)
        self._needed = bytearray(len(record.calls))
        live = set(record.outputs)
        self._intact[len(record.calls)] = frozenset(live)
        for place in reversed(range(len(record.calls))):
            self._needed[place] = self._step(place, live, frozenset())
            unchanged = self._intact[place + 1]
            self._intact[place] = unchanged if live == unchanged else frozenset(live)
        self.unused = frozenset(
            place
            for place, call in enumerate(record.calls)
            if not self._needed[place] and call.kind == "tensor" and call.writes == call.fresh
        )

    def before(self, cut: int) -> set[int]:
        """The calls before call `cut` that still have to run when the result of `cut` is given.

        Numbers that Python sees before the cut are taken for known.
        """
        calls = self.record.calls
        live = set(self._intact[cut + 1]) - calls[cut].writes
        opaque = [place for place in range(cut) if calls[place].kind == "opaque"]
        needed = set()
        for place in reversed(range(cut)):
            if not live and not opaque:
                break
            if opaque and opaque[-1] == place:
                opaque.pop()
            if calls[place].kind != "value" and self._step(place, live, frozenset()):
                needed.add(place)
        return needed

    def idle(self, junction: int) -> set[int]:
        """The calls that nobody needs any more while the branches of a junction are closed."""
        calls = self.record.calls
        gated = self.gated[junction]
        live = set(self._intact[max(gated) + 1])
        idle = set()
        for place in reversed(range(max(gated) + 1)):
            if place < min(gated) and live == self._intact[place + 1]:
                break
            if not self._step(place, live, gated.get(place, frozenset())) and self._needed[place]:
                idle.add(place)
        made = frozenset().union(*(calls[place].fresh for place in idle))
        described = {
            place
            for place in range(min(idle, default=0), max(gated))
            if calls[place].kind == "description" and calls[place].reads and calls[place].reads <= made
        }
        return self._with_whole_modules(idle | described, self.record.modules)

    def _with_whole_modules(self, idle: set[int], modules: Sequence[ModuleCall]) -> set[int]:
        """Also what modules with nothing else to do ask about shapes, so that they can be left out whole."""
        added: set[int] = set()
        if not idle:
            return added
        first, last = min(idle), max(idle)
        for module in modules:
            if module.first > last or module.last <= first:
                continue
            inside = set(range(module.first, module.last))
            asked = {place for place in inside - idle if self.record.calls[place].kind == "description"}
            if inside <= idle | asked and not inside.isdisjoint(idle):
                added |= asked
            else:
                added |= self._with_whole_modules(idle, module.inner)
        return idle | added

    def seen_values(self) -> list[int]:
        """Calls that let Python see numbers which a closed branch would change, or shapes that hang on them."""
        gated = {place for calls in self.gated for place in calls}
        changed: set[int] = set()
        seen = []
        for place, call in enumerate(self.record.calls):
            if place in gated or not call.reads.isdisjoint(changed):
                changed |= call.writes
                if call.kind == "value":
                    seen.append(place)
        return seen

    def _step(self, place: int, live: set[int], closed: Collection[int]) -> bool:
        """Whether the call at `place` is needed; what is read from here on becomes what is read before it."""
        call = self.record.calls[place]
        needed = call.kind in ("value", "opaque") or not call.writes.isdisjoint(live)
        if needed:
            live -= call.fresh
            live -= call.writes.intersection(closed)
            live |= call.reads.difference(closed)
        return needed
