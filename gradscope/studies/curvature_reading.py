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
FEW_DIRECTIONS = 0.01
"""A participation ratio below this share of the parameters is called few directions."""
APART = 5.0
"""lambda_1 / lambda_5 above this is called set apart."""
BIASED = 1.1
"""Minibatch eigenvalues larger than this times the full ones are called too large."""
FEW_EXAMPLES = 512
"""With fewer examples than this, and no minibatches measured, a warning is given."""

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
    if top[0]["value"] > 0:
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


def _of_largest(frame: "pd.DataFrame", top: Row) -> list[str]:
    value = top["value"]
    if math.isnan(value):
        return [f"The largest eigenvalue is {top['status']}: {top['reason']}."]
    if value == 0:
        return [
            "The largest eigenvalue is zero: to second order the loss is flat in every direction that was tried."
        ]
    if value < 0:
        return [f"The largest eigenvalue is {_between(top)}: no direction curves upwards."]
    least = "" if top["status"] == "ok" else " at least, for it has not converged,"
    said = [f"The largest eigenvalue is{least} {_between(top)}."]
    product, limit = _known(frame, "learning_rate_product"), _known(frame, "stability_limit")
    if product is None or limit is None:
        return [
            f"{said[0]} Gradient descent without momentum is stable along its direction up to a learning rate of "
            f"{2 / value:.3g}, which is 2 / lambda_max."
        ]
    share = product["value"] / limit["value"]
    told = f"Times the learning rate it is {product['value']:.3g}, and the limit of stability {limit['value']:.3g}: "
    if abs(share - 1) <= AT_THE_EDGE:
        return [*said, told + "at the edge of stability, where full-batch training often settles."]
    if share > 1:
        return [*said, told + "above the edge, so steps along this direction grow until the curvature falls."]
    if top["status"] != "ok":
        return [*said, told + "below the edge as far as is known, but the eigenvalue may be larger."]
    return [*said, told + f"below the edge; the rate could be {1 / share:.3g} times as large."]


def _of_negative(frame: "pd.DataFrame") -> list[str]:
    ratio = _known(frame, "condition_number", "negative_ratio")
    if ratio is None:
        return []
    lowest = _known(frame, "lambda_min")
    if lowest is not None and lowest["value"] >= 0:
        return [f"The smallest eigenvalue is {_between(lowest)}: no direction found curves downwards."]
    told = f"The most negative eigenvalue is {ratio['value']:.3g} of the largest in size: "
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
    if participation is not None and size is not None:
        told = f"The participation ratio is {participation['value']:.3g} of {size['value']:.0f} parameters: "
        if participation["value"] < 1:
            word = (
                "below 1, which only positive and negative eigenvalues that cancel in the trace bring about"
            )
        elif participation["value"] < FEW_DIRECTIONS * size["value"]:
            word = "few directions carry the trace"
        else:
            word = "the trace is spread over many directions"
        said.append(told + word + ".")
    return said


def _of_condition(frame: "pd.DataFrame") -> list[str]:
    exact = _known(frame, "condition_number", "extreme_ratio")
    if exact is not None:
        tenth = _known(frame, "condition_number", "percentile_10")
        beside = (
            "" if tenth is None else f"; over the 10th percentile of their sizes it is {tenth['value']:.4g}"
        )
        if math.isinf(exact["value"]):
            told = f"the smallest in size is zero to rounding, so that no condition number is finite{beside}."
        else:
            told = f"the largest over the smallest in size is {exact['value']:.4g}{beside}."
        return [f"All eigenvalues are known: {told}"]
    bound = _known(frame, "condition_number", "kappa_lower")
    if bound is None:
        return []
    return [
        f"Largest over smallest eigenvalue in size is at least {bound['value']:.3g}, which is rigorous and grows with "
        "the products spent. The number itself is not given: the smallest eigenvalues in size, as a rule in a dense "
        "bulk around zero, are not resolved by products."
    ]


def _of_data(frame: "pd.DataFrame", top: Row) -> list[str]:
    said = []
    ratios = _rows(frame, "lambda_max_ratio")
    for row in ratios:
        if math.isnan(row["value"]):
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
        said.append(
            f"All of this is for these {int(examples)} examples; of fewer, lambda_max is as a rule larger.{few}"
        )
    if "train" in str(top.get("batch_norm")):
        said.append(
            "Batch statistics were differentiated through: this is the loss training descends on, whose Hessian is no "
            "mean of those of parts of the batch."
        )
    return said


def _of_convergence(frame: "pd.DataFrame") -> list[str]:
    kinds = frame[frame["status"] == "unconverged"]["quantity"]
    if kinds.empty:
        return ["Everything that was iterated has converged."]
    counted = ", ".join(f"{count} of {kind}" for kind, count in kinds.value_counts(sort=False).items())
    return [
        f"Not converged are {counted}: their bounds hold for some eigenvalue, more products decide which."
    ]
