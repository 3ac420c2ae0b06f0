"""What a frame of gradient flow says, in words, with the reason."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# A gradient that changes by less than this over the fitted layers is called steady.
STEADY = 100.0

# A value and the ends of its interval.
_Ends = tuple[float, float, float]


def flow_reading(frame: "pd.DataFrame") -> str:
    """Whether the gradient vanishes, explodes or stays healthy on its way back, and why it is said.

    It vanishes (explodes) if the interval of its rate lies below (above) zero and the fitted layers change it by more
    than a factor of 100; where the interval holds both no change and such a one, it is undecided. Beyond the fitted
    layers nothing is inferred: beside the fit stands the ratio of the first to the last output as measured. Entries
    lost to the precision, and layers of which most units never switch, are told besides. A reading is no verdict: a
    healthy flow does not promise that training works.

    Args:
        frame: Of one network, as `gradient_flow` returns it.

    Raises:
        ValueError: Another frame, or not one row each of `gradient_growth_rate` and `gradient_growth_over_fit`.
    """
    wanted = ["quantity", "site", "depth", "call", "value", "low", "high", "status", "reason"]
    missing = [column for column in wanted if column not in frame.columns]
    if missing:
        raise ValueError(
            f"A reading needs the frame of one gradient_flow; this one lacks the columns {missing}."
        )
    fits = [frame[frame["quantity"] == f"gradient_growth_{name}"] for name in ("rate", "over_fit")]
    for name, rows in zip(("rate", "over_fit"), fits, strict=True):
        if len(rows) != 1:
            raise ValueError(
                f"A reading needs the frame of one gradient_flow, with one row of gradient_growth_{name}; this one has "
                f"{len(rows)}. Filter it to one condition."
            )
    rate, over = (rows.iloc[0] for rows in fits)
    outputs = frame[frame["quantity"] == "output_gradient_log10_norm"]
    known = outputs[outputs["status"] == "ok"]
    if math.isnan(rate["value"]):
        lost = int((outputs["status"] == "underflow").sum())
        sentences = [
            f"Vanished: the precision holds nothing of the gradient at {lost} of {len(outputs)} outputs."
            if 2 * lost > len(outputs)
            else f"No trend: {rate['reason']}."
        ]
    else:
        per_layer, whole = (
            (float(row["value"]), float(row["low"]), float(row["high"])) for row in (rate, over)
        )
        sentences = [_trend(per_layer, whole, str(rate["reason"]))]
    if len(known) > 1:
        first, last = known.iloc[0], known.iloc[-1]
        ratio = _power(first["value"] - last["value"])
        sentences.append(
            f"As measured, at {first['site']}, the first output, it is x {ratio} that at {last['site']}, the last."
        )
    for status, what in (("underflow", "lost digits or vanished in"), ("overflow", "overflowed")):
        hit = frame[(frame["status"] == status) & frame["quantity"].str.endswith("log10_norm")]
        if len(hit):
            first = hit.sort_values("depth").iloc[0]
            sentences.append(
                f"{len(hit)} gradients {what} the computer's precision, the shallowest at {first['site']}: "
                f"{first['reason']}."
            )
    constant = frame[frame["quantity"].isin(["dead_fraction", "always_on_fraction"])]
    shares: dict[tuple[str, int], float] = {}
    for site, call, value in constant[["site", "call", "value"]].dropna().itertuples(index=False):
        shares[site, call] = shares.get((site, call), 0.0) + value
    stuck = {where: share for where, share in shares.items() if share > 0.5}
    if stuck:
        worst = max(stuck, key=lambda where: stuck[where])
        sentences.append(
            f"At {len(stuck)} of {len(shares)} rectifiers more than half of the units do not switch on these "
            f"examples (at most {stuck[worst]:.0%}, at {worst[0] or 'the network itself'})."
        )
    return " ".join(sentences)


def _trend(per_layer: _Ends, whole: _Ends, reason: str) -> str:
    rate, low, high = per_layer
    change, least, most = (_log10(factor) for factor in whole)
    word = "grows" if rate > 0 else "shrinks"
    said = (
        f"the gradient {word} by x {math.exp(rate):.3g} a layer on its way back (95 % interval {math.exp(low):.3g} to "
        f"{math.exp(high):.3g}; {reason}), over these x {_power(change)}"
    )
    border = math.log10(STEADY)
    if low > 0 and change > border:
        return f"Explodes: {said}."
    if high < 0 and change < -border:
        return f"Vanishes: {said}."
    if low <= 0 <= high:
        widest = most if most > -least else least
        if abs(widest) > border:
            return f"Undecided: {said}, but the interval leaves room for no change as for one of x {_power(widest)}."
        return f"Healthy: {said}, and no change at all lies within the interval."
    return f"Healthy: {said}, less than a factor of {STEADY:g}."


def _log10(factor: float) -> float:
    return math.log10(factor) if factor > 0 else -math.inf


def _power(exponent: float) -> str:
    if math.isinf(exponent):
        return "more than 1e308" if exponent > 0 else "less than 1e-308"
    return f"1e{exponent:.0f}" if abs(exponent) >= 3 else f"{10**exponent:.3g}"
