"""Products with the Hessian, batch by batch, with the gradient's graph kept where memory allows."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from gradscope.curvature.differences import loss_and_gradient, shifted
from gradscope.curvature.gradient_graph import GradientGraph
from gradscope.curvature.problem_operator import BatchGraph, ProblemOperator
from gradscope.curvature.r_operator import NoRule, RuledGraph
from gradscope.curvature.r_operator.agreement import compared, loss_of_few
from gradscope.problem import Problem


class HessianOperator(ProblemOperator):
    """Products with the Hessian by differentiating the gradient; made by `hessian`.

    Parts, blocks and couplings: see `ProblemOperator`.

    Attributes:
        engine: How products are made: `rules` or `double backward`; `auto` before the first batch was read.
        engine_reason: Why.
    """

    title: ClassVar[str] = "Hessian"

    def __init__(
        self,
        problem: Problem,
        parameters: Mapping[str, nn.Parameter],
        *,
        engine: str = "auto",
        **options: Any,
    ) -> None:
        super().__init__(problem, parameters, **options)
        self.engine = engine
        self.engine_reason = "" if engine == "auto" else "asked for"
        self._asked = engine
        self._compared = False

    def graph(self, inputs: Any, targets: Tensor | None) -> BatchGraph:
        if self.engine != "double backward":
            try:
                return self._ruled(inputs, targets)
            except NoRule as reason:
                self._fall_back(str(reason))
        return GradientGraph(self.problem.value(inputs, targets), list(self.parameters.values()))

    def _ruled(self, inputs: Any, targets: Tensor | None) -> RuledGraph:
        """One batch's graph by rules; the first time, once they were found right for this network."""
        parameters = list(self.parameters.values())
        few = None if self._compared else loss_of_few(self.problem, inputs, targets)
        if few is not None:
            compared(few, parameters)
            self._settle()
        loss = self.problem.value(inputs, targets)
        graph = RuledGraph(loss, parameters) if self._compared else compared(loss, parameters)
        self._settle()
        return graph

    def _settle(self) -> None:
        self._compared = True
        if self._asked == "auto":
            self.engine, self.engine_reason = "rules", "every node has a rule"

    def _fall_back(self, reason: str) -> None:
        if self._asked == "rules":
            raise ValueError(
                f"engine='rules' was asked for, but {reason}. Use engine='auto', which takes double backward there."
            )
        self.engine, self.engine_reason = "double backward", reason

    def by_differences(self, vector: Tensor, step: float) -> Tensor:
        ends = []
        for signed in (step, -step):
            with shifted(self.parameters, signed * vector):
                ends.append(loss_and_gradient(self)[1])
        return (ends[0] - ends[1]) / (2 * step)

    def options(self) -> dict[str, Any]:
        return super().options() | {"engine": self._asked}
