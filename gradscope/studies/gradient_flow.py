"""Does the gradient reach every layer: how large is it, how fast does it grow, which units let it through?"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradscope.gradients.example_values import ExampleSource
from gradscope.instruments.batch_norm import warn_of_mixing
from gradscope.instruments.sites import sites
from gradscope.problem import as_problem
from gradscope.studies.flow.growth_rows import growth_rows
from gradscope.studies.flow.output_rows import output_rows
from gradscope.studies.flow.parameter_rows import parameter_rows
from gradscope.studies.flow.passes import flow_of
from gradscope.studies.flow.rectifier_rows import rectifier_rows

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = [
    *("source", "reduction", "batch_norm", "quantity", "unit", "site", "depth", "call", "parameter"),
    *("value", "low", "high", "n", "status", "reason"),
]


def gradient_flow(
    problem: Any,
    *,
    at: str | Sequence[str] | None = None,
    source: ExampleSource = "loss",
    learning_rate: float | None = None,
) -> "pd.DataFrame":
    """Norms of gradients at every layer, their growth over depth, and how many units are switched off.

    Costs one forward and one backward pass over each batch (with batch_norm="own" a backward pass for each example).

    Args:
        problem: Problem or (model, data); all batches are used.
        at: Sites, as in `instruments.sites`; None for every module with parameters of its own. The parameters of a
            site are its own with None, else all inside it.
        source: As in `example_values`: what is differentiated for each example.
        learning_rate: Of plain gradient descent, for `update_to_weight_ratio`; None leaves those rows out.

    Returns:
        Frame with columns `source`, `reduction`, `batch_norm` (the meaning in force), `quantity`, `unit`, `site`,
        `depth` (order of running, the first is 1; -1 where a module's parameters are used, but not by running it),
        `call`, `parameter`, `value`, `low`, `high` (95 %), `n`, `status`, `reason`. Norms are Euclidean, taken in
        float64 of scaled rows, so that they neither underflow nor overflow unless the gradient itself does.

        At each output of a site, for each `call` of a re-used one; per-example gradients are of each example's own
        value, never divided by the number of examples (n: examples):

        - `output_gradient_log10_norm`: of the root mean square over examples of the gradient's norm;
        - `output_gradient_log10_norm_mean` (Student's interval), `output_gradient_log10_norm_sd`: over examples whose
          gradient is not zero;
        - `output_gradient_zero_examples`: share of examples whose gradient is exactly zero;
        - `output_gradient_zero_share`, `output_gradient_subnormal_share`, `output_gradient_not_finite_share`: of the
          entries (n).

        Of the parameters of a site, `parameter` "all" for them together and each by its name in the site; `call` is -1
        for all calls together (n: entries):

        - `parameter_gradient_log10_norm`: of the gradient of the values' mean (or sum, as the problem's `reduction`
          says) over all examples of all batches;
        - `parameter_norm`; `gradient_to_weight_ratio`, the two norms' quotient; `update_to_weight_ratio`, that times
          the learning rate;
        - `parameter_gradient_zero_share`, `parameter_gradient_subnormal_share`, `parameter_gradient_not_finite_share`.

        A tensor shared between sites is counted at the first one.

        Of each rectifier (`instruments.rectifiers`; n: examples), a unit being one number of an example's output:
        `active_fraction`, `co_active_fraction` (1/4 where units are balanced), `dead_fraction`, `always_on_fraction`,
        and for images `dead_channel_fraction`.

        Of "all layers": `gradient_growth_rate`, natural logarithm of the factor by which the norm changes for each
        layer on the way back to the input (below 0 it vanishes); `gradient_growth_factor`, that factor; and
        `gradient_growth_over_fit`, the factor over all fitted layers. `reason` says which outputs were fitted
        (`flow.growth`), n how many; nothing is said of others. At the fitted outputs `fitted_gradient_log10_norm` is
        the line, with what the rate's interval leaves open. `flow_reading` puts it in words.

        `status`: `underflow` where zeros or lost digits are the precision's doing, also where the signal was lost on
        its way forward, so that rectifiers are off; `overflow` with infinite or NaN
        entries, `undefined` for a gradient that is zero, `skipped` for what cannot be read.

    Raises:
        ValueError: No site; no positive learning rate; as `example_values`.

    Source:
        Glorot & Bengio (2010); He et al. (2015), arXiv:1502.01852 (norms over depth); Lu et al. (2019),
        arXiv:1903.06733 (dead units); Balduzzi et al. (2017), arXiv:1702.08591, section 3 (co-activation).
    """
    import pandas as pd

    if learning_rate is not None and not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate is a positive number, got {learning_rate!r}.")
    problem = as_problem(problem)
    label = problem.batch_norm_name
    warn_of_mixing(problem)
    found = sites(problem.model, at)
    with problem.prepared():
        flow = flow_of(problem, found, source, everywhere=at is None)
        unit = _named(source)
        rows = output_rows(flow, unit)
        rows += parameter_rows(problem, flow, found, at is None, unit, learning_rate)
        rows += rectifier_rows(flow) + growth_rows(flow, unit, named=at is not None)
    return pd.DataFrame(rows).assign(source=unit, reduction=problem.reduction, batch_norm=label)[_COLUMNS]


def _named(source: ExampleSource) -> str:
    if isinstance(source, int):
        return f"output {source}"
    return source if isinstance(source, str) else getattr(source, "__name__", type(source).__name__)
