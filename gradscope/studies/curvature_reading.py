"""A frame of curvature, read aloud: which learning rate is stable, how convex is the loss, what is not known?"""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# All borders are a convention of this reading.
AT_THE_EDGE = 0.05
"""A product of learning rate and eigenvalue this near to the limit, relative to it, is called at the edge."""
NEARLY_CONVEX, SADDLE = 0.01, 0.5
"""|lambda_min| / lambda_max: below the first nearly convex, above the second a saddle."""
FEW_DIRECTIONS, FEW = 0.01, 2.0
"""A participation ratio below this share of the parameters, or this number, is called few directions."""
MANY = 10.0
"""And from here on many."""
ROUNDING = 1e-6
"""Participation ratios are compared with 0 and 1 to within this."""
APART = 5.0
"""lambda_1 / lambda_5 above this is called set apart."""
BIASED = 1.1
"""Minibatch eigenvalues larger than this times the full ones are called too large."""
FEW_EXAMPLES = 512
"""With fewer examples than this, and no minibatches measured, a warning is given."""
OF_EIGENVALUES = (
    *("lambda_max", "lambda_min", "eigenvalue", "learning_rate_product", "condition_number", "coupling"),
    *("lambda_max_ratio", "lambda_min_ratio"),
)
"""Quantities that rest on single eigenvalues; the rest are sums, with confidence intervals."""
DIVIDED = "Descent that divides by the same diagonal, without momentum,"

Row = dict[Any, Any]


def curvature_reading(frame: "pd.DataFrame") -> str:
    """What `curvature_study` found, in a few sentences, each with its reason.

    It says what learning rate lambda_max allows (2 / lambda_max without momentum, or how a given rate stands to its
    limit), how indefinite the Hessian is, whether few directions dominate it, which lower bound on the condition
    number is rigorous and why none is given as such, on how many examples the numbers depend, and what has not
    converged. The borders are constants of this file and a convention.

    Args:
        frame: Of one network, as `curvature_study` returns it. Rows that it lacks are not spoken of.

    Returns:
        Sentences, one a line.

    Raises:
        ValueError: No row, or several, of `lambda_max`.
    """
    columns = {"quantity", "value", "low", "high", "status", "reason"}
    top = _rows(frame, "lambda_max") if columns <= set(frame.columns) else []
    if len(top) != 1:
        raise ValueError(
            "curvature_reading reads what one curvature_study returned, with one row of lambda_max; this frame has "
            f"{len(top)}. Filter it to one condition."
        )
    sentences = _of_largest(frame, top[0])
    if _positive(top[0]):
        sentences += _of_negative(frame) + _of_dominance(frame)
    sentences += _of_condition(frame) + _of_data(frame, top[0]) + _of_convergence(frame)
    return "\n".join(sentences)


def _rows(frame: "pd.DataFrame", quantity: str, definition: str | None = None) -> list[Row]:
    rows = frame[frame["quantity"] == quantity]
    if definition is not None:
        rows = rows[rows["definition"] == definition] if "definition" in rows else rows.iloc[:0]
    if "batch_size" in rows and not quantity.endswith("_ratio"):
        rows = rows[rows["batch_size"].isna()]
    if "block" in rows and "other" in rows:
        rows = rows[rows["block"].isna()]
    return rows.to_dict("records")


def _known(frame: "pd.DataFrame", quantity: str, definition: str | None = None) -> Row | None:
    """The only row of its kind, if it has a value."""
    rows = [row for row in _rows(frame, quantity, definition) if not math.isnan(row["value"])]
    return rows[0] if len(rows) == 1 else None


def _between(row: Row) -> str:
    return f"{row['value']:.4g} [{row['low']:.4g}, {row['high']:.4g}]"


def _positive(row: Row) -> bool:
    """Whether an eigenvalue, or an unconverged bound on it, is positive beyond its error."""
    return bool(row["low"] > 0 or (row["status"] != "ok" and row["value"] > 0.1 * (row["high"] - row["low"])))


def _of_largest(frame: "pd.DataFrame", top: Row) -> list[str]:
    value = top["value"]
    if math.isnan(value):
        return [f"The largest eigenvalue is {top['status']}: {top['reason']}."]
    if not _positive(top):
        return _of_none_upwards(_known(frame, "lambda_min"), top)
    open_end = top["status"] != "ok"
    said = f"The largest eigenvalue is {_between(top)}."
    if open_end:
        ends = f"[{top['low']:.4g}, {top['high']:.4g}]"
        said = (
            f"The largest eigenvalue has not converged: it is {value:.4g} or larger, and one lies in {ends}."
        )
    product, limit = _known(frame, "learning_rate_product"), _known(frame, "stability_limit")
    if product is None or limit is None:
        most = "at most " if open_end else ""
        scaled = isinstance(top.get("precondition"), str)
        descent = DIVIDED if scaled else "Gradient descent without momentum"
        return [
            f"{said} {descent} is stable along its direction up to a learning rate of "
            f"{most}{2 / value:.3g}, which is 2 / lambda_max."
        ]
    share = product["value"] / limit["value"]
    told = f"Times the learning rate it is {product['value']:.3g}, and the limit of stability {limit['value']:.3g}: "
    if share > 1 + AT_THE_EDGE:
        return [said, told + "above the edge, so steps along this direction grow until the curvature falls."]
    if open_end:
        return [said, told + "below the edge as far as is known, but the eigenvalue may be larger."]
    if share >= 1 - AT_THE_EDGE:
        return [said, told + "at the edge of stability, where full-batch training often settles."]
    return [said, told + f"below the edge, which a rate {1 / share:.3g} times as large would reach."]


def _of_none_upwards(lowest: Row | None, top: Row) -> list[str]:
    """Where the largest eigenvalue is not positive beyond its error: a maximum, a plateau, or not known."""
    if top["status"] != "ok":
        return [
            f"The largest eigenvalue has not converged, {_between(top)}: whether any direction curves upwards is open."
        ]
    downwards = lowest is not None and lowest["high"] < 0
    if top["high"] < 0:
        return [
            f"The largest eigenvalue is {_between(top)}: no direction curves upwards, and the loss is curved as "
            "around a maximum."
        ]
    said = f"The largest eigenvalue is zero within its error, {_between(top)}"
    if lowest is not None and downwards:
        return [
            f"{said}: no direction is seen to curve upwards. The smallest is {_between(lowest)}: the loss curves "
            "downwards along its direction, as on a ridge or around a maximum."
        ]
    if lowest is None or lowest["status"] != "ok":
        return [f"{said}: no direction is seen to curve upwards."]
    return [
        f"{said}, and so is the smallest: to second order the loss is flat in every direction that was tried."
    ]


def _of_negative(frame: "pd.DataFrame") -> list[str]:
    ratio = _known(frame, "condition_number", "negative_ratio")
    if ratio is None:
        return []
    lowest = _known(frame, "lambda_min")
    if lowest is not None and not lowest["high"] < 0:
        if lowest["status"] != "ok":
            return [f"The smallest eigenvalue has not converged, {_between(lowest)}: its sign is open."]
        beyond = "" if lowest["low"] > 0 else " beyond that error"
        return [
            f"The smallest eigenvalue is {_between(lowest)}: no direction found curves downwards{beyond}."
        ]
    told = f"The most negative eigenvalue is {ratio['value']:.3g} times the largest in size: "
    open_end = "" if ratio["status"] == "ok" else " (not converged; there may be more negative ones)"
    if ratio["value"] > SADDLE:
        return [told + f"the loss curves down about as much as up, as around a saddle{open_end}."]
    if ratio["value"] < NEARLY_CONVEX:
        return [told + f"nearly convex in the directions that count{open_end}."]
    return [told + f"indefinite, but the upward curvature is larger{open_end}."]


def _of_dominance(frame: "pd.DataFrame") -> list[str]:
    said = []
    ratio = _known(frame, "condition_number", "top_ratio")
    if ratio is not None and ratio["status"] == "ok":
        word = (
            "a few directions are set apart" if ratio["value"] >= APART else "no direction is set far apart"
        )
        said.append(f"The first eigenvalue is {ratio['value']:.3g} times the fifth: {word}.")
    participation, size = _known(frame, "participation_ratio"), _known(frame, "parameters")
    if participation is not None and size is not None and size["value"] > 1:
        said.append(_of_participation(participation, size["value"]))
    return said


def _of_participation(row: Row, size: float) -> str:
    value, high = row["value"], row["high"]
    if high < ROUNDING:
        return "The participation ratio is zero to rounding: positive and negative eigenvalues cancel in the trace."
    told = f"The participation ratio is {value:.3g} of {size:.0f} parameters: "
    if high < 1 - ROUNDING:
        return (
            told
            + "below 1, which only positive and negative eigenvalues that cancel in the trace bring about."
        )
    if value < 1 - ROUNDING:
        return (
            told
            + f"with an interval up to {high:.3g}, one direction may carry the trace, or eigenvalues cancel in it."
        )
    if value < max(FEW, FEW_DIRECTIONS * size):
        return told + "few directions carry the trace."
    return told + f"the trace is spread over {'many' if value >= MANY else 'several'} directions."


def _of_condition(frame: "pd.DataFrame") -> list[str]:
    exact = _known(frame, "condition_number", "extreme_ratio")
    if exact is not None:
        tenth = _known(frame, "condition_number", "percentile_10")
        beside = ""
        if tenth is not None:
            infinite = "infinite, too" if math.isinf(exact["value"]) else "infinite"
            size = infinite if math.isinf(tenth["value"]) else f"{tenth['value']:.4g}"
            beside = f"; over the 10th percentile of their sizes it is {size}"
        if math.isinf(exact["value"]):
            told = (
                f"the smallest in size is zero to rounding, so that the largest over it is infinite{beside}."
            )
        else:
            told = f"the largest over the smallest in size is {exact['value']:.4g}{beside}."
        return [f"All eigenvalues are known: {told}"]
    bound = _known(frame, "condition_number", "kappa_lower")
    if bound is None:
        return []
    if math.isfinite(bound["high"]):
        return [
            f"Largest over smallest eigenvalue in size is in [{bound['low']:.4g}, {bound['high']:.4g}]: the products "
            "spent span the whole space, so that no eigenvalue is missing."
        ]
    return [
        f"Largest over smallest eigenvalue in size is at least {bound['value']:.3g}, which is rigorous and may grow "
        "with the products spent. The number itself is not given: which eigenvalue is the smallest in size, products "
        "do not tell."
    ]


def _of_data(frame: "pd.DataFrame", top: Row) -> list[str]:
    said = []
    ratios = _rows(frame, "lambda_max_ratio")
    for row in ratios:
        if math.isnan(row["value"]) or row["batch_size"] == top.get("examples"):
            continue
        if math.isnan(row["low"]):
            said.append(
                f"On one batch of {int(row['batch_size'])} examples lambda_max is {row['value']:.4g} times that of "
                "all: more draws would tell whether batches of this size do."
            )
            continue
        told = (
            f"On batches of {int(row['batch_size'])} examples lambda_max is {_between(row)} times that of all"
        )
        if row["low"] > BIASED:
            said.append(f"{told}: a minibatch's number is too large.")
        elif row["high"] <= BIASED:
            said.append(f"{told}: minibatches of this size will do.")
        else:
            said.append(f"{told}: no bias that these {int(row['n'])} batches show for certain.")
    examples = top.get("examples")
    if not ratios and examples is not None:
        few = " That is few: minibatch_curvature shows how much." if examples < FEW_EXAMPLES else ""
        these = "this one example" if examples == 1 else f"these {int(examples)} examples"
        said.append(f"All of this is for {these}; of fewer, lambda_max is as a rule larger.{few}")
    if "train" in str(top.get("batch_norm")):
        said.append(
            "Batch statistics were differentiated through: this is the loss training descends on, whose Hessian is no "
            "mean of those of parts of the batch."
        )
    return said


def _of_convergence(frame: "pd.DataFrame") -> list[str]:
    open_ones = frame[frame["status"] == "unconverged"]
    if "rank" in open_ones and "lambda_max" in set(frame["quantity"]):
        # The same eigenvalues go by two names.
        open_ones = open_ones[~((open_ones["quantity"] == "eigenvalue") & open_ones["rank"].isin((1, -1)))]
    kinds = open_ones["quantity"]
    if kinds.empty:
        return ["Everything that was iterated has converged."]
    single = kinds.isin(OF_EIGENVALUES)
    said = []
    if single.any():
        said.append(
            f"Not converged are {_counted(kinds[single])}: bounds of eigenvalues hold for some eigenvalue, more "
            "products decide which."
        )
    if not single.all():
        said.append(
            f"Less accurate than was asked are {_counted(kinds[~single])}: their intervals tell how much."
        )
    return said


def _counted(kinds: "pd.Series") -> str:
    return ", ".join(f"{count} of {kind}" for kind, count in kinds.value_counts(sort=False).items())
