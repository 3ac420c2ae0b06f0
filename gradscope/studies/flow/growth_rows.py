"""Rows of the growth over all layers."""

import math

from gradscope.studies.flow.growth import Growth, Point, growth
from gradscope.studies.flow.output_rows import log_size
from gradscope.studies.flow.passes import Flow
from gradscope.studies.flow.rows import Row, exponential, row_of


def growth_rows(flow: Flow, unit: str) -> list[Row]:
    """The fitted rate and the factor it stands for, under the site "all layers", and the line at each output."""
    fitted = growth(_points(flow), len(flow.outputs))
    status = "undefined" if math.isnan(fitted.rate) else "ok"
    place = {"site": "all layers", "depth": -1, "call": -1, "status": status, "reason": fitted.reason}
    low, high = fitted.low, fitted.high
    return [
        row_of("gradient_growth_rate", "nats per layer", fitted.rate, fitted.layers, low=low, high=high)
        | place,
        row_of("gradient_growth_factor", "1 per layer", exponential(fitted.rate), fitted.layers)
        | {"low": exponential(low), "high": exponential(high)}
        | place,
        *_line(flow, fitted, f"log10({unit} per output)"),
    ]


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
        if read.log_norms and read.entries.status()[0] == "ok":
            name = f"{where.site} (call {where.call})" if where.call else where.site
            points.append(Point(name, read.kind, read.order, read.shape, log_size(read)))
    return points
