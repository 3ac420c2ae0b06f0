"""As an ensemble of paths of which lengths does a residual network act, judged by its branches' gains?"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradscope.instruments.junctions import Junction, Junctions, Trace, trace
from gradscope.instruments.junctions.last_batch_norm import last_batch_norm_weights
from gradscope.problem import Problem, as_problem
from gradscope.studies.branch_gains import Block, Value, listen, undefined
from gradscope.theory.path_weights import incoherent_path_weights, path_weights

if TYPE_CHECKING:
    import pandas as pd

FORMS = ("gain", "batch norm")
MIXTURES = ("coherent", "incoherent")
SUMMARIES = ("implied_path_length", "implied_path_length_of_squares", "implied_peak_path_length")

_BLANK = {"form": "", "mixture": "", "junction": "", "kind": "", "index": -1, "branch": -1, "path_length": -1}


def effective_ensemble(
    problem: Any, *, junctions: Junction | Sequence[Junction] | str | None = None, show: bool | None = None
) -> "pd.DataFrame":
    """Gain and batch-norm scale of every residual branch, and the weights of path lengths that follow.

    A block that multiplies what passes its branch by beta makes an ensemble of n blocks in which paths across k
    branches weigh e_k(beta_1 .. beta_n): C(n, k) beta^k for equal gains, with its peak at n beta / (1 + beta).
    The gain is that of sizes in the forward pass, as in the paper; `path_spectrum` measures the gradient itself.
    An untrained network is as good as a trained one. Costs one pass over the data without gradients.

    Args:
        problem: Problem or (model, data), no targets needed; all batches are used.
        junctions: Those that form the ensemble: junctions of `gs.junctions`, or a pattern of their names. None:
            the outermost that have a skip.
        show: Progress, as in `progress`.

    Returns:
        Frame with columns `batch_norm`, `quantity`, `unit`, `form`, `mixture`, `junction`, `kind`, `index`, `branch`,
        `path_length` (-1 or empty where a row has none), `value`, `low`, `high`, `n`, `status`, `reason`.
        For every branch of every junction (n: examples; of batch-norm scales, channels):

        - `branch_gain`: root mean square of the branch operand over that of the skip operand, mean over
          examples with a Student-t 95 % interval;
        - `open_share`: share rho of the branch's entries that are not 0; 1 unless it ends in a rectifier;
        - `batch_norm_scale`, `batch_norm_scale_spread`: mean lambda of |weight| over the channels of the last
          batch-norm layer that every way through the branch passes, and its standard deviation over them;
        - `implied_beta` of form `gain`, the branch gain; and of form `batch norm`, rho lambda / sigma (Eq. 20 with
          weights of unit scale), the paper's reading of the parameters, which the gain does not need.

        For every junction `stream_scale`: sigma, the standard deviation of the skip operand over all examples and
        positions (root mean square over channels, index 1); where the skip is the identity, this is the stream itself.
        For every form, and `mixture` `coherent` (w_k = e_k(beta); the gains of parallel branches add) or `incoherent`
        (w_k^2 = e_k(beta^2), for mutually orthogonal paths; n: junctions):

        - `path_weight`: w_k scaled to squares that sum to 1, as in the paper; `path_share`: to sum to 1;
        - `implied_path_length`: under the shares; `implied_path_length_of_squares`: under the squared weights, for the
          incoherent ones the law at initialisation; `implied_peak_path_length`: of the largest weight.

    Raises:
        ValueError: No residual junction, none that matches, or one without a skip and a branch.
        RuntimeError: A batch took another way through the network than the first one.

    Source:
        Littwin and Wolf (2016), arXiv:1611.02525; unequal gains and incoherent paths: derived.

    Example:
        >>> frame = gs.effective_ensemble((model, images))
        >>> gs.figures.effective_ensemble(frame)
    """
    problem = as_problem(problem)
    with problem.prepared() as model:
        found = trace(model, problem.outputs, problem.first_batch()[0])
        chosen = _chosen(problem, found, junctions)
        weights = last_batch_norm_weights(model, found)
        blocks = [
            Block(j, found.skip_edges[j.index][0], found.branch_edges[j.index], weights[j.index])
            for j in chosen
        ]
        in_series = all(j.outermost and found.on_every_way[j.index] for j in chosen)
        # The graph holds every activation; listening needs none of them.
        del found
        listen(problem, blocks, show)
    return _frame(
        [row for block in blocks for row in _block_rows(block)] + _mixture_rows(blocks, in_series), problem
    )


def _chosen(
    problem: Problem, found: Trace, asked: Junction | Sequence[Junction] | str | None
) -> list[Junction]:
    network, all_found = type(problem.model).__name__, found.junctions
    if not all_found:
        raise ValueError(
            f"{network} has no residual junction, so it is one path and no ensemble. Pass a network with skip "
            "connections."
        )
    able = [j for j in all_found if j.graded and len(j.skips) == 1 and j.branches]
    if asked is None:
        several = [j.name for j in all_found if j.outermost and j.graded and len(j.skips) > 1]
        if several:
            raise ValueError(
                f"A gain is that of a branch beside one skip, and of {', '.join(several)} several operands are the "
                "skip. Pass junctions= without them."
            )
        chosen = [j for j in able if j.outermost]
        if not chosen:
            raise ValueError(
                f"{network} has junctions of kind {', '.join(sorted({j.kind for j in all_found}))}, but none of "
                "level 0 that adds a branch to a skip in a call from Python, so there is no gain to measure."
            )
        return chosen
    if isinstance(asked, str):
        chosen = Junctions(all_found).matching(asked)
    else:
        chosen = [asked] if isinstance(asked, Junction) else list(asked)
    unknown = [j.name for j in chosen if j not in all_found]
    if unknown or not chosen:
        raise ValueError(
            f"junctions asks for {', '.join(unknown) or 'none'}, but those of {network} on this data are "
            f"{', '.join(j.name for j in all_found[:8])}. Take them from gs.junctions(model, x), or give a pattern."
        )
    unable = [j.name for j in chosen if j not in able]
    if unable:
        raise ValueError(
            f"A gain is that of a branch beside a skip, and {', '.join(unable)} has not both. Choose identity, "
            "projection or nonparam-skip junctions."
        )
    return chosen


def _betas(block: Block, form: str) -> list[Value]:
    return [
        block.gain(branch) if form == "gain" else block.batch_norm_beta(branch)
        for branch in range(len(block.branches))
    ]


def _block_rows(block: Block) -> list[dict[str, Any]]:
    junction = block.junction
    where: dict[str, Any] = {"junction": junction.name, "kind": junction.kind, "index": junction.index}
    rows = [_row("stream_scale", block.stream_scale(), unit="activation", **where)]
    betas = {form: _betas(block, form) for form in FORMS}
    for branch in range(len(block.branches)):
        mean, spread = block.batch_norm_scale(branch)
        rows += [
            _row(quantity, told, branch=branch, **where)
            for quantity, told in (
                ("branch_gain", block.gain(branch)),
                ("open_share", block.open_share(branch)),
                ("batch_norm_scale", mean),
                ("batch_norm_scale_spread", spread),
            )
        ]
        rows += [
            _row("implied_beta", betas[form][branch], form=form, branch=branch, **where) for form in FORMS
        ]
    return rows


def _mixture_rows(blocks: Sequence[Block], in_series: bool) -> list[dict[str, Any]]:
    rows = []
    for form in FORMS:
        betas = [_betas(block, form) for block in blocks]
        named = [
            (block.junction.name, beta)
            for block, several in zip(blocks, betas, strict=True)
            for beta in several
        ]
        reason = next((f"{name}: {beta.reason}" for name, beta in named if math.isnan(beta.value)), "")
        if not in_series:
            reason = (
                "these junctions are not passed one after the other, so their polynomials do not multiply"
            )
        for mixture in MIXTURES:
            labels = {"form": form, "mixture": mixture}
            if reason:
                rows += [
                    _row(name, undefined(reason), **labels)
                    for name in ("path_weight", "path_share", *SUMMARIES)
                ]
            else:
                rows += _weight_rows([[beta.value for beta in several] for several in betas], **labels)
    return rows


def _weight_rows(betas: Sequence[Sequence[float]], **labels: str) -> list[dict[str, Any]]:
    if labels["mixture"] == "coherent":
        weights = path_weights([sum(several) for several in betas])
    else:
        weights = incoherent_path_weights([sum(beta**2 for beta in several) for several in betas])
    n, lengths = len(betas), np.arange(len(betas) + 1)
    shares = weights / weights.sum()
    rows = [
        _row(quantity, Value(float(curve[k]), n=n), path_length=int(k), **labels)
        for quantity, curve in (("path_weight", weights), ("path_share", shares))
        for k in lengths
    ]
    summaries = (lengths @ shares, lengths @ weights**2, weights.argmax())
    return rows + [
        _row(quantity, Value(float(number), n=n), **labels)
        for quantity, number in zip(SUMMARIES, summaries, strict=True)
    ]


def _row(quantity: str, told: Value, unit: str = "1", **labels: Any) -> dict[str, Any]:
    status = "undefined" if math.isnan(told.value) else "ok"
    unit = "branches" if quantity in SUMMARIES else unit
    return {"quantity": quantity, "unit": unit} | labels | told._asdict() | {"status": status}


def _frame(rows: list[dict[str, Any]], problem: Problem) -> "pd.DataFrame":
    import pandas as pd

    columns = ["quantity", "unit", *_BLANK, "value", "low", "high", "n", "status", "reason"]
    frame = pd.DataFrame([{**_BLANK, **row} for row in rows])[columns]
    return frame.assign(batch_norm=problem.batch_norm_name)[["batch_norm", *columns]]
