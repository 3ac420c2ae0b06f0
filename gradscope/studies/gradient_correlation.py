"""Do gradients shatter in this network, and where?"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradscope.gradients.example_values import ExampleSource
from gradscope.instruments.batch_norm import warn_of_mixing
from gradscope.problem import Problem, as_problem, examples_in
from gradscope.studies.shattering.expected import LAW, NoLaw, expected_correlation
from gradscope.studies.shattering.heard import example_gradients
from gradscope.studies.shattering.rows import QUANTITIES, rows_of, unread
from gradscope.studies.shattering.twin import TWIN, residual_junctions, twin_of

if TYPE_CHECKING:
    import pandas as pd

THEORY = "theory_correlation_R"
_COLUMNS = [
    *("source", "centred", "batch_norm", "quantity", "unit", "site", "depth", "call"),
    *("value", "low", "high", "n", "n_zero", "n_pairs", "status", "reason"),
]


def gradient_correlation(
    problem: Any,
    *,
    at: str | Sequence[str] | None = None,
    source: ExampleSource = "output",
    twin: bool = True,
    theory: bool = True,
    centred: bool = False,
) -> "pd.DataFrame":
    """Correlation between the gradients of different examples, at the input and at every layer's output.

    Near 1, examples pull the weights the same way; near 0, their gradients are as unrelated as white
    noise ("shattered"). What is near depends on the architecture, so a network with skips is compared with its
    plain twin, the same weights with the skips cut, and networks whose law is known with theory. `shattering_reading`
    says in words what the frame shows.

    Args:
        problem: Problem or (model, data); the first batch is used, and needs two examples or more. Of a
            bare pair the targets may be missing if `source` is `output`.
        at: Sites, as in `instruments.sites`; None for every module with parameters of its own.
        source: What is differentiated for each example: `output`, the sum of its outputs
            (Definition 1); `logit`, that of its target; `loss`, whose factor p - y flips signs between classes; k, the
            k-th output; or `f(outputs, targets)` returning one value for each example.
        twin: Whether to measure the network with its skips cut, too. A fair control at initialisation only: a
            network trained with its skips is broken without them. Where stored batch-norm statistics are in force, the
            twin uses those of the batch. A network without skips has no twin and no such rows.
        theory: Whether to add what is expected at infinite width with random weights of the same variance, for
            `source="output"` and networks of vectors made of linear layers, ReLU or tanh, frozen batch normalisation
            and sums (`studies.shattering.expected`). Meaningful at initialisation. Other networks get no such rows.

        centred: Whether to take off the mean gradient over examples first. Definition 1 does not. R is then
            -1/(N - 1) whatever the network, since what is left adds up to zero; there is no theory for it.

    Returns:
        Frame with a row for each site and quantity: `correlation_R`, ratio of sums, with its jackknife 95 % interval
        over examples; `mean_cosine` over pairs of non-zero gradients, likewise; the same of the twin,
        `twin_correlation_R` and `twin_mean_cosine`; `theory_correlation_R`. Columns `source`, `centred`, `batch_norm`
        (the meaning in force), `quantity`, `unit`, `site` (`input` first; for integers, what the embedding makes of
        them), `depth` (order of running, input 0), `call`, `value`, `low`, `high`, `n` (examples with a non-zero
        gradient), `n_zero`, `n_pairs` (of non-zero ones), `status`, `reason`. A site whose output has no row for each
        example (windows, flattened tokens) is `skipped`.

    Raises:
        ValueError: Fewer than two examples, an unknown source, or no site.

    Warns:
        UserWarning: `batch_norm="train"`, where a summed backward pass mixes examples.

    Source:
        Balduzzi et al. (2017), The Shattered Gradients Problem, arXiv:1702.08591, Definition 1.
    """
    import pandas as pd

    problem = as_problem(problem)
    warn_of_mixing(problem)
    rows = _measured(problem, at, source, centred)
    if twin:
        rows += _of_twin(problem, at, source, centred)
    if theory and source == "output" and not centred:
        rows += _of_theory(problem, rows)
    named = source if isinstance(source, str | int) else getattr(source, "__name__", "function")
    return pd.DataFrame(rows).assign(source=named, centred=centred)[_COLUMNS]


def _measured(problem: Problem, at: Any, source: ExampleSource, centred: bool) -> list[dict[str, Any]]:
    label = problem.batch_norm_name
    with problem.prepared():
        examples = examples_in(problem.first_batch()[0])
        if examples < 2:
            raise ValueError(f"gradient_correlation compares examples, and the first batch has {examples}.")
        heard = example_gradients(problem, at, source, own=label == "own")
    rows = [row for where, gradient in heard for row in rows_of(where, gradient, examples, centred)]
    return [{"batch_norm": label} | row for row in rows]


def _of_twin(problem: Problem, at: Any, source: ExampleSource, centred: bool) -> list[dict[str, Any]]:
    try:
        junctions = residual_junctions(problem)
    except ValueError:
        # The graph cannot be seen, so there is nothing to compare with.
        return []
    if not junctions:
        return []
    try:
        with twin_of(problem, junctions) as twin:
            rows = _measured(twin, at, source, centred)
    except (ValueError, RuntimeError) as error:
        place = {"batch_norm": problem.batch_norm_name, "unit": "1", "site": "input", "depth": 0, "call": 0}
        rows = unread(place, 0, 0, "skipped", f"the skips cannot be cut: {error}")
    return [row | {"quantity": TWIN + row["quantity"]} for row in rows]


def _of_theory(problem: Problem, measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        expected = expected_correlation(problem)
    except NoLaw:
        return []
    rows = []
    for row in measured:
        measurable = row["quantity"] == QUANTITIES[0] and row["status"] != "skipped"
        if measurable and row["site"] in expected:
            value = expected[row["site"]]
            told = {"quantity": THEORY, "value": value, "low": math.nan, "high": math.nan}
            known = math.isfinite(value)
            told |= {
                "status": "ok" if known else "undefined",
                "reason": LAW if known else "the gradient is zero",
            }
            rows.append(row | told)
    return rows
