"""Through paths of which length does the gradient flow?"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.gradients.branches import Chosen
from gradscope.gradients.live import open_paths
from gradscope.gradients.sources import Source
from gradscope.gradients.split import Paths
from gradscope.problem import as_problem
from gradscope.progress import progress
from gradscope.studies.paths.control_variate import sums_of_squares
from gradscope.studies.paths.counts import Counts, as_float, counts_of, signed_number
from gradscope.studies.paths.float_range import lost_lengths, too_small
from gradscope.studies.paths.norms import Parts, Scaled, parts_of, scaled
from gradscope.studies.paths.rows import conditions, frame_of, gradient_unit, precision_name
from gradscope.studies.paths.sampled_rows import sampled_rows
from gradscope.studies.paths.spectrum_rows import Lengths, coherent_norms, count_rows, exact_rows, sign_rows

if TYPE_CHECKING:
    import pandas as pd


def path_spectrum(
    problem: Any,
    *,
    lengths: int | str = "all",
    draws: int = 4,
    sampled: int = 0,
    seed: int = 0,
    source: Source = "loss",
    norms: str = "batch",
    at: str = "input",
    junctions: Chosen = None,
    precision: torch.dtype | None = None,
    engine: str = "auto",
    show: bool | None = None,
) -> "pd.DataFrame":
    """The gradient by the number of residual branches its paths cross, and what single paths are like.

    Args:
        problem: Problem or (model, data); the first batch is used.
        lengths: Longest path length; `all` for all.
        draws: Random-sign backward runs for the sum of squared path norms; each costs as much as the exact split. 0
            leaves the rows that need it out.
        sampled: Single paths drawn for each length (all, if there are no more), many in one batched backward; in
            chains only. 0 leaves those rows out.
        seed: Of the signs and of the paths.
        source: What is differentiated: `loss`, `logit`, `margin`, or f(outputs, targets) giving [N]. Gradients of
            losses differ by orders of magnitude between examples, those of logits do not.
        norms: `batch`: norms are of the whole batch's gradient. `example`: of the gradient of each example's own loss,
            averaged over examples, whatever the problem's reduction; not with batch normalisation in train mode,
            which couples examples.
        at: Where the gradient is taken: `input`, a module's dotted path, or `parameters`.
        junctions: Which are counted. None: the outermost that have a skip.
        precision: torch.float64 measures a copy in that precision. Without it, float32 is kept clear of underflow by
            powers of two.
        engine: As in `path_gradients`.
        show: Progress over draws, as in `progress`.

    Returns:
        Frame with columns `batch_norm`, `dtype`, `source`, `at`, `norms`, `quantity`, `unit`, `path_length`,
        `estimator`, `value`, `low`, `high` (95 %), `n`, `status`, `reason`. Quantities, exact (n: norms averaged):

        - `path_count`, `path_count_share`: number of paths;
        - `signed_share`: <g_k, g> / |g|^2, which adds up to 1 and may be negative: the headline;
        - `coherent_norm`, `coherent_norm_share`: |g_k|, what actually arrives.

        By random signs (n: draws; the interval is over draws, Student's on the logarithmic scale; with norms="example"
        over examples too, but for the coherence). `undefined` where two paths may cross the same branches, as in
        products of residual streams, for signs do not tell them apart:

        - `squared_path_norms`: sum over the paths of that length of their squared norms;
        - `incoherent_norm`, `incoherent_norm_share`: its square root, the norm that orthogonal paths would have;
        - `rms_path_norm`: of one path; `veit_product`, `veit_product_share`: number of paths times that, Veit's
          estimate with root mean square in place of the mean, an upper bound of |g_k|;
        - `coherence`: |g_k|^2 / `squared_path_norms`: 1 for mutually orthogonal paths, the number of paths for
          identical ones. In chains a control variate narrows the estimate where it is high (`estimator` says so).
          With fewer than 8 draws for each unit of it the interval may be too narrow, and says so: with 4 to 64 draws
          it held the truth 90 to 98 times in 100 below a coherence of 10, above it 42 to 97 times. `sampled` shows
          single paths, which differ little there.

        By single paths, uniformly drawn (n: paths; bootstrap-t interval, for their norms are heavy-tailed):

        - `mean_path_norm`; `sampled_veit_product`, `sampled_veit_product_share`: number of paths times that;
        - `largest_draw_share`: of the sum of norms, what the largest one makes up. Near 1 do not trust the mean.

        Shares of norms are of their sum over k, over the lengths computed. With norms="example" `coherent_norm` and
        `mean_path_norm` are means over examples, roots of squared ones are root mean squares. A length of
        which there is no path says so; one whose gradient underflowed is `undefined`, never zero.

    Raises:
        ValueError: As `path_gradients`; `draws` or `sampled` below 0; or norms="example" where examples have no
            gradients of their own.

    Source:
        Veit et al. (2016), arXiv:1605.06431, figure 6; the split is exact. Random signs: derived (Parseval).
    """
    for name, number in (("draws", draws), ("sampled", sampled)):
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise ValueError(f"{name} is a whole number, at least 0, got {number!r}.")
    problem = as_problem(problem)
    with (
        open_paths(problem, precision=precision, source=source, at=at, junctions=junctions) as paths,
        progress("path spectrum", 1 + draws + bool(sampled), show=show) as advance,
    ):
        parts = parts_of(problem, paths, norms)
        exact = paths.graded(lengths, engine=engine)
        advance(1)
        graded = scaled(parts.rows(exact.gradients))
        counts = counts_of(paths)
        size = torch.linalg.vector_norm(coherent_norms(graded), dim=1)
        lost = lost_lengths(paths, exact, size / parts.factor, counts, engine)
        measured = Lengths(
            counts, [too_small(exact) if gone else "" for gone in lost], gradient_unit(source, at)
        )
        rows = count_rows(measured) + exact_rows(measured, graded, parts.rows(exact.gradient, leading=0))
        if draws:
            sums, corrected = _sums_of_squares(paths, parts, graded, counts, draws, seed, engine, advance)
            rows += sign_rows(measured, sums, corrected, graded)
        if sampled:
            rows += sampled_rows(paths, parts, measured, size, sampled, seed, engine)
            advance(1)
    shared = conditions(problem, precision_name(exact), source, at, norms)
    return frame_of(rows, shared, ["path_length"])


def _sums_of_squares(
    paths: Paths,
    parts: Parts,
    graded: Scaled,
    counts: Counts,
    draws: int,
    seed: int,
    engine: str,
    advance: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """One estimate a draw of the sum of squared path norms, [draws, K+1, E], and where a control variate was used."""
    generator = torch.Generator().manual_seed(seed)
    highest = len(graded.rows) - 1
    squares, inner, signed = [], [], []
    for _ in range(draws):
        signs = (torch.randint(0, 2, (len(paths.branches),), generator=generator) * 2 - 1).tolist()
        turned = graded.of(parts.rows(paths.graded(highest, signs=signs, engine=engine).gradients))
        squares.append(turned.square().sum(dim=2).cpu())
        inner.append((turned * graded.rows).sum(dim=2).cpu())
        signed.append(_signed_shares(counts, signs, highest))
        advance(1)
    numbers = [
        as_float(number) if counts.links and number else torch.nan for number in _first(counts, highest)
    ]
    coherent = graded.rows.square().sum(dim=2).cpu()
    return sums_of_squares(torch.stack(squares), torch.stack(inner), coherent, torch.stack(signed), numbers)


def _signed_shares(counts: Counts, signs: list[int], highest: int) -> Tensor:
    """e_k(signs) / N_k of a chain; 0 where unknown or where there is no path."""
    found = torch.zeros(highest + 1, dtype=torch.float64)
    if counts.links is None:
        return found
    for length, number in enumerate(signed_number(counts.links, signs)[: highest + 1]):
        whole = counts.of(length)
        found[length] = number / whole if whole else 0.0
    return found


def _first(counts: Counts, highest: int) -> list[int | None]:
    return [counts.of(length) for length in range(highest + 1)]
