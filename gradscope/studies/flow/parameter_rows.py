"""Rows of the gradients of parameters."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gradscope.instruments.sites import Site
from gradscope.measures.log_norm import log_norms
from gradscope.problem import Problem
from gradscope.studies.flow.entries import Entries
from gradscope.studies.flow.passes import Flow
from gradscope.studies.flow.rows import Row, exponential, row_of, shares, undefined


def parameter_rows(
    problem: Problem, flow: Flow, found: Sequence[Site], own: bool, unit: str, learning_rate: float | None
) -> list[Row]:
    """Rows of every site's parameters: its own, each tensor at the first site that holds it, or all inside it."""
    depths = {where.site: where.depth for where in flow.outputs}
    largest, forward = _smallest_at_output(flow), flow.lost_forward()
    names = {id(tensor): name for name, tensor in problem.model.named_parameters()}
    examples = problem.examples if problem.reduction == "mean" else 1
    owners: dict[int, str] = {}
    rows: list[Row] = []
    for site in found:
        held = dict(site.module.named_parameters(recurse=not own))
        shared = [owners[id(p)] for p in held.values() if own and id(p) in owners]
        kept = {n: p for n, p in held.items() if p.requires_grad and not (own and id(p) in owners)}
        owners = {id(p): site.name for p in held.values()} | owners
        place = {"site": site.name, "depth": depths.get(site.name, -1), "call": -1}
        if not kept:
            reason = "no parameter of its own" if own else "no parameter inside"
            if held:
                reason = (
                    f"shared with {shared[0]}"
                    if shared
                    else "its parameters are frozen (requires_grad=False)"
                )
            row = undefined("parameter_gradient_log10_norm", _unit(unit), 0, "skipped", reason)
            rows.append(row | place | {"parameter": "all"})
            continue
        single = {name: _part(names[id(p)], p, flow) for name, p in kept.items()}
        for name, part in ({"all": _together(list(single.values()))} | single).items():
            status = part.entries.status(largest.get(site.name, 1.0), forward)
            found_rows = _part_rows(part, examples, status, unit, learning_rate)
            rows += [row | place | {"parameter": name} for row in found_rows]
    return rows


class _Part(NamedTuple):
    """Some parameters together: their gradient's entries, and the logarithms of its norm and of theirs."""

    entries: Entries
    log_gradient: float
    log_weight: float


def _part(name: str, parameter: nn.Parameter, flow: Flow) -> _Part:
    gradient = flow.gradients.get(name)
    if gradient is None:
        gradient = torch.zeros_like(parameter, dtype=torch.float64)
    entries = Entries()
    entries.add(gradient, parameter.dtype)
    return _Part(entries, _log_norm(gradient), _log_norm(parameter))


def _together(parts: Sequence[_Part]) -> _Part:
    entries = Entries()
    for part in parts:
        entries.include(part.entries)
    norms = torch.tensor([part[1:] for part in parts], dtype=torch.float64)
    gradient, weight = (torch.logsumexp(2 * norms, dim=0) / 2).tolist()
    return _Part(entries, gradient, weight)


def _part_rows(
    part: _Part, examples: int, told: tuple[str, str], unit: str, learning_rate: float | None
) -> list[Row]:
    n = part.entries.number
    status, reason = told
    flags = {"status": status, "reason": reason}
    log_gradient = part.log_gradient - math.log(examples)
    size = log_gradient / math.log(10) if math.isfinite(log_gradient) else math.nan
    ratio, of_ratio = math.nan, flags
    if part.log_weight == -math.inf:
        of_ratio = {"status": "undefined", "reason": "the parameters are all zero"}
    elif status != "overflow":
        # A gradient of zero has no logarithm, but it has a ratio.
        ratio = exponential(log_gradient - part.log_weight)
        of_ratio = {"status": "ok", "reason": ""} if status == "undefined" else flags
    per_weight = f"{unit} per squared parameter"
    rows = [
        row_of("parameter_gradient_log10_norm", _unit(unit), size, n, **flags),
        row_of("parameter_norm", "parameter", exponential(part.log_weight), n),
        row_of("gradient_to_weight_ratio", per_weight, ratio, n, **of_ratio),
    ]
    if learning_rate is not None:
        rows.append(row_of("update_to_weight_ratio", "1", learning_rate * ratio, n, **of_ratio))
    return rows + shares("parameter_gradient", part.entries)


def _unit(unit: str) -> str:
    return f"log10({unit} per parameter)"


def _smallest_at_output(flow: Flow) -> dict[str, float]:
    """Largest magnitude of the gradient at each site's output; the smallest over the calls of a re-used site."""
    found: dict[str, float] = {}
    for where, read in flow.outputs.items():
        if read.entries.largest:
            found[where.site] = min(read.entries.largest, found.get(where.site, math.inf))
    return found


def _log_norm(tensor: Tensor) -> float:
    return float(log_norms(tensor.detach().reshape(1, -1)))
