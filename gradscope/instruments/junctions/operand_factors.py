"""By what a sum multiplies each of its operands: -1 in a subtraction, the weights in a `lerp`, 1 in most."""

from collections.abc import Collection

from torch import Tensor

from gradscope.instruments.junctions.graph import Node

Factor = float | Tensor
_WITH_BETA = ("Addmm", "Addmv", "Addr", "Addbmm", "Baddbmm")


def operand_factor(node: Node, slot: int) -> Factor | None:
    """Factor of operand `slot` in the result of one addition; None where it is not the addition's to tell.

    That is so for the factors of a product inside the sum (`addmm`), and for sums written into a view.

    Args:
        node: What the call left in the autograd graph, before a backward pass freed it.
        slot: Place among the operands, as in `operations.py`.
    """
    operation = node.name().partition("Backward")[0]
    if operation == "Stack":
        return 1.0
    if operation in ("Add", "Sub"):
        # torch.add(x, f, alpha=a) is x + a f.
        alpha = float(node._saved_alpha) if slot == 1 else 1.0
        return -alpha if operation == "Sub" and slot == 1 else alpha
    if operation == "Rsub":
        # rsub(f, x, alpha=a) is x - a f.
        return -float(node._saved_alpha) if slot == 0 else 1.0
    if operation == "Lerp":
        weight = node._saved_weight
        weight = weight.detach() if isinstance(weight, Tensor) else float(weight)
        return 1 - weight if slot == 0 else weight
    if operation in _WITH_BETA and slot == 0:
        return float(node._saved_beta)
    return 1.0 if operation in ("Addcmul", "Addcdiv") and slot == 0 else None


def factors_within(total: Node, calls: Collection[Node]) -> dict[Node, Factor]:
    """By what a sum multiplies the results of the additions it is made of, such as x + a in (x + a) - b.

    Args:
        total: Node of the whole sum; of a sum or mean over a stack, that of the sum or mean.
        calls: Nodes of the additions whose operands are asked for.

    Returns:
        The factor by node, of those of `calls` that a way through additions only leads to.
    """
    found: dict[Node, Factor] = {total: 1.0}
    waiting = [total]
    for node in waiting:
        for slot, (parent, _) in enumerate(node.next_functions):
            if parent not in calls or parent in found:
                continue
            factor = _over_stack(node, parent) if node not in calls else operand_factor(node, slot)
            if factor is not None:
                found[parent] = found[node] * factor
                waiting.append(parent)
    return {node: factor for node, factor in found.items() if node in calls}


def _over_stack(node: Node, stack: Node) -> float | None:
    operation = node.name().partition("Backward")[0]
    if not stack.name().startswith("Stack") or operation not in ("Sum", "Mean"):
        return None
    return 1.0 if operation == "Sum" else 1 / len(stack.next_functions)
