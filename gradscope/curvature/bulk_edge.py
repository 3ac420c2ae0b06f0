"""Where the bulk of a spectrum ends and its outliers begin."""

from itertools import takewhile

from gradscope.curvature.condition_evidence import RANKS, Eigenvalue, Evidence, Found, undefined

GAP = 2.0
MEMBERS = 3
FLOOR = 1e-3


def bulk_edge_ratio(evidence: Evidence) -> Found:
    """lambda_max over the edge of the bulk.

    Looked at are the positive eigenvalues from the largest down to a thousandth of it, or as far as they have
    converged, and at most 64. The edge is the upper end of the bulk: the eigenvalue below the widest
    gap, in ratio, of which two neighbours have a factor of 2 or more between them. Two more known
    eigenvalues must follow the edge, for a bulk of one or two is another outlier. Eigenvalues are
    counted, not mass: a few random vectors see too little of a handful of outliers.

    Source:
        Sagun et al. (2016), arXiv:1611.07476 (bulk and outliers); the rule is this package's own.
    """
    top = evidence.ranked(1)
    if top is None or not top.converged:
        return undefined("the largest eigenvalue has not converged")
    if not top.low > 0:
        return undefined(f"the largest eigenvalue, {top.value:.6g}, is not positive beyond its error")
    known = list(
        takewhile(lambda value: _seen(value, top), (evidence.ranked(r) for r in range(1, RANKS + 1)))
    )
    values = [value for value in known if value is not None]
    gaps = [values[i - 1].value / values[i].value for i in range(1, len(values) - MEMBERS + 1)]
    if not gaps or max(gaps) < GAP:
        widest = f", the widest has {max(gaps):.3g}" if gaps else ""
        return undefined(
            f"no gap of a factor {GAP:g} with {MEMBERS} eigenvalues below it among the {len(values)} known "
            f"above a thousandth of the largest{widest}; more products may show more of them"
        )
    place = gaps.index(max(gaps)) + 1
    edge = values[place]
    reason = f"{place} outliers, a gap of a factor {max(gaps):.3g}, {len(values)} eigenvalues known"
    high = top.high / edge.low if edge.low > 0 else float("inf")
    return Found(top.value / edge.value, top.low / edge.high, high, reason=reason)


def _seen(value: Eigenvalue | None, top: Eigenvalue) -> bool:
    return value is not None and value.converged and value.value >= FLOOR * top.value
