"""How long are the paths that carry the gradient, and do they pull together, while a network learns?"""

import hashlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradscope.gradients.live import Paths, open_paths
from gradscope.instruments.batch_norm import MODES
from gradscope.problem import Problem, examples_in
from gradscope.studies.implied_length import implied_path_lengths
from gradscope.studies.paths.counts import MERGED, told_apart
from gradscope.studies.paths.estimates import few_draws

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["batch_norm", "step", "quantity", "unit", "value", "low", "high", "n", "status", "reason"]
ONE_DRAW = "one draw gives no interval"
FEW_DRAWS = (
    "paths pull together, which few draws show: the value is likely too high and its interval too narrow; take 8 draws "
    "for each unit of coherence"
)
CANCELLED = "the paths cancelled in every draw: take more draws"
NO_PATH = "no path has a norm above zero, or one is not finite"
NO_GRADIENT = "the gradient is zero or not finite"

_IMPLIED = ("implied_path_length", "implied_path_length_incoherent")


class PathObserver:
    """Path lengths and coherence of a network every so many steps of its training, on one fixed batch.

    Hand it to `fit(observe=...)`, or call it as `observer(model, step)` in a loop of your own. A call leaves the model
    as found (modes, buffers and running statistics, `.grad`, random states), whatever it raises. Rows of `frame()`:

    - `loss`, and `gradient_norm` |g| of its gradient g at the input (for integers: at the first embedding's output);
    - `mean_path_length`: sum_k k <g_k, g> / |g|^2, where g_k is the gradient through k branches. By two cotangents,
      however deep the network. The shares <g_k, g> / |g|^2 may be negative, so it may lie outside of 0..n;
    - `path_length_variance`: that of the same shares, if asked for; by a third cotangent. May be negative;
    - `total_coherence`: |g|^2 / S, where S, the sum of the squared norms of all paths, is the mean of |g(signs)|^2
      over random signs, one to a branch: 1 for mutually orthogonal paths, their number for identical ones. One
      backward pass a draw. The interval is Student's for the mean of the draws, carried over on the logarithmic scale
      by the delta method: log(|g|^2 / S) +- t s / (m sqrt(n)) with the mean m and standard deviation s of n draws.
      Where paths pull together few draws show it: with fewer than 8 for each unit of coherence S is likely too low and
      the interval too narrow, which the row says. Undefined where two paths may cross the same branches, as in products
      of residual streams: signs do not tell them apart;
    - `implied_path_length`: the length at which branch sizes put the ensemble if paths added up as Littwin and Wolf
      assume, sum beta / (1 + beta) over measured gains beta of the forward pass; `implied_path_length_incoherent`: if
      they were orthogonal, sum beta^2 / (1 + beta^2). See `effective_ensemble`.

    A measurement costs two forward passes, two backward passes (three with the variance) and one more for each draw.

    The batch norm measured with is `batch_norm`, told in every row. `train` (statistics of the batch, differentiated
    through) is the gradient that training itself follows; running statistics are neither used nor updated, but in the
    mode `running`.

    A step that is seen again, as after an interrupted training that is resumed with the same observer, replaces its
    former rows; all others are kept. A new observer begins at the step where training goes on. Measured are the steps
    that `every` divides, 0 among them; draws depend on `seed` and the step alone.

    Args:
        data: One batch: (x, y), or a dict with `labels`; as in `Problem`.
        every: Steps from one measurement to the next.
        draws: Random signs for the total coherence; 0 leaves it out.
        variance: Also measure the variance of the path length.
        loss, batch_norm, forward: As in `Problem`. The loss is the mean over the batch.
        seed: Of the signs.

    Raises:
        ValueError: An option out of range; on the first call, data of several batches or without targets, or a network
            without residual junctions.

    Source:
        Littwin and Wolf (2016), arXiv:1611.02525, predict that the ensemble gets deeper; measured here: derived.

    Example:
        >>> observer = gs.PathObserver((images, classes), every=50)
        >>> gs.fit(model, data, observe=observer)
        >>> gs.figures.ensemble_depth(observer.frame())
    """

    def __init__(
        self,
        data: Any,
        *,
        every: int = 50,
        draws: int = 8,
        variance: bool = False,
        loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
        batch_norm: str = "train",
        forward: Callable[[nn.Module, Any], Any] | None = None,
        seed: int = 0,
    ) -> None:
        if not _is_count(every) or every < 1 or not _is_count(draws) or draws < 0 or not _is_count(seed):
            raise ValueError(
                "PathObserver needs whole numbers every >= 1, draws >= 0 and seed; "
                f"got {every!r}, {draws!r}, {seed!r}."
            )
        if batch_norm not in MODES or batch_norm == "own":
            wanted = ", ".join(mode for mode in MODES if mode != "own")
            raise ValueError(
                f"The batch_norm of a PathObserver is one of {wanted}, got {batch_norm!r}: path lengths are those of "
                "the whole batch's gradient."
            )
        self.data = data
        self.every = every
        self.draws = draws
        self.variance = variance
        self.loss = loss
        self.batch_norm = batch_norm
        self.forward = forward
        self.seed = seed
        self._rows: dict[int, list[dict[str, Any]]] = {}

    def __call__(self, model: nn.Module, step: int) -> None:
        """Measure `model` if `every` divides `step`."""
        if step % self.every == 0:
            self._rows[step] = self._measured(model, step)

    def frame(self) -> "pd.DataFrame":
        """All rows so far, by step.

        Returns:
            Columns `batch_norm`, `step`, `quantity`, `unit`, `value`, `low`, `high` (95 %), `n` (draws of the
            coherence, junctions of an implied length, else 1), `status`, `reason`.
        """
        import pandas as pd

        return pd.DataFrame([row for step in sorted(self._rows) for row in self._rows[step]], columns=COLUMNS)

    def _measured(self, model: nn.Module, step: int) -> list[dict[str, Any]]:
        problem = Problem(model, self.data, self.loss, batch_norm=self.batch_norm, forward=self.forward)
        if problem.examples != examples_in(problem.first_batch()[0]):
            raise ValueError(
                f"PathObserver measures on one batch, and its data holds {problem.examples} examples in several. Pass "
                "one (x, y)."
            )
        with open_paths(problem) as paths:
            moments = paths.moments(2 if self.variance else 1).flatten(start_dim=1)
            rows = [_row("loss", "loss", paths.loss.item(), reason="the loss is not finite")]
            rows += self._lengths(moments)
            if self.draws:
                rows.append(self._coherence(paths, float(moments[0].square().sum()), step))
            rows += [
                _row(quantity, "branches", told.value, told.reason, told.n)
                for quantity, told in zip(_IMPLIED, implied_path_lengths(problem, paths.found), strict=True)
            ]
        told = {"batch_norm": problem.batch_norm_name, "step": step}
        return [told | row for row in rows]

    def _lengths(self, moments: Tensor) -> list[dict[str, Any]]:
        gradient = moments[0]
        square = gradient.square().sum()
        # Overlaps of sum_k C(k, j) g_k with the gradient, over its square.
        overlaps = (moments @ gradient / square).tolist()
        mean = overlaps[1]
        rows = [
            _row("gradient_norm", "loss per input", float(square.sqrt())),
            _row("mean_path_length", "branches", mean),
        ]
        if self.variance:
            spread = 2 * overlaps[2] + mean - mean**2
            rows.append(_row("path_length_variance", "branches^2", spread))
        return rows

    def _coherence(self, paths: Paths, whole: float, step: int) -> dict[str, Any]:
        if not told_apart(paths):
            return _row("total_coherence", "1", math.nan, MERGED, self.draws)
        digest = hashlib.sha256(f"signs {self.seed}/{step}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
        signs = torch.randint(0, 2, (self.draws, len(paths.branches)), generator=generator) * 2.0 - 1.0
        squares = paths.gated(signs).flatten(start_dim=1).square().sum(dim=1).cpu()
        value, low, high = coherence_of(whole, squares)
        row = _row(
            "total_coherence",
            "1",
            value,
            reason=CANCELLED if whole > 0 and not squares.any() else NO_PATH,
            n=self.draws,
        )
        if row["status"] == "ok":
            row["reason"] = ONE_DRAW if self.draws == 1 else FEW_DRAWS if few_draws(self.draws, value) else ""
        return row | {"low": low, "high": high}


def coherence_of(whole: float, squares: Tensor) -> tuple[float, float, float]:
    """|g|^2 over the mean of the draws of |g(signs)|^2, with its interval on the logarithmic scale.

    Args:
        whole: |g|^2.
        squares: One draw each, [n], float64.

    Returns:
        Value, and the ends of a 95 % interval: NaN with one draw. All NaN where the mean is zero or not finite.
    """
    mean, n = float(squares.mean()), len(squares)
    if not (0 < mean < math.inf and math.isfinite(whole)):
        return math.nan, math.nan, math.nan
    value = whole / mean
    if n < 2:
        return value, math.nan, math.nan
    from scipy.stats import t as student

    half = float(student.ppf(0.975, n - 1)) * float(squares.std(correction=1)) / (mean * math.sqrt(n))
    # Draws that scarcely agree have an interval beyond the range of floats.
    return value, value * math.exp(-half), value * math.exp(min(half, 700.0))


def _row(quantity: str, unit: str, value: float, reason: str = NO_GRADIENT, n: int = 1) -> dict[str, Any]:
    """A row without an interval; `reason` is that of a value that is not finite."""
    known = math.isfinite(value)
    return {
        "quantity": quantity,
        "unit": unit,
        "value": value if known else math.nan,
        "low": math.nan,
        "high": math.nan,
        "n": n,
        "status": "ok" if known else "undefined",
        "reason": "" if known else reason,
    }


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)
