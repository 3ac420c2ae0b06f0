"""Per-example gradients of a node without a rule, asked of its own backward pass, and whether they can be believed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gradscope.gradients.engines.nodes import results
from gradscope.gradients.grams.rules import Arrival
from gradscope.gradients.grams.terms import Dense, Term

# Relative difference from autograd's own gradient beyond which a sum of per-example gradients is not believed.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}


class DoesNotAddUp(RuntimeError):
    """Per-example gradients that are not what autograd's gradient is made of."""


def asked(arrival: Arrival, slots: Sequence[int]) -> dict[int, Term]:
    """One backward pass of the node for each example, all other examples' cotangents zero.

    To be called after the backward pass of the network, within which autograd would leave out what that does not need.

    Raises:
        DoesNotAddUp: The node's backward pass is not a sum over examples.
    """
    node, examples = arrival.node, next(iter(arrival.layouts.values())).examples
    rows: dict[int, list[Tensor]] = {slot: [] for slot in slots}
    for example in range(examples):
        given = [
            None if cotangent is None else arrival.layouts[number].of_example(cotangent, example)
            for number, cotangent in enumerate(arrival.cotangents)
        ]
        for slot, gradient in zip(slots, results(node, given, slots), strict=True):
            zero = next(c for c in given if c is not None).new_zeros(arrival.shape(slot))
            rows[slot].append((zero if gradient is None else gradient).flatten())
    found: dict[int, Term] = {}
    whole = results(node, arrival.cotangents, slots)
    for slot, gradient in zip(slots, whole, strict=True):
        stacked = torch.stack(rows[slot])
        if gradient is not None and not adds_up(stacked, gradient):
            raise DoesNotAddUp(
                f"the per-example gradients of {node.name()} do not add up to autograd's gradient"
            )
        found[slot] = Dense(stacked)
    return found


def adds_up(rows: Tensor, gradient: Tensor, floor: float = 0.0) -> bool:
    """Whether per-example gradients [B, D] add up to the gradient of the sum; true where that is not finite.

    Args:
        rows: Of one parameter.
        gradient: Autograd's.
        floor: A difference this small is rounding, in gradients that should be zero for example.
    """
    if gradient.is_complex():
        rows, gradient = (torch.view_as_real(t.resolve_conj()) for t in (rows, gradient))
        rows = rows.flatten(1)
    difference = (rows.double().sum(dim=0) - gradient.flatten().double()).norm()
    # Examples may cancel in the sum, whose rounding is that of its terms.
    size = rows.double().norm(dim=1).sum()
    return not bool(difference > TOLERANCE.get(gradient.dtype, 1e-2) * size + floor)
