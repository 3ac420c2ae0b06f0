"""How curved is the loss while a network learns, and is the learning rate at the edge of stability?"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradscope.curvature.hessian import hessian
from gradscope.curvature.operators import DENSE_LIMIT
from gradscope.curvature.partition import Partition
from gradscope.curvature.preconditioning import Diagonal
from gradscope.curvature.problem_operator import ProblemOperator
from gradscope.curvature.selection import Selection
from gradscope.instruments.batch_norm import MODES
from gradscope.problem import Problem
from gradscope.studies.curvature.along_training import (
    eigenvalue_rows,
    rate_rows,
    slope_rows,
    undefined_rows,
)
from gradscope.studies.curvature.conditions import condition_rows, of_lanczos, of_spectrum
from gradscope.studies.curvature.exact import extreme_rows, share_negative
from gradscope.studies.curvature.extremes import Budget, extremes
from gradscope.studies.curvature.gradient import loss_and_gradient
from gradscope.studies.curvature.parts import alone, entries
from gradscope.studies.curvature.rows import VALUES, WHAT, reading
from gradscope.studies.curvature.stability import stability_limit

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["batch_norm", "step", *WHAT, "definition", "block", "rank", *VALUES]
NOTHING_BEFORE = "the first measurement: no training went before it"

Rows = list[dict[str, Any]]


class CurvatureObserver:
    """Extreme eigenvalues of the Hessian and what follows from them, every so many steps of a training.

    Hand it to `fit(observe=...)`, or call it as `observer(model, step)` in a loop of your own. A call leaves the
    model as found (modes, buffers and running statistics, `.grad`, random states), whatever it raises. Rows of
    `frame()`:

    - `loss` and `gradient_norm`, of the batch given here, over the parameters chosen;
    - `lambda_max` and `lambda_min`, the algebraically largest and smallest eigenvalue, and `eigenvalue` by `rank` (1,
      2, ... from the top, -1, ... from the bottom) for the k at each end, with residual bounds;
    - `condition_number` by `definition`: `negative_ratio`, `kappa_lower`, `top_ratio` with k >= 5; with `dense` also
      `extreme_ratio` and `percentile_10`, and `share_negative`, the share of negative eigenvalues;
    - with a learning rate: `learning_rate`; `learning_rate_product`, which is it times lambda_max; and
      `stability_limit`, above which gradient descent on a quadratic grows (see `stability_limit` for momentum);
    - with `blocks`: `block_lambda_max` of every diagonal block;
    - `products` with Hessians (of the whole or of a block) and `seconds` that this measurement took, and `overhead`,
      its time over that of everything that went on since the measurement before, which is training.

    `kappa_lower` grows with the products of its run, whose number is not the same at every step: a bound at each, and
    no curve to compare along. With k > 1 the run starts from the vectors that the last one found, and a random part,
    which saved 3 to 28 % of the products for k = 5; a measurement thus depends, to within its residuals, on those
    before it. With k = 1, and for blocks, each starts at random: there nothing is saved, for a second start
    would have to make sure that no other direction has overtaken the old one. Dropout is off. Where a value has not
    converged within `max_products` its status says so, and its bounds hold for some eigenvalue. The first call checks
    that data and network repeat themselves, at one gradient and two products that are not counted.

    Batch normalisation is measured as `batch_norm` says, told in every row: `train` (statistics of the batch,
    differentiated through) by default, since that is the loss training descends on, and only to its Hessian the
    limits of learning rates apply. Running statistics are neither used nor updated, but in the mode `running`.

    A step that is seen again, as after an interrupted training that is resumed with the same observer, replaces its
    former rows. Measured are the steps that `every` divides, 0 among them.

    Args:
        data: The examples on which is measured, as in `Problem`; fixed, since minibatches differ
            (`minibatch_curvature`).
        every: Steps from one measurement to the next.
        k: Eigenvalues at each end. More cost more products.
        learning_rate: That of the training; or `f(step)` for a schedule, as 2 / lambda_max is compared with the present
            rate. None leaves its rows out.
        momentum: Of the training, for `stability_limit`.
        nesterov: Whether that momentum is Nesterov's, as in `fit`.
        weight_decay: Of the training: added to the diagonal of the Hessian, whose limit is what counts.
        blocks: Diagonal blocks whose largest eigenvalue is followed, as in `ProblemOperator.blocks`: `layer`, `block`,
            `stage`, `parameter`, or a mapping from names to selections. Each costs a run of its own.
        parameters: As in `hessian`.
        precondition: As in `hessian`, or `f(step)` that gives it, as an optimiser's changes; a step at which that gives
            None, such as Adam's first, is not measured. All eigenvalues are then of the preconditioned Hessian, and
            momentum is Adam's beta1, whose limit is (2 + 2 beta1) / (1 - beta1), 38 for 0.9. Without it the limit is
            that of gradient descent and says nothing of Adam.
        dense: Form the Hessian, at P products for P <= 5000 parameters, and read everything off all its eigenvalues.
        loss, batch_norm, forward: As in `Problem`. The loss is the mean over all examples.
        tolerance, max_products, seed: As in `extreme_eigenvalues`.

    Raises:
        ValueError: An option out of range; on a call, data without targets, a learning rate that is not positive, or
            more than 5000 parameters with `dense`; on the first, whatever `hessian` refuses.

    Source:
        Cohen et al. (2021), arXiv:2103.00065, for learning rate times lambda_max, and (2022), arXiv:2207.14484, for
        Adam's; Li et al. (2016), arXiv:1611.01186,
        for condition numbers and the share of negative eigenvalues along training.

    Example:
        >>> observer = gs.CurvatureObserver((images, classes), every=50, learning_rate=0.1, momentum=0.9, nesterov=True)
        >>> gs.fit(model, data, schedule="constant", observe=observer)
        >>> gs.figures.curvature_along_training(observer.frame())
    """

    def __init__(
        self,
        data: Any,
        *,
        every: int = 50,
        k: int = 1,
        learning_rate: float | Callable[[int], float] | None = None,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        blocks: Partition | None = None,
        parameters: Selection = None,
        precondition: Diagonal | Callable[[int], Diagonal] = None,
        dense: bool = False,
        loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
        batch_norm: str = "train",
        forward: Callable[[nn.Module, Any], Any] | None = None,
        tolerance: float = 1e-3,
        max_products: int = 300,
        seed: int = 0,
    ) -> None:
        if every < 1 or k < 1 or max_products < 1 or not tolerance > 0:
            raise ValueError(
                "CurvatureObserver needs every >= 1, k >= 1, max_products >= 1 and tolerance > 0; "
                f"got {every!r}, {k!r}, {max_products!r}, {tolerance!r}."
            )
        if batch_norm not in MODES or batch_norm == "own":
            wanted = ", ".join(mode for mode in MODES if mode != "own")
            raise ValueError(f"The batch_norm of a CurvatureObserver is one of {wanted}, got {batch_norm!r}.")
        self.data = data
        self.every = every
        self.k = k
        self.learning_rate = learning_rate
        self.limit = stability_limit(momentum, nesterov=nesterov, averaged=precondition is not None)
        self.precondition = precondition
        self.weight_decay = weight_decay
        self.blocks = blocks
        self.parameters = parameters
        self.dense = dense
        self.about: dict[str, Any] = {"loss": loss, "batch_norm": batch_norm, "forward": forward}
        self.budget = Budget(tolerance, max_products, seed)
        self._rows: dict[int, Rows] = {}
        self._vectors: Tensor | None = None
        self._checked = False
        self._ended: float | None = None

    def __call__(self, model: nn.Module, step: int) -> None:
        """Measure `model` if `every` divides `step`."""
        if step % self.every == 0:
            began = time.perf_counter()
            diagonal = self.precondition(step) if callable(self.precondition) else self.precondition
            if diagonal is None and self.precondition is not None:
                return
            rows = self._measured(model, step, diagonal)
            ended = time.perf_counter()
            told = {"batch_norm": rows[0]["batch_norm"], "step": step}
            self._rows[step] = rows + [told | row for row in self._cost(began, ended)]
            self._ended = ended

    def frame(self) -> "pd.DataFrame":
        """All rows so far, by step.

        Returns:
            Columns `precondition` where there is one, `batch_norm`, `step`, `quantity`, `unit`, `definition` (of a
            condition number), `block` (of a `block_lambda_max`), `rank` (of an `eigenvalue`), `value`, `low`, `high`
            (from residual bounds, or rounding with `dense`), `status`, `reason`.
        """
        import pandas as pd

        rows = [row for step in sorted(self._rows) for row in self._rows[step]]
        frame = pd.DataFrame(rows, columns=COLUMNS)
        if self.precondition is not None:
            frame.insert(0, "precondition", "diagonal")
        return frame

    def _measured(self, model: nn.Module, step: int, diagonal: Diagonal) -> Rows:
        problem = Problem(model, self.data, **self.about)
        told = {"batch_norm": problem.batch_norm_name, "step": step}
        rate = self._rate(step)
        loss, gradient = loss_and_gradient(problem, self.parameters)
        rows = slope_rows(loss, gradient)
        if any(row["status"] != "ok" for row in rows):
            return [told | row for row in rows + undefined_rows(rate)]
        check = "none" if self._checked else "cheap"
        about: dict[str, Any] = {"weight_decay": self.weight_decay, "precondition": diagonal}
        with hessian(problem, parameters=self.parameters, **about, check=check) as operator:
            self._checked = True
            rows += self._dense(operator, rate) if self.dense else self._outermost(operator, rate)
        return [told | row for row in rows]

    def _outermost(self, operator: ProblemOperator, rate: float | None) -> Rows:
        before = self._vectors
        known = before if before is not None and before.shape[1] == operator.shape[0] else None
        found = extremes(operator, self.k, self.budget, known=known)
        self._vectors = found.vectors if self.k > 1 else None
        products, evidence = found.products, of_lanczos(found, self.budget.tolerance)
        rows = eigenvalue_rows(found.frame)
        rows += condition_rows(evidence, [*self._of_ends(), "kappa_lower"])
        rows += rate_rows(evidence, rate, self.limit)
        operator.close()
        for name, names in self._blocks(operator).items():
            with alone(operator, names) as block:
                top = extremes(block, 1, self.budget, ends="largest")
            products += top.products
            rows += eigenvalue_rows(top.frame, block=name)
        return [*rows, reading("products", products, "products")]

    def _dense(self, operator: ProblemOperator, rate: float | None) -> Rows:
        if operator.shape[0] > DENSE_LIMIT:
            raise ValueError(
                f"CurvatureObserver(dense=True) forms the Hessian, and P = {operator.shape[0]} is over {DENSE_LIMIT}. "
                "Leave dense out, or choose fewer with parameters=."
            )
        matrix = operator.dense()
        products = operator.shape[0]
        spectrum = torch.linalg.eigvalsh(matrix)
        known = of_spectrum(spectrum, operator.dtype)
        rows = eigenvalue_rows(extreme_rows(spectrum, self.k, operator.dtype, products))
        rows += condition_rows(known, [*self._of_ends(), "extreme_ratio", "percentile_10"])
        rows += [share_negative(spectrum, operator.dtype), *rate_rows(known, rate, self.limit)]
        for name, names in self._blocks(operator).items():
            places = entries(operator, names)
            inner = torch.linalg.eigvalsh(matrix[places][:, places])
            rows += eigenvalue_rows(extreme_rows(inner, 1, operator.dtype, 0), block=name)
        return [*rows, reading("products", products, "products")]

    def _of_ends(self) -> list[str]:
        return ["negative_ratio", "top_ratio"] if self.k >= 5 else ["negative_ratio"]

    def _blocks(self, operator: ProblemOperator) -> dict[str, list[str]]:
        """Names of parameters by block."""
        if self.blocks is None:
            return {}
        return {name: list(block.parameters) for name, block in operator.blocks(self.blocks).items()}

    def _rate(self, step: int) -> float | None:
        rate = self.learning_rate(step) if callable(self.learning_rate) else self.learning_rate
        if rate is not None and not 0 < rate < float("inf"):
            raise ValueError(
                f"learning_rate is positive at every step that is measured, got {rate!r} at step {step}."
            )
        return rate

    def _cost(self, began: float, ended: float) -> Rows:
        seconds = ended - began
        trained = None if self._ended is None else began - self._ended
        share = float("nan") if not trained else seconds / trained
        return [
            reading("seconds", seconds, "s"),
            reading("overhead", share, reason="" if trained else NOTHING_BEFORE),
        ]
