"""Which start suits a network: how its gradients correlate and grow before and after each initialisation."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradscope.instruments.quiet import random_state_kept
from gradscope.nets import initialise, looks_linear_deviation
from gradscope.nets.initialisation import SCHEMES as ALL_SCHEMES
from gradscope.nets.options import choice
from gradscope.problem import Problem
from gradscope.studies.frames import where
from gradscope.studies.gradient_correlation import gradient_correlation
from gradscope.studies.gradient_flow import gradient_flow

if TYPE_CHECKING:
    import pandas as pd

SCHEMES = (
    *("he", "xavier", "orthogonal", "delta_orthogonal", "looks_linear", "looks_linear_relu"),
    *("fixup", "zero_gamma"),
)
AS_GIVEN = "as given"
FEW = 16
_PLACE = ["quantity", "unit", "site", "depth", "call"]
_COLUMNS = ["scheme", "batch_norm", *_PLACE, "value", "low", "high", "n", "status", "reason"]


def initialisation_study(
    model: nn.Module | Callable[[int], nn.Module],
    data: Any,
    schemes: Sequence[str] = SCHEMES,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    draws: int = 5,
    seed: int = 0,
) -> "pd.DataFrame":
    """Gradient correlation and growth of one network as it is given, and after each initialisation.

    Everything is done to copies in eval mode: the model itself is not touched.

    Args:
        model: The network; or f(seed) that builds it, of which every draw starts anew, so that "as given" has an
            interval too.
        data: As in `Problem`; the first batch is looked at, two examples or more. Targets are not needed: the sum of
            an example's outputs is differentiated (Definition 1).
        schemes: Names as in `nets.initialise`. `looks_linear` and `looks_linear_relu` are given examples, so that
            they are checked to have made the network linear.
        options: For a scheme, further arguments of `nets.initialise`: {"small": {"scale": 0.01}, "fixup":
            {"branches": [...]}, "zero_gamma": {"last_norms": "layer*.bn2"}, "he": {"untouched": "*"}}.
        draws: Networks for each scheme; of a given model "as given" has one.
        seed: Of the first draw; the next has the next seed.

    Returns:
        Frame with columns `scheme` ("as given" first), `batch_norm`, `quantity`, `unit`, `site`, `depth`, `call`,
        `value`, `low`, `high`, `n`, `status`, `reason`: the mean over draws (n of them) with its Student-t 95 %
        interval; of a single draw, the interval over examples where there is one. Quantities: `correlation_R` at the
        input and at every layer, as `gradient_correlation`; `gradient_growth_rate`, as `gradient_flow`;
        `looks_linear_deviation`, as `nets.looks_linear_deviation`, 0 for a linear map. A value that one draw leaves
        undefined (all of `zero_gamma` and `fixup` that is exactly 0) is `undefined`. A scheme that does not fit the
        network is one row, `skipped`, with the reason; so is one that would leave matrices as they are (attention's
        joint projection, say), unless its option `untouched` names them. Embeddings stay as they are.

    Raises:
        ValueError: No scheme, no draws, options for a scheme that is not asked for, or a factory that builds no
            network; as `gradient_correlation`.

    Source:
        Balduzzi et al. (2017), The Shattered Gradients Problem, arXiv:1702.08591, for R and looks-linear starts.
    """
    import pandas as pd

    options = options or {}
    if not schemes or isinstance(schemes, str) or not isinstance(draws, int) or draws < 1:
        raise ValueError(
            f"initialisation_study needs schemes and a draw, got {schemes!r} and {draws!r} draws."
        )
    for scheme in schemes:
        choice("scheme", scheme, ALL_SCHEMES)
    for scheme in options:
        if scheme not in schemes:
            raise ValueError(
                f"options are given for {scheme!r}, which is not among the schemes {list(schemes)}."
            )
    frames = []
    for scheme in (AS_GIVEN, *schemes):
        single = scheme == AS_GIVEN and isinstance(model, nn.Module)
        read = []
        for draw in range(seed, seed + (1 if single else draws)):
            with random_state_kept():
                drawn = _copy_of(model, draw)
                problem = Problem(drawn, data)
                try:
                    if scheme != AS_GIVEN:
                        _start(problem, scheme, draw, options.get(scheme, {}))
                except ValueError as misfit:
                    read = [_skipped(str(misfit), problem.batch_norm_name)]
                    break
                read.append(_read(problem))
        frames.append(_over_draws(read).assign(scheme=scheme))
    return pd.concat(frames, ignore_index=True)[_COLUMNS]


def _copy_of(model: nn.Module | Callable[[int], nn.Module], seed: int) -> nn.Module:
    if isinstance(model, nn.Module):
        return copy.deepcopy(model).eval()
    built = model(seed)
    if not isinstance(built, nn.Module):
        raise ValueError(f"The factory is f(seed) -> nn.Module; it returned {type(built).__name__}.")
    return copy.deepcopy(built).eval()


def _start(problem: Problem, scheme: str, seed: int, options: Mapping[str, Any]) -> None:
    arguments = dict(options)
    if scheme in ("looks_linear", "looks_linear_relu"):
        arguments.setdefault("inputs", _few(problem))
    initialise(problem.model, scheme, seed=seed, **arguments)


def _few(problem: Problem) -> Any:
    """Examples enough to see a rectifier at work; the whole activations of a large batch would be kept."""
    inputs = problem.first_batch()[0]
    return inputs[:FEW] if isinstance(inputs, torch.Tensor) else inputs


def _read(problem: Problem) -> "pd.DataFrame":
    """What is read of one network."""
    import pandas as pd

    correlation = where(gradient_correlation(problem, twin=False, theory=False), quantity="correlation_R")
    flow = where(gradient_flow(problem, source="output"), quantity="gradient_growth_rate")
    deviation, reason = math.nan, ""
    try:
        deviation = looks_linear_deviation(problem.model, _few(problem))
    except ValueError as unfit:
        reason = str(unfit)
    if not reason and not math.isfinite(deviation):
        reason = "an output is infinite or NaN"
    linear = {"quantity": "looks_linear_deviation", "unit": "1", "site": "output", "value": deviation}
    row = {"status": "undefined" if reason else "ok", "reason": reason, "depth": -1, "call": 0}
    frame = pd.concat([correlation, flow, pd.DataFrame([linear | row])], ignore_index=True)
    return frame.assign(batch_norm=problem.batch_norm_name)


def _skipped(reason: str, batch_norm: str) -> "pd.DataFrame":
    import pandas as pd

    place = {"quantity": "correlation_R", "unit": "1", "site": "input", "depth": 0, "call": 0}
    rest = {"batch_norm": batch_norm, "value": math.nan, "status": "skipped", "reason": reason}
    return pd.DataFrame([place | rest])


def _over_draws(frames: "list[pd.DataFrame]") -> "pd.DataFrame":
    """Means over draws, with Student-t intervals; a place that one draw leaves undefined stays so."""
    import pandas as pd
    from scipy.stats import t

    rows = []
    for place, group in pd.concat(frames, ignore_index=True).groupby(_PLACE, sort=False):
        values = torch.tensor(group["value"].to_numpy(dtype=float))
        failed = group[group["status"] != "ok"]
        value, low, high = float(values.mean()), math.nan, math.nan
        if len(values) > 1:
            half = float(t.ppf(0.975, len(values) - 1) * values.std() / math.sqrt(len(values)))
            low, high = value - half, value + half
        elif "low" in group.columns:
            low, high = float(group["low"].iloc[0]), float(group["high"].iloc[0])
        status, reason = ("ok", "") if failed.empty else tuple(failed[["status", "reason"]].iloc[0])
        rows.append(
            dict(zip(_PLACE, place, strict=True))
            | {"batch_norm": group["batch_norm"].iloc[0], "value": value, "low": low, "high": high}
            | {"n": int(values.isfinite().sum()), "status": status, "reason": reason}
        )
    return pd.DataFrame(rows)
