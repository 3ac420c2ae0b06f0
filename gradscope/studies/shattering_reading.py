"""A frame of gradient correlations, read aloud: is it healthy, and why?"""

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from gradscope.studies.gradient_correlation import THEORY
from gradscope.studies.shattering.rows import QUANTITIES
from gradscope.studies.shattering.twin import TWIN

if TYPE_CHECKING:
    import pandas as pd

SHATTERED, IN_TOUCH = 0.1, 0.5
"""Below the first, gradients count as unrelated here, above the second as in touch; the choice is ours."""
AGREES = 0.03
"""How far finite networks of some hundred units are from theory."""


def shattering_reading(frame: "pd.DataFrame") -> str:
    """What `gradient_correlation` found, in a few sentences, each with its reason.

    Shattered is said where the whole interval of R at the input lies below 0.1, in touch where it lies above 0.5. These
    two numbers are a convention of this function. A mean over N gradients has R + (1 - R) / N of the squared
    length of a single one, which is why a small R is bad for training: averaging leaves little.

    Args:
        frame: As `gradient_correlation` returns it.

    Returns:
        Sentences, one a line.

    Raises:
        ValueError: No rows of `correlation_R`.
    """
    given = _rows(frame, QUANTITIES[0])
    if not given:
        raise ValueError(
            "shattering_reading reads what gradient_correlation returns, and there is no correlation_R."
        )
    first = given[0]
    sentences = [_of_place(first)]
    if first["status"] != "ok":
        return sentences[0]
    sentences += _of_zeros(first) + _of_layers(given)
    for quantity, say in ((TWIN + QUANTITIES[0], _of_twin), (THEORY, _of_theory)):
        others = [row for row in _rows(frame, quantity) if row["site"] == first["site"]]
        sentences += [say(first, other) for other in others[:1]]
    return "\n".join(sentences + _of_conditions(first))


def _rows(frame: "pd.DataFrame", quantity: str) -> list[dict[Any, Any]]:
    return frame[frame["quantity"] == quantity].to_dict("records") if "quantity" in frame else []


def _of_place(row: dict[Any, Any]) -> str:
    place = "the input" if row["site"] == "input" else row["site"]
    if row["status"] != "ok":
        return f"R at {place} is {row['status']}: {row['reason']}."
    low, high, value, n = row["low"], row["high"], row["value"], int(row["n"] + row["n_zero"])
    if math.isnan(low):
        verdict = "with two examples there is no interval, so nothing is said"
    elif high < SHATTERED:
        verdict = "shattered: the gradients of different examples are all but unrelated"
    elif low > IN_TOUCH:
        verdict = "in touch: most of a gradient is shared by the examples"
    elif low < SHATTERED < high or low < IN_TOUCH < high:
        verdict = "between two readings, since the interval straddles a border; more examples decide"
    else:
        verdict = "partly shattered: the examples share some of their gradients"
    length = math.sqrt(max(0.0, value + (1 - value) / n))
    return (
        f"R at {place} is {value:.3g} [{low:.3g}, {high:.3g}]: {verdict}. The mean of {n} such gradients is "
        f"{100 * length:.0f} % as long as one of them; of unrelated ones it would be {100 / math.sqrt(n):.0f} %."
    )


def _of_zeros(row: dict[Any, Any]) -> list[str]:
    if not row["n_zero"]:
        return []
    return [
        f"{int(row['n_zero'])} examples have no gradient there; they count as zeros in R, not in the mean cosine."
    ]


def _of_layers(given: list[dict[Any, Any]]) -> list[str]:
    known = [row for row in given if row["status"] == "ok"]
    values, sites = [row["value"] for row in known], [row["site"] for row in known]
    if len(values) < 3:
        return []
    drops = [above - below for below, above in pairwise(values)]
    place = drops.index(max(drops))
    if values[-1] - values[0] <= AGREES:
        return [f"Over the layers it lies between {min(values):.3g} and {max(values):.3g}."]
    return [
        f"On the way back it falls from {values[-1]:.3g} at {sites[-1]}; the largest single fall is from "
        f"{values[place + 1]:.3g} at {sites[place + 1]} to {values[place]:.3g} at {sites[place]}."
    ]


def _of_twin(given: dict[Any, Any], twin: dict[Any, Any]) -> str:
    if twin["status"] != "ok":
        return f"With the skips cut it is {twin['status']}: {twin['reason']}."
    told = f"With the skips cut it would be {twin['value']:.3g} [{twin['low']:.3g}, {twin['high']:.3g}]: "
    if given["low"] > twin["high"]:
        return (
            told + "the skips keep up what agreement there is (a fair control for untrained networks only)."
        )
    if given["high"] < twin["low"]:
        return (
            told
            + "more than with them; in a trained network that says nothing, for it is broken without its skips."
        )
    return told + "no difference that these examples show."


def _of_theory(given: dict[Any, Any], theory: dict[Any, Any]) -> str:
    apart = abs(given["value"] - theory["value"])
    told = f"Theory for infinite width and random weights gives {theory['value']:.3g}: "
    if apart <= AGREES:
        return told + "what is measured is what this architecture does at initialisation."
    return told + f"{apart:.2g} away, which is finite width, an initialisation of another kind, or training."


def _of_conditions(row: dict[Any, Any]) -> list[str]:
    said = []
    if row["source"] == "loss":
        said.append(
            "The gradients are those of the loss, whose factor p - y flips signs between classes; source='output' "
            "leaves it out."
        )
    if "train" in str(row["batch_norm"]):
        said.append(
            "Batch statistics were differentiated through, so a row mixes examples: R is no correlation of single "
            "examples' gradients. Use batch_norm='frozen' or 'own'."
        )
    return said
