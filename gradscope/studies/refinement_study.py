"""Do the blocks of a network refine one estimate step by step, or does each make something new?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradscope.instruments.gates.operands import listed
from gradscope.instruments.junctions import Junction, trace
from gradscope.problem import Problem, as_problem
from gradscope.progress import progress
from gradscope.studies.deployed import deployed
from gradscope.studies.refinement.ledger import COLUMNS, UNITS, WITH_LOSS
from gradscope.studies.refinement.logit_lens import Lens
from gradscope.studies.refinement.passes import RefinementPasses

if TYPE_CHECKING:
    import pandas as pd


def refinement_study(
    problem: Any,
    *,
    junctions: Sequence[Junction] | None = None,
    what: str | Sequence[str] | None = None,
    lens: Lens | None = None,
    show: bool | None = None,
) -> "pd.DataFrame":
    """How each residual block changes the stream: size, direction, effect on the loss, answer so far.

    All values are means over the examples of all batches. F is what a block adds to its sum and S the rest: the
    skip operand, which is the block's input h, or where the skip is computed what it makes of h; in a weighted sum,
    times its weight, as (1 - w) h and w f in `lerp(h, f, w)`. The state behind a block is what the next block of its
    stage gets: the sum, in post-activation networks after the ReLU. A stage is a run of blocks at one shape; a
    block that projects begins one.

    A state is read as tokens, [N, T, D], if an `attention_mask` [N, T], integer inputs [N, T] or an output [N, T, ...]
    says so (the first batch tells). Others are flattened, such as [N, C, L] of a network of signals, or the patches
    of an image classifier.

    Args:
        problem: Problem or (model, data). Runs in eval mode with stored batch-norm statistics.
        junctions: Which to report, of those that `junctions(model, x)` returned; None for all of level 0 that
            have one skip and a branch. Stages are made of all, so that values do not depend on the choice.
        what: Quantities by name; None for all that the data allow (without targets: those without a loss).
        lens: f(state of the last stage) -> output, in place of the network's own last part.
        show: Progress, as in `progress`.

    Returns:
        Frame with columns `quantity`, `unit`, `junction`, `kind`, `stage` (from 0), `position` (in the stage,
        from 1), `index`, `other_index`, `deleted`, `value`, `low`, `high` (95 % over examples), `n`
        (examples for which the value is defined), `status`, `reason`. Quantities:

        - `branch_norm`, `stream_norm`, `l2_ratio`: |F|, |S|, |F| / |S| of each example, flattened;
        - `cosine_with_loss_gradient`: cos(F, dL/dh) with an example's own loss L and the gradient at the block's
          input; at its sum for the kinds projection and nonparam-skip, whose skip is not h, be it that h is only
          reshaped, cast or multiplied by 1. Negative descends the loss;
        - `block_influence`: 1 - cos(h, state behind): of tokens one each, else of flattened examples;
        - `angular_distance`: arccos(cos) / pi between the input of junction `index` and the state behind
          `other_index`, of one stage; `deleted` lists the junctions that closing this gap would delete.
          Of tokens with an output [N, T, classes]: at the last one, else of flattened examples;
        - `estimation_error_mean`, `_spread`, `_rms`: over units, of E_x[state behind the block - last state of
          the stage]; the spread is a standard deviation and includes the noise of a mean over n examples.
          Units are entries of the state, of tokens the D features. Intervals: jackknife over ten groups;
        - `first_order_lesion`: -F . dL/d(sum), what closing the branch does to the loss to first order;
          `lesion_loss_change`: what it does (stored statistics); `first_order_ratio`: of the two means, near
          1 where branches are small. A full forward pass for each junction;
        - `early_exit_accuracy`, `lens_loss`, `lens_kl_to_output` (of the lens's classes from the
          output's), `lens_agreement` (share of likeliest classes that agree): the network's own last part applied
          to each sum of the last stage and to what enters it (`kind` input, `position` 0). A full forward
          pass for each. Accuracy (Wilson interval) needs one class per example.

        Padding, as an `attention_mask` among the inputs tells it, counts in no angle, norm or mean.

    Raises:
        ValueError: No residual junction; an unknown quantity, or one with a loss but no targets; stored
            statistics that were never updated; states whose first axis is not the examples.

    Source:
        Greff et al. (2017), arXiv:1612.07771; Jastrzebski et al. (2018), arXiv:1710.04773; Chang et al. (2018),
        arXiv:1710.10348; Men et al. (2024), arXiv:2403.03853; Gromov et al. (2024), arXiv:2403.17887;
        logit lens: nostalgebraist (2020).
    """
    import pandas as pd

    problem = as_problem(problem)
    with deployed(problem, "refinement_study"):
        inputs, targets = problem.first_batch()
        wanted = _wanted(what, targets is not None)
        found = trace(problem.model, problem.outputs, inputs)
        chosen = _chosen(problem, found.junctions if junctions is None else junctions, junctions is None)
        passes = RefinementPasses(
            problem,
            _with_the_rest(chosen, found.junctions),
            {junction.name for junction in chosen},
            wanted,
            output_shape=tuple(found.output.shape),
            passed={j.name for j, own in zip(found.junctions, found.on_every_way, strict=True) if own},
            lens=lens,
        )
        # The graph holds every activation; the passes make their own.
        del found
        with progress("refinement", problem.examples * passes.number, show=show) as advance:
            for inputs, targets in problem.batches():
                passes.take_in(inputs, targets, advance)
    return pd.DataFrame(passes.rows(), columns=COLUMNS)


def _wanted(what: str | Sequence[str] | None, has_targets: bool) -> list[str]:
    names = [what] if isinstance(what, str) else list(UNITS if what is None else what)
    unknown = [name for name in names if name not in UNITS]
    if unknown or not names:
        raise ValueError(f"what names quantities, {', '.join(UNITS)}; got {unknown or 'none'}.")
    with_loss = [name for name in names if name in WITH_LOSS]
    if has_targets:
        return names
    if what is not None and with_loss:
        raise ValueError(f"{', '.join(with_loss)} need targets, but the data has none. Pass data=(x, y).")
    return [name for name in names if name not in with_loss]


def _chosen(problem: Problem, junctions: Sequence[Junction], found: bool) -> list[Junction]:
    """Those to study, in forward order; of those found by itself, level 0 with a skip and a branch."""
    chosen = [j for j in junctions if _usable(j) and j.level == 0] if found else listed(junctions)
    if not chosen:
        raise ValueError(
            f"{type(problem.model).__name__} has no residual junction with one skip and a branch, so there is no "
            "stream to refine. Choose another network, or pass junctions=."
        )
    return _ordered(chosen)


def _with_the_rest(chosen: Sequence[Junction], found: Sequence[Junction]) -> list[Junction]:
    """Those to study and all others of their levels and of level 0, for stages are made of all of them."""
    names, levels = {j.name for j in chosen}, {0} | {j.level for j in chosen}
    return _ordered(
        [*chosen, *(j for j in found if j.name not in names and _usable(j) and j.level in levels)]
    )


def _usable(junction: Junction) -> bool:
    operands = junction.branches and len(junction.skips) == 1
    return bool(junction.graded and operands and junction.number is not None)


def _ordered(junctions: Sequence[Junction]) -> list[Junction]:
    return sorted(junctions, key=lambda junction: -1 if junction.number is None else junction.number)
