"""Which layers could learn this batch, how evenly, and towards its labels?"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.gradients.gathered import gathered
from gradscope.gradients.tangent_kernels import tangent_kernels
from gradscope.measures.correlation import Estimate
from gradscope.measures.gram_alignment import centred_kernel_alignment, class_kernel, kernel_alignment
from gradscope.measures.gram_spectrum import kernel_condition, kernel_trace
from gradscope.problem import as_problem
from gradscope.studies.agreement.layers import class_numbers, places
from gradscope.studies.agreement.readings import IGNORED
from gradscope.studies.agreement.rows import with_value, without_value

if TYPE_CHECKING:
    import pandas as pd

NO_TARGETS = "the targets are neither class numbers nor numbers to be fitted, one row for each example"
FLAT = "the kernel is zero, or centring leaves nothing of it or of the labels"


def tangent_kernel_spectrum(
    problem: Any, *, outputs: str | int = "trace", at: str | Sequence[str] | None = None
) -> "pd.DataFrame":
    """Trace, largest eigenvalue, condition number and label alignment of each layer's tangent kernel.

    The eigenvalues are the rates at which gradient descent, linearised, learns the batch: an ill-conditioned kernel
    learns some differences between examples far more slowly than others.

    Args:
        problem: Problem or (model, data), all examples of it. Class targets are aligned with as classes, without
            examples labelled -100; floating-point ones as products of target vectors; without targets alignment is
            skipped.
        outputs: As in `tangent_kernels`, with its cost: one `layer_grams` for each output.
        at: As in `tangent_kernels`.

    Returns:
        Frame with a row for each layer and quantity, and rows of `site` "all parameters": `kernel_trace`,
        `kernel_largest_eigenvalue`, `kernel_condition_number`, `kernel_unresolved_eigenvalues` (below rounding: B times
        the smallest step of the network's own precision), `kernel_label_alignment`, `kernel_centred_label_alignment`.
        Columns `batch_norm`, `batches` ("all": one kernel over the examples of all), `outputs`, `quantity`, `unit`,
        `site`, `depth`, `value`, `low`, `high`, `n` (examples), `status`, `reason`. Where eigenvalues are unresolved
        the condition number has status `unresolved`: it is a lower bound, and `high` is infinite. No intervals
        otherwise: spectra change with the number of examples.

    Raises:
        ValueError: As `tangent_kernels`.

    Source:
        Jacot et al. (2018), arXiv:1806.07572; Cristianini et al. (2001) and Cortes et al. (2012), arXiv:1203.0550, for
        the alignments.
    """
    import pandas as pd

    problem = as_problem(problem)
    problem, block_size = gathered(problem)
    kernels = tangent_kernels(problem, outputs=outputs, at=at, block_size=block_size)
    where = places(problem, at, block_size)
    examples = problem.examples
    labels = _label_kernel(problem.first_batch()[1], examples)
    rows = []
    for name, kernel in kernels.items():
        place = {"site": name, "depth": where[name].depth if name in where else math.nan, "n": examples}
        rows += [place | row for row in _rows(kernel.cpu(), labels, problem.dtype)]
    frame = pd.DataFrame(rows).assign(batch_norm=problem.batch_norm_name, batches="all", outputs=str(outputs))
    return frame.sort_values("depth", kind="stable", ignore_index=True)[_COLUMNS]


_COLUMNS = [
    *("batch_norm", "batches", "outputs", "quantity", "unit", "site", "depth"),
    *("value", "low", "high", "n", "status", "reason"),
]


def _rows(kernel: Tensor, labels: Tensor | None, dtype: torch.dtype) -> list[dict[str, Any]]:
    if not bool(torch.isfinite(kernel).all()):
        why = "an entry of the kernel is infinite or NaN"
        return [names | without_value("undefined", why) for names in _NAMES.values()]
    found = kernel_condition(kernel, dtype)
    bounded = found.unresolved > 0 and math.isfinite(found.value)
    condition = with_value(_alone(found.value), "the kernel is zero")
    if bounded:
        reason = f"{found.unresolved} of {len(kernel)} eigenvalues lie below rounding: a lower bound"
        condition |= {"low": float(found.value), "high": math.inf, "status": "unresolved", "reason": reason}
    rows = [
        _NAMES["trace"] | with_value(_alone(kernel_trace(kernel)), ""),
        _NAMES["largest"] | with_value(_alone(found.largest), ""),
        _NAMES["condition"] | condition,
        _NAMES["unresolved"] | with_value(_alone(found.unresolved), ""),
    ]
    for name, alignment in (("aligned", kernel_alignment), ("centred", centred_kernel_alignment)):
        if labels is None:
            rows.append(_NAMES[name] | without_value("skipped", NO_TARGETS))
        else:
            # The row of an example whose label is left out is NaN.
            kept = (~labels.diagonal().isnan()).nonzero()[:, 0]
            value = alignment(kernel[kept][:, kept], labels[kept][:, kept]) if len(kept) > 1 else math.nan
            rows.append(_NAMES[name] | with_value(_alone(value), FLAT))
    return rows


_NAMES = {
    "trace": {"quantity": "kernel_trace", "unit": "squared gradient"},
    "largest": {"quantity": "kernel_largest_eigenvalue", "unit": "squared gradient"},
    "condition": {"quantity": "kernel_condition_number", "unit": "1"},
    "unresolved": {"quantity": "kernel_unresolved_eigenvalues", "unit": "eigenvalues"},
    "aligned": {"quantity": "kernel_label_alignment", "unit": "1"},
    "centred": {"quantity": "kernel_centred_label_alignment", "unit": "1"},
}


def _alone(value: Tensor | float) -> Estimate:
    return Estimate(float(value), math.nan, math.nan)


def _label_kernel(targets: Tensor | None, examples: int) -> Tensor | None:
    numbers = class_numbers(targets, examples)
    if numbers is not None:
        ignored = numbers == IGNORED
        return class_kernel(numbers).masked_fill(ignored[:, None] | ignored[None, :], math.nan)
    if targets is None or not targets.is_floating_point() or len(targets) != examples:
        return None
    rows = targets.cpu().double().reshape(examples, -1)
    return rows @ rows.T
