"""Rows of the growth over the fitted layers."""

import math

from gradscope.studies.flow.growth import Growth, Point, growth
from gradscope.studies.flow.output_rows import log_size
from gradscope.studies.flow.passes import Flow
from gradscope.studies.flow.rows import Row, exponential, row_of


def growth_rows(flow: Flow, unit: str, named: bool) -> list[Row]:
    """The fitted rate, the factors it stands for, under the site "all layers", and the line at each fitted output."""
    fitted = growth(_points(flow), named)
    status = "undefined" if math.isnan(fitted.rate) else "ok"
    place = {"site": "all layers", "depth": -1, "call": -1, "status": status, "reason": fitted.reason}
    ends = fitted.rate, fitted.low, fitted.high
    factor, over = ([exponential(end * layers) for end in ends] for layers in (1, fitted.span))
    quantities = [
        ("gradient_growth_rate", "nats per layer", ends),
        ("gradient_growth_factor", "1 per layer", factor),
        ("gradient_growth_over_fit", "1", over),
    ]
    rows = [
        row_of(quantity, of, value, fitted.fitted, low=low, high=high) | place
        for quantity, of, (value, low, high) in quantities
    ]
    return rows + _line(flow, fitted, f"log10({unit} per output)")


def _line(flow: Flow, fitted: Growth, unit: str) -> list[Row]:
    where = {read.order: where for where, read in flow.outputs.items()}
    rows = []
    for order, ends in fitted.line.items():
        value, low, high = (end / math.log(10) for end in ends)
        place = {"site": where[order].site, "depth": where[order].depth, "call": where[order].call}
        row = row_of("fitted_gradient_log10_norm", unit, value, fitted.fitted, low=low, high=high)
        rows.append(row | place)
    return rows


def _points(flow: Flow) -> list[Point]:
    points = []
    for where, read in sorted(flow.outputs.items(), key=lambda item: item[1].order):
        # Numbers of lost digits would bend the line.
        known = bool(read.log_norms) and read.entries.status()[0] == "ok"
        log_norm = log_size(read) if known else math.nan
        points.append(Point(where.site, read.kind, read.order, read.shape, log_norm, where.call))
    return points
