"""Rows of rectifiers: how their units switch."""

import math

from gradscope.measures.activation import switching
from gradscope.studies.flow.passes import AtRectifier, Flow
from gradscope.studies.flow.rows import Row, row_of, undefined

_FRACTIONS = ("active_fraction", "co_active_fraction", "dead_fraction", "always_on_fraction")


def rectifier_rows(flow: Flow) -> list[Row]:
    """Rows of every rectifier that was heard, in the order of running."""
    return [
        row | {"site": site, "depth": read.depth, "call": call}
        for (site, call), read in flow.rectifiers.items()
        for row in _switching_rows(read)
    ]


def _switching_rows(read: AtRectifier) -> list[Row]:
    if read.counts is None or read.counts.numel() == 0:
        reason = "batches have outputs of different shapes" if read.counts is None else "it has no units"
        return [undefined(name, "1", read.examples, "skipped", reason) for name in _FRACTIONS]
    rows = []
    for name, value in zip(_FRACTIONS, switching(read.counts, read.examples), strict=True):
        if math.isnan(value):
            rows.append(undefined(name, "1", read.examples, "undefined", "one example makes no pair"))
        else:
            rows.append(row_of(name, "1", value, read.examples))
    if read.counts.ndim > 2:
        silent = read.counts.flatten(start_dim=1).sum(dim=1) == 0
        rows.append(row_of("dead_channel_fraction", "1", float(silent.double().mean()), read.examples))
    return rows
