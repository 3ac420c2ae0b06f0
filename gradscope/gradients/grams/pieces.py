"""The Gram of one parameter from all its uses, whole or in pieces."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gradscope.gradients.grams.chains import Chain
from gradscope.gradients.grams.kernels import gram_of_rows
from gradscope.gradients.grams.scaled import ScaledGram
from gradscope.gradients.grams.terms import (
    PER_EXAMPLE,
    PRODUCTS,
    Combined,
    Convolved,
    Elementwise,
    Embedded,
    Outer,
    Term,
    combined,
    levelled,
)

Use = tuple[Chain, Term]


def of_uses(uses: Sequence[Use]) -> Combined:
    """Uses of the same piece add up for each example, disjoint pieces add their Grams, all else is added up densely.

    Args:
        uses: Of one parameter, none of them computed.
    """
    groups: list[tuple[Tensor | None, list[Term]]] = []
    for chain, term in uses:
        places, turned = chain.order()
        if isinstance(term, Outer):
            term = replace(term, flipped=term.flipped != turned)
        elif turned and len(uses) > 1:
            return _dense(uses)
        for known, terms in groups:
            if known is places or (known is not None and places is not None and torch.equal(known, places)):
                terms.append(term)
                break
        else:
            groups.append((places, [term]))
    if any(len({_matrix(term) for term in terms}) > 1 for _, terms in groups):
        return _dense(uses)
    if len(groups) == 1:
        return combined(groups[0][1])
    if not _disjoint([places for places, _ in groups]):
        return _dense(uses)
    parts = [combined(terms) for _, terms in groups]
    gram = parts[0].gram
    for part in parts[1:]:
        gram = gram + part.gram
    engine = PRODUCTS if all(part.engine == PRODUCTS for part in parts) else PER_EXAMPLE
    return Combined(gram, engine)


def _matrix(term: Term) -> tuple[int, ...]:
    """The shape in which a term takes the numbers of its parameter, where it matters to others that use the same."""
    if isinstance(term, Outer):
        rows, columns = term.sides()
        return (rows.shape[2], columns.shape[2])
    if isinstance(term, Embedded):
        return (term.length, term.gradients.shape[2])
    return tuple(term.shape) if isinstance(term, Convolved | Elementwise) else ()


def _disjoint(groups: Sequence[Tensor | None]) -> bool:
    places = [group for group in groups if group is not None]
    if len(places) < len(groups):
        return False
    together = torch.cat(places)
    return len(together.unique()) == len(together)


def _dense(uses: Sequence[Use]) -> Combined:
    level, log_scale = levelled([term for _, term in uses])
    total: Tensor | None = None
    for (chain, _), term in zip(uses, level, strict=True):
        rows = chain.in_parameter(term.rows())
        total = rows if total is None else total + rows
    if total is None:
        raise ValueError("A Gram needs at least one use of a parameter, got none.")
    return Combined(ScaledGram(gram_of_rows(total), log_scale), PER_EXAMPLE)
