"""Rows of the gradients at outputs."""

import math

import torch
from torch import Tensor

from gradscope.measures.log_norm import log_root_mean_square
from gradscope.studies.flow.entries import Entries
from gradscope.studies.flow.passes import AtOutput, Flow
from gradscope.studies.flow.rows import Row, row_of, shares, undefined

_BY_EXAMPLE = ("output_gradient_log10_norm_mean", "output_gradient_log10_norm_sd")


def output_rows(flow: Flow, unit: str) -> list[Row]:
    """Rows of every output that was heard, in the order of running."""
    rows: list[Row] = []
    downstream, forward = 1.0, flow.lost_forward()
    # From the loss backwards, so that each gradient is seen beside the one it was computed from.
    for where, read in sorted(flow.outputs.items(), key=lambda item: -item[1].order):
        place = {"site": where.site, "depth": where.depth, "call": where.call}
        of = f"log10({unit} per output)"
        rows = [row | place for row in _at_output(read, of, downstream, forward)] + rows
        downstream = read.entries.largest or downstream
    return rows


def log_size(read: AtOutput) -> float:
    """Natural logarithm of the root mean square, over all examples, of the gradient's norm."""
    logs = torch.cat(read.log_norms)
    if read.per_example:
        return float(log_root_mean_square(logs))
    return float(torch.logsumexp(2 * logs, dim=0) - math.log(read.examples)) / 2


def _at_output(read: AtOutput, unit: str, downstream: float, forward: str) -> list[Row]:
    if not read.log_norms:
        reason = "its output does not reach what is differentiated, or nothing before it needs a gradient"
        return [undefined("output_gradient_log10_norm", unit, 0, "skipped", reason)]
    status, reason = read.entries.status(downstream, forward)
    size = log_size(read) / math.log(10)
    value = size if math.isfinite(size) else math.nan
    rows = [
        row_of("output_gradient_log10_norm", unit, value, read.examples, status=status, reason=reason),
        *shares("output_gradient", read.entries),
    ]
    if not read.per_example:
        reason = "the first dimension of the output does not count the examples"
        return rows + [undefined(name, unit, 0, "skipped", reason) for name in _BY_EXAMPLE]
    return rows + _over_examples(torch.cat(read.log_norms) / math.log(10), read.entries, unit, status, reason)


def _over_examples(logs: Tensor, entries: Entries, unit: str, status: str, reason: str) -> list[Row]:
    from scipy.stats import t

    zero = int((logs == -math.inf).sum())
    rows = [row_of("output_gradient_zero_examples", "1", zero / len(logs), len(logs))]
    kept = logs[torch.isfinite(logs)]
    n = len(kept)
    if entries.not_finite or n < 2:
        status = "undefined" if status == "ok" else status
        reason = reason or f"examples with a non-zero gradient: {n}"
        return rows + [undefined(name, unit, n, status, reason) for name in _BY_EXAMPLE]
    mean, deviation = float(kept.mean()), float(kept.std())
    half = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    flags = {"status": status, "reason": reason}
    return [
        *rows,
        row_of(_BY_EXAMPLE[0], unit, mean, n, low=mean - half, high=mean + half, **flags),
        row_of(_BY_EXAMPLE[1], unit, deviation, n, **flags),
    ]
