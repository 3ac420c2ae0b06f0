"""How two groups of parameters depend on each other: an off-diagonal block as a symmetric operator."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradscope.curvature.operators import Operator

if TYPE_CHECKING:
    from gradscope.curvature.problem_operator import ProblemOperator


class CouplingOperator(Operator):
    """[[0, A_ab], [A_ba, 0]] of an operator A on the parameters of a and b; made by `coupling`.

    Vectors hold the entries of a first, then those of b. Eigenvalues are the singular values of
    A_ab, plus and minus, and zeros. A product is two products of A, on batches shared between them.

    Attributes:
        whole: A on both groups, in the model's order.
        sizes: Numbers of entries of a and of b.
    """

    def __init__(self, whole: "ProblemOperator", first: Sequence[str], second: Sequence[str]) -> None:
        super().__init__(whole.shape[0], whole.dtype, whole.device)
        self.whole = whole
        self.conditions = dict(whole.conditions)
        places = whole.slices
        entries = torch.arange(whole.shape[0], device=whole.device)
        self._first = torch.cat([entries[places[name]] for name in first])
        self._second = torch.cat([entries[places[name]] for name in second])
        self.sizes = len(self._first), len(self._second)

    def not_finite(self) -> str:
        return self.whole.not_finite()

    def close(self) -> None:
        self.whole.close()

    def _apply(self, rows: Tensor) -> Tensor:
        count, cut = len(rows), self.sizes[0]
        columns = rows.new_zeros(2 * count, self.shape[0])
        columns[:count, self._first] = rows[:, :cut]
        columns[count:, self._second] = rows[:, cut:]
        products = self.whole.matmat(columns.T).T
        return torch.cat([products[count:, self._first], products[:count, self._second]], dim=1)
