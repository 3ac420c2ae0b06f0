"""Which residual blocks matter, and how many can go? What closing branches costs."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from gradscope.instruments.gates import closable, lesion
from gradscope.instruments.junctions import Junctions, Trace, trace
from gradscope.instruments.junctions.calls import additions
from gradscope.instruments.junctions.junction import Junction
from gradscope.instruments.junctions.unseen import refuse_unnumbered
from gradscope.problem import Problem, as_problem, examples_in
from gradscope.progress import progress
from gradscope.studies.lesions.bench import Bench, evaluated
from gradscope.studies.lesions.cost import announce, cost_frame, seconds_an_example
from gradscope.studies.lesions.forward import refuse_other_forward, refuse_scripted
from gradscope.studies.lesions.passes import FullPasses, Gate, prefix_reuse
from gradscope.studies.lesions.plan import planned
from gradscope.studies.lesions.run import Study, framed

if TYPE_CHECKING:
    import pandas as pd


def lesion_study(
    problem: Any,
    *,
    junctions: str | Junction | Sequence[Junction] | None = None,
    metric: Any = "error",
    kind: str = "zero",
    factor: float | None = None,
    reference: Any = None,
    singles: bool = True,
    sets: Sequence[int] | None = None,
    subsets: int = 30,
    recalibrate: bool | str = "half",
    greedy: int = 0,
    groups: str | Mapping[str, str] | None = "kind",
    calibration: Any = None,
    resamples: int = 10_000,
    seed: int = 0,
    dry_run: bool = False,
    show: bool | None = None,
) -> "pd.DataFrame":
    """What a network loses when residual branches are closed: each alone, random sets, kinds, greedily.

    A block whose skip projects keeps its projection. Everything is measured on the same examples, in eval
    mode. With batch normalisation each value is there twice: with the stored statistics, of the intact network,
    and with those that the lesioned network has itself; most of the damage of many lesions is the mismatch.
    The cost is said on standard error before the work begins.

    Args:
        problem: Problem or (model, data); all batches are used.
        junctions: Those to close: None for every junction of level 0 with a branch; a pattern of names such as
            `layer3.*`; or junctions, found or by hand.
        metric: What is measured, or several: `error` (wrong classes), `loss` (the problem's), `margin` (logit of
            the target minus the largest other), `kl` (from the intact network's softmax to the lesioned one's; of
            a sequence, the mean over its tokens but for padding, as an `attention_mask` among the inputs tells it;
            needs no targets), or a function f(output, target, intact_output) -> [N]. The intact network has the
            same kind of statistics as the lesioned one.
        kind, factor, reference: What is put in a branch's place, as in `lesion`; `seed` draws resamplings.
        singles: Whether every junction is closed alone.
        sets: Numbers of branches to close together, each `subsets` times at random. None: ten numbers or fewer,
            spread from 1 to all. An empty list for none.
        subsets: Random sets for each number. Their spread exceeds the interval over examples: 30 or more advised.
        recalibrate: Whether to measure with recalibrated statistics too; `half`: all but the second half of the
            random sets of each number.
        greedy: So many branches are closed one after the other, always the one that costs least by the first
            metric with stored statistics; smaller is better but for `margin`. It is chosen on the examples that
            judge it, which flatters it.
        groups: Closed together: `kind`, all junctions of each kind; or names with patterns of junctions, such
            as {"attention": "*attn*"}; None for no groups.
        calibration: Inputs for the statistics of lesioned networks, no labels needed: [N, ...], a dict batch, or
            a list of batches, which weigh the same whatever their sizes; of a tuple (inputs, labels) the inputs.
            None: the problem's own, which `reason` says.
        resamples: Bootstrap draws of the examples. A p-value cannot fall below 1 / (resamples + 1): for Holm over n
            junctions draw more than 20 n.
        seed: Of sets, bootstrap draws and resampled branches.
        dry_run: Return the cost instead: see below.
        show: Progress, as in `progress`; False also keeps the cost to itself.

    Returns:
        Frame with columns `quantity`, `unit`, `statistics`, `gate`, `junction`, `kind`, `index`, `deleted` (how
        many), `draw`, `passes` (`prefix reuse`, and if so that some batches took whole ones; or `full passes` and
        why), `value` (mean over examples), `low`, `high`, `p_value`, `p_holm`, `n` (examples), `status`, `reason`.

        With m a metric's name (a function's own name), quantities are `m`; `m_difference`, lesioned minus intact
        on the same examples, for single lesions; `intact_m`; and beside `error` `chance_error`, of always naming
        the largest class. `statistics` is `stale`, `recalibrated`, `batch` (those of the batch, none are stored),
        or `none` (no batch normalisation). `kind` is the junction's, or `set` (`junction` names all that are closed),
        `group` (named by `junction`) or `greedy` (`junction` went last); `draw` counts random sets, and is 0 for
        groups and greedy removal, -1 for the rest.

        Intervals are 95 % over examples: Wilson's for `error`, Tango's for its difference, bootstrap percentiles
        for all else. `p_value` is McNemar's exact one for `error` and a paired bootstrap's for all else;
        `p_holm` is adjusted over the junctions. `kl_difference` has neither: a divergence is never negative, so
        that it differs from 0 says nothing; its size does. Below 30 examples the bootstrap's intervals are too
        narrow and its tests reject too often, which `reason` says.

        With `dry_run`, a row for each part of the study and treatment of the statistics: `part`, `statistics`,
        `lesions`, `passes` (on one batch each, in whole ones), `branch_evaluations`, `seconds` (from one timed
        pass) and `how`. Where prefixes are shared, what greedy removal takes is an estimate from above. Finding
        the junctions, preparing to share (some five passes on two examples) and the timed pass come on top.

    Raises:
        ValueError: No branch to close, such as under a `forward=` that does not run the model; scripted parts; an
            option out of range; a metric that the data does not allow, such as class numbers the model has no output
            for; stored statistics that were never updated.

    Source:
        Veit et al. (2016), arXiv:1605.06431, figures 3 and 5a; statistics and tests: pitfalls found since.
    """
    problem = as_problem(problem)
    with evaluated(problem):
        chosen, traced = _chosen(problem, junctions)
        plan = planned(
            chosen,
            singles=singles,
            sets=sets,
            subsets=subsets,
            recalibrate=recalibrate,
            groups=groups,
            seed=seed,
        )
        if not isinstance(greedy, int) or not 0 <= greedy <= len(chosen):
            raise ValueError(
                f"greedy is a number of branches from 0 to {len(chosen)} (all here), got {greedy!r}."
            )
        if not isinstance(resamples, int) or resamples < 2:
            raise ValueError(f"resamples is a whole number, at least 2, got {resamples!r}.")
        options = {"kind": kind, "factor": factor, "reference": reference, "seed": seed}
        gate = _gate(problem, chosen, options)
        if reference is None:
            with gate((0,)):
                pass  # A wrong kind or factor is told before anything long begins, and in a dry run.
        bench = Bench(problem, metric, calibration, bool(recalibrate), len(chosen))
        inputs, _ = problem.first_batch()
        shared = prefix_reuse(problem.model, problem.outputs, chosen, traced, inputs, kind, factor)
        passes = (
            FullPasses(problem.model, problem.outputs, len(chosen), gate, shared, _entering(reference))
            if isinstance(shared, str)
            else shared
        )
        told = "zero" if kind == "zero" else f"{kind} {factor:g}" if factor is not None else kind
        study = Study(bench, passes, plan, greedy, chosen, told)
        if dry_run or show is not False:
            seconds = seconds_an_example(problem, gate)
            if dry_run:
                return cost_frame(study.parts(), len(chosen), seconds)
            announce(study.parts(), seconds)
        with progress("lesions", study.steps(), show=show) as advance:
            return framed(study.rows(advance, resamples, seed))


def _chosen(
    problem: Problem, asked: str | Junction | Sequence[Junction] | None
) -> tuple[list[Junction], Trace | None]:
    """The junctions to close, in forward order, and the pass in which all were found."""
    given = None if asked is None or isinstance(asked, str) else _given(asked)
    if given is not None and not all(junction.branches for junction in given):
        return given, None
    inputs, _ = problem.first_batch()
    refuse_scripted(problem.model)
    refuse_other_forward(problem, inputs, repeated=False)
    traced = trace(problem.model, problem.outputs, inputs)
    refuse_unnumbered(problem.model, traced.junctions)
    if given is not None:
        return given, traced
    found = Junctions(traced.junctions)
    named = found.matching(asked) if isinstance(asked, str) else found
    chosen = [junction for junction in named if junction.level == 0 and closable(junction)]
    if not chosen:
        refuse_other_forward(problem, inputs, repeated=True)
        matching = "" if asked is None else f" among the {len(named)} junctions that match {asked!r}"
        raise ValueError(
            f"{type(problem.model).__name__} has no residual branch to close{matching}. For a plain network, use "
            "layer_lesion_study, which replaces layers by the identity; for a sum inside a kernel, "
            "junctions=[junction_by_hand(...)]."
        )
    return chosen, traced


def _given(asked: Any) -> list[Junction]:
    asked = [asked] if isinstance(asked, Junction) else asked
    strange = [one for one in asked if not isinstance(one, Junction)]
    if strange or not asked:
        raise ValueError(
            f"junctions is None, a pattern of names, or at least one Junction, got {strange[:1] or list(asked)}."
        )
    return sorted(asked, key=lambda junction: junction.index)


def _gate(problem: Problem, junctions: Sequence[Junction], options: dict[str, Any]) -> Gate:
    # Additions are watched in the intact network too: torch takes another route through fused attention then.
    watched = partial(additions, problem.model)
    return lambda closed: (
        lesion(problem.model, [junctions[i] for i in closed], **options) if closed else watched()
    )


def _entering(reference: Any) -> tuple[int, int]:
    """Batches and examples that a lesion runs on being entered."""
    if reference is None:
        return 0, 0
    batches = reference if isinstance(reference, list) else [reference]
    inputs = [batch[0] if isinstance(batch, tuple) else batch for batch in batches]
    return len(batches), sum(examples_in(batch) for batch in inputs)
