"""Do the gradients of different examples agree, in every layer and in all of them together?"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.gradients.example_values import ExampleSource
from gradscope.gradients.gathered import gathered
from gradscope.gradients.layer_grams import LayerGram, layer_grams
from gradscope.gradients.own_parameters import without_own_parameters
from gradscope.problem import Problem, as_problem
from gradscope.studies.agreement.layers import Place, class_numbers, places
from gradscope.studies.agreement.readings import READ
from gradscope.studies.agreement.rows import Options, gram_rows, without_value

if TYPE_CHECKING:
    import pandas as pd

ALL = "all parameters"
# What `layer_grams` says of parameters whose gradient is zero for every example.
NOT_SEEN = "the source does not depend on its parameters"
BY = ("class", "distance")


def gradient_agreement(
    problem: Any,
    *,
    at: str | Sequence[str] | None = None,
    source: ExampleSource = "loss",
    factors: bool = True,
    by: str | Sequence[str] = (),
    bins: int = 8,
    white_draws: int = 10,
    block_size: int | None = None,
    seed: int = 0,
) -> "pd.DataFrame":
    """Everything that Grams of per-example gradients say, for every layer, from one `layer_grams` and a forward pass.

    Quantities, the function that defines each, and their extremes are in `measures/gram_*.py`:

    - of every Gram: `correlation_R`; cosines of pairs as `mean_cosine` (the stiffness S_cos), `median_cosine`,
      `cosine_quantile_05`, `share_negative_cosines`, `within_class_cosine`, `between_class_cosine`; `sign_stiffness`;
      `cosine_confusion`; `stable_rank`, `entropy_effective_rank`, `participation_ratio`;
    - where the number of coordinates is known: `white_stable_rank`, that of white noise of the same shape, and
      `relative_effective_rank`, the ratio to it;
    - of parameters only: `gradient_confusion`; `gradient_diversity`, `diversity_batch_bound`, `m_coherence`; the
      unbiased parts `squared_gradient` and `gradient_covariance_trace` and their ratio `simple_noise_scale`;
      `label_alignment`, `centred_label_alignment`.

    Args:
        problem: Problem or (model, data); examples of all batches are compared, two or more.
        at: Layers, as in `instruments.sites`; None for every module with parameters of its own.
        source: What is differentiated for each example: `loss`, `output`, `logit`, an output's number, or a function of
            (outputs, targets). Loss gradients carry a factor p - y that flips signs between classes: R of the loss is
            not R of the outputs.
        factors: Also the two factors of a weight's Gram where it has them: `forward` (products of the layer's inputs)
            and `backward` (products of its output gradients), whose cosines multiply to the weight's. Inputs that are
            nearly the same hide shattering behind them.
        by: `class`: also `class_cosine` for every two classes (columns `class`, `other_class`). `distance`: also
            `stiffness_at_distance` against the cosine distance of the inputs (column `distance`) and the
            `dynamical_critical_length` where it reaches 0.
        bins: Of distance, with as many pairs in each.
        white_draws: Matrices of white noise drawn for its stable rank; 0 for the closed form, which is a few percent
            low for small batches.
        block_size: As in `layer_grams`.
        seed: Of the white noise.

    Returns:
        Frame with a row for each layer, Gram and quantity. Columns `source`, `batch_norm`, `batches` ("all": examples
        of all batches are compared), `gradient` (`parameter`, `output`, `forward`, `backward`), `quantity`, `unit`,
        `site`, `depth` (order of running, the first is 1), `engine` (how the Gram was had), `value`, `low`, `high`
        (95 % by the jackknife over examples; none for extremes and ranks, which change with the number of examples;
        infinite where nothing bounds them), `n` (examples with a non-zero gradient), `n_zero`, `status`, `reason`. The
        rows of `site` "all parameters" are of the summed Grams of these layers, undefined where one of them could not
        be had. Where squared norms are so uneven that fewer than half of the examples would count, the intervals of
        ratios of sums are too narrow, and `reason` says so. Examples labelled -100, which losses leave out, are of no
        class. A Gram that could not be had is `skipped` with its reason, such as the parameters' of a container, which
        has none of its own.

    Raises:
        ValueError: Fewer than two examples, an unknown source or `by`, inputs without distance, no layer, or
            batch_norm='train', whose gradients mix examples.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591; Fort et al. (2019), arXiv:1901.09491; Sankararaman et al. (2020),
        arXiv:1904.06963; Yin et al. (2018), arXiv:1706.05699; McCandlish et al. (2018), arXiv:1812.06162.
    """
    import pandas as pd

    problem = as_problem(problem)
    asked = (by,) if isinstance(by, str) else tuple(by)
    if not set(asked) <= set(BY):
        raise ValueError(f"by is any of {', '.join(BY)}, got {by!r}.")
    if problem.examples < 2:
        raise ValueError(f"gradient_agreement compares examples, and the data has {problem.examples}.")
    problem, largest = gathered(problem)
    inputs, targets = problem.first_batch()
    if "distance" in asked and not (isinstance(inputs, Tensor) and inputs.is_floating_point()):
        raise ValueError(
            "by='distance' measures it between inputs, which have to be one floating-point tensor. Leave it out."
        )
    block_size = largest if block_size is None else block_size
    grams = layer_grams(problem, at=at, source=source, block_size=block_size)
    where = places(problem, at, block_size)
    labels = class_numbers(targets, problem.examples)
    options = Options(labels, inputs, asked, bins, white_draws, seed)
    widths = {name: sum(_size(problem, name) for name in gram.parameters) for name, gram in grams.items()}
    rows = []
    for name in sorted(grams, key=lambda name: _order(where.get(name))):
        place = where.get(name, Place(math.nan, 0))
        at_layer = {"site": name, "depth": place.depth, "engine": grams[name].engine}
        sizes = {"parameter": widths[name], "output": place.width}
        rows += _layer_rows(grams[name], sizes, at_layer, factors, options)
    missing = without_own_parameters(problem, at)
    rows += _rows_of_all(grams, missing, sum(widths.values()), options)
    frame = pd.DataFrame(rows).assign(source=grams.source, batch_norm=grams.batch_norm, batches="all")
    further = [column for column in ("class", "other_class", "distance") if column in frame.columns]
    whole = {column: "Int64" for column in ("class", "other_class") if column in further}
    return frame[[*_WHERE, *further, *_WHAT]].astype(whole)


_WHERE = ["source", "batch_norm", "batches", "gradient", "quantity", "unit", "site", "depth", "engine"]
_WHAT = ["value", "low", "high", "n", "n_zero", "status", "reason"]


def _layer_rows(
    gram: LayerGram, sizes: dict[str, int], at_layer: dict[str, Any], factors: bool, options: Options
) -> list[dict[str, Any]]:
    rows = []
    log_norms = {"parameter": gram.parameter_log_norms, "output": gram.output_log_norms}
    for gradient in READ:
        products = getattr(gram, gradient)
        if products is not None and (factors or gradient in log_norms):
            size = sizes.get(gradient, 0)
            rows += gram_rows(products, log_norms.get(gradient), gradient, size, at_layer, options)
        elif gradient in log_norms:
            reason = gram.reason or f"the layer has no {gradient} Gram"
            unread = {"gradient": gradient, "n": 0, "n_zero": 0} | without_value("skipped", reason)
            rows += [
                at_layer | unread | {"quantity": quantity, "unit": reading.unit}
                for quantity, reading in READ[gradient].items()
            ]
    return rows


def _rows_of_all(
    grams: dict[str, LayerGram], missing: str, size: int, options: Options
) -> list[dict[str, Any]]:
    """The rows of the network's whole gradient, whose Gram is the sum of the layers'."""
    products = [gram.parameter for gram in grams.values() if gram.parameter is not None]
    lost = [f"{name} ({gram.reason})" for name, gram in grams.items() if _is_lost(gram)]
    if lost:
        missing = f"the sum lacks the Gram of {', '.join(lost)}"
    if not products or lost:
        at_none = {"site": ALL, "depth": math.nan, "engine": "", "gradient": "parameter", "n": 0, "n_zero": 0}
        status = "undefined" if lost else "skipped"
        unread = at_none | without_value(status, missing or "no layer has a Gram of its parameters")
        readings = READ["parameter"].items()
        return [unread | {"quantity": quantity, "unit": reading.unit} for quantity, reading in readings]
    engines = sorted({gram.engine for gram in grams.values() if gram.parameter is not None})
    at_all = {"site": ALL, "depth": math.nan, "engine": " + ".join(engines)}
    return gram_rows(torch.stack(products).sum(dim=0), None, "parameter", size, at_all, options)


def _is_lost(gram: LayerGram) -> bool:
    """Whether parameters count here whose Gram is unknown, rather than zero because the source does not see them."""
    if gram.parameter is not None or not gram.parameters:
        return False
    return NOT_SEEN not in gram.reason or not bool(gram.parameter_log_norms.isnan().all())


def _order(place: Place | None) -> float:
    return math.inf if place is None or math.isnan(place.depth) else place.depth


def _size(problem: Problem, parameter: str) -> int:
    return problem.model.get_parameter(parameter).numel()
