"""What a frame of gradient flow says, in words, with the reason."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# A gradient that changes by less than this over the whole network is called steady.
STEADY = 100.0


def flow_reading(frame: "pd.DataFrame") -> str:
    """Whether the gradient vanishes, explodes or stays healthy on its way back, and why it is said.

    It vanishes (explodes) if the interval of its rate lies below (above) zero and the whole network changes it by
    more than a factor of 100; where the interval holds both no change and such a one, it is undecided. Entries lost
    to the precision, and layers of which most units never switch, are told beside that. A reading is no verdict: a
    healthy flow does not promise that training works.

    Args:
        frame: Of one network, as `gradient_flow` returns it.

    Raises:
        ValueError: The frame has no row of `gradient_growth_rate`, or more than one.
    """
    rates = frame[frame["quantity"] == "gradient_growth_rate"]
    if len(rates) != 1:
        raise ValueError(
            f"A reading needs the frame of one gradient_flow, with one row of gradient_growth_rate; this one has "
            f"{len(rates)}. Filter it to one condition."
        )
    rate = rates.iloc[0]
    sentences = [_trend(rate["value"], rate["low"], rate["high"], int(rate["n"]), str(rate["reason"]))]
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


def _trend(rate: float, low: float, high: float, layers: int, reason: str) -> str:
    if math.isnan(rate):
        return f"No trend: {reason}."
    change = rate * max(layers - 1, 0) / math.log(10)
    word = "grows" if rate > 0 else "shrinks"
    said = (
        f"the gradient {word} by x {math.exp(rate):.3g} a layer (95 % interval {math.exp(low):.3g} to "
        f"{math.exp(high):.3g}; {reason}): over {layers} layers x {_power(change)}"
    )
    if low > 0 and change > math.log10(STEADY):
        return f"Explodes: {said}."
    if high < 0 and change < -math.log10(STEADY):
        return f"Vanishes: {said}."
    if low <= 0 <= high:
        widest = max(-low, high) * max(layers - 1, 0) / math.log(10)
        if widest > math.log10(STEADY):
            return f"Undecided: {said}, but the interval leaves room for no change as for one of x {_power(widest)}."
        return f"Healthy: {said}, and no change at all lies within the interval."
    return f"Healthy: {said}, less than a factor of {STEADY:g}."


def _power(exponent: float) -> str:
    return f"1e{exponent:.0f}" if abs(exponent) >= 3 else f"{10**exponent:.3g}"
