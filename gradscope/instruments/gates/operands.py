"""The one mechanism behind all gates: what is put in place of operands of junctions in every forward."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gradscope.instruments.checkpointed import computed_again
from gradscope.instruments.gates.by_hand import CLOSABLE, ByHand
from gradscope.instruments.gates.outputs import named_module, with_first_tensor
from gradscope.instruments.junctions.calls import Plan, additions
from gradscope.instruments.junctions.junction import Junction

Gate = Callable[[Tensor], Tensor]
Side = Literal["branches", "skips"]


def listed(junctions: Junction | Sequence[Junction]) -> list[Junction]:
    """One junction or several, as a list.

    Raises:
        ValueError: Something else than junctions, such as their names.
    """
    if isinstance(junctions, Junction):
        return [junctions]
    single = isinstance(junctions, str) or not isinstance(junctions, Iterable)
    chosen: list[Any] = [junctions] if single else list(junctions)
    for junction in chosen:
        if not isinstance(junction, Junction):
            place = isinstance(junction, int)
            raise ValueError(
                f"junctions are Junction objects from gs.junctions(model, x), got {junction!r}; write "
                f"gs.junctions(model, x){f'[{junction}]' if place else _matching(junction)}."
            )
    return chosen


def closable(junction: Junction, side: Side = "branches") -> bool:
    """Whether gates can act on this junction: a skip and a branch are told apart, and their operands are known."""
    return junction.kind in CLOSABLE and bool(_calls(junction, side) or _modules(junction, side))


@contextmanager
def replaced(
    model: nn.Module,
    junctions: Sequence[Junction],
    gate: Callable[[int, int], Gate],
    side: Side = "branches",
) -> Iterator[None]:
    """Put `gate(place, operand)(tensor)` in place of operands of some junctions, in every forward of the block.

    Operands of numbered calls are replaced at the call, also where the sum is written in place; those of
    junctions by hand are replaced in their modules' outputs. A gate must neither change its argument nor add
    tensors, for an enclosing gate would count that addition.

    Blocks nest, and the innermost acts first. A junction that is listed twice is gated twice, in the order
    of the list.

    Args:
        model: The network that the junctions were found in; gates act in calls `model(...)`.
        junctions: Junctions of one forward, found or by hand; none changes nothing.
        gate: Place in `junctions` and number of the operand within that junction to what replaces it.
        side: Whether residual branches or skips are replaced.

    Raises:
        ValueError: A junction that is not `closable` on this side, that is not of this network as far as can
            be told, or that was found in another forward than the rest.
        RuntimeError: A forward in the block did not call as many additions as the one in which the junctions
            were found, or did not run a module named by hand exactly once; or it replaced an operand, with
            gradients, in a part that is computed again in the backward pass, where no gate would act.
    """
    _refuse_unknown(model, junctions, side)
    plan: Plan = {}
    hooks: dict[str, Gate] = {}
    for place, junction in enumerate(junctions):
        for operand, key in enumerate(_calls(junction, side)):
            plan[key] = _after(plan.get(key), _kept(model, junction, gate(place, operand)))
        for operand, path in enumerate(_modules(junction, side)):
            hooks[path] = _after(hooks.get(path), _kept(model, junction, gate(place, operand)))
    with ExitStack() as stack:
        if plan:
            expected = next(j.additions for j in junctions if _calls(j, side))
            stack.enter_context(_calls_replaced(model, plan, expected))
        if hooks:
            stack.enter_context(_outputs_replaced(model, hooks))
        yield


def _matching(name: object) -> str:
    return f".matching({name!r})" if isinstance(name, str) else ", or a list of some of them"


def _calls(junction: Junction, side: Side) -> tuple[tuple[int, int], ...]:
    return junction.branches if side == "branches" else junction.skips


def _modules(junction: Junction, side: Side) -> tuple[str, ...]:
    if not isinstance(junction, ByHand):
        return ()
    return junction.branch_modules if side == "branches" else junction.skip_modules


def _after(first: Gate | None, second: Gate) -> Gate:
    return second if first is None else lambda tensor: second(first(tensor))


def _kept(model: nn.Module, junction: Junction, gate: Gate) -> Gate:
    def act(tensor: Tensor) -> Tensor:
        value = gate(tensor)
        if value is not tensor and torch.is_grad_enabled() and computed_again():
            raise RuntimeError(
                f"{type(model).__name__} computes {junction.name} again in the backward pass (activation "
                "checkpointing), where this gate would not act, so gradients would be wrong. Turn checkpointing off, "
                "or run the model under torch.no_grad."
            )
        return value

    return act


def _refuse_unknown(model: nn.Module, junctions: Sequence[Junction], side: Side) -> None:
    for junction in junctions:
        if junction.kind == "gated":
            raise ValueError(
                f"Junction {junction.name} is of kind gated, a sum of two products, and closing the one would leave "
                "the other multiplied by its gate. A highway layer is lesioned by setting its transform gate to 0, "
                "so that it hands on its input: bypass(model, at=...) with the path of the layer does that."
            )
        if not closable(junction, side):
            count = len(_calls(junction, side)) + len(_modules(junction, side))
            raise ValueError(
                f"Junction {junction.name} is of kind {junction.kind} with {count} replaceable operands among its "
                f"{side}, so there is nothing here that a gate could replace. Choose {', '.join(CLOSABLE)} "
                "junctions, or name the module whose output it is with junction_by_hand."
            )
    modules = dict(model.named_modules(remove_duplicate=False))
    found = [junction for junction in junctions if _calls(junction, side)]
    for junction in found:
        path = junction.name.rpartition(":")[0]
        if path not in modules:
            raise ValueError(
                f"Junction {junction.name} lies in module {path!r}, which {type(model).__name__} does not have. "
                "Find the junctions in this very network: junctions(model, inputs)."
            )
    counts = sorted({junction.additions for junction in found})
    if len(counts) > 1:
        raise ValueError(
            f"These junctions were found in different forwards, which called {' and '.join(map(str, counts))} "
            "additions. Take them from one call of junctions(model, inputs)."
        )


@contextmanager
def _calls_replaced(model: nn.Module, plan: Plan, expected: int) -> Iterator[None]:
    def verify(module: nn.Module, arguments: Any, output: Any) -> None:
        if counter.count != expected:
            raise RuntimeError(
                f"This forward of {type(model).__name__} called {counter.count} additions, but its junctions "
                f"were found in one that called {expected}, so the gate would hit the wrong place. "
                "Find the junctions on inputs of the same kind and in the same mode."
            )

    with additions(model, plan) as counter:
        handle = model.register_forward_hook(verify)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def _outputs_replaced(model: nn.Module, gates: dict[str, Gate]) -> Iterator[None]:
    runs = dict.fromkeys(gates, 0)
    running = [False]

    def start(module: nn.Module, arguments: Any) -> None:
        runs.update(dict.fromkeys(gates, 0))
        running[0] = True

    def stop(module: nn.Module, arguments: Any, output: Any) -> None:
        running[0] = False

    def verify(module: nn.Module, arguments: Any, output: Any) -> None:
        for path, count in runs.items():
            if count != 1:
                raise RuntimeError(
                    f"Module {path} ran {count} times in this forward of {type(model).__name__}, but a junction by "
                    "hand stands for one sum. Name a module that runs exactly once."
                )

    def replace(path: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> Any:
            if not running[0]:
                return None
            runs[path] += 1
            return with_first_tensor(output, gates[path])

        return hook

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(start).remove)
        stack.callback(model.register_forward_hook(stop, always_call=True).remove)
        stack.callback(model.register_forward_hook(verify).remove)
        for path in gates:
            # Before the hooks that are there, so that an inner block's gate acts before an outer one's.
            hook = named_module(model, path).register_forward_hook(replace(path), prepend=True)
            stack.callback(hook.remove)
        yield
