"""Operators made of Jacobians, J^T M J batch by batch, by rules where every node has one."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradscope.curvature.gradient_graph import drawn
from gradscope.curvature.jacobian_graph import JacobianGraph
from gradscope.curvature.missing_derivatives import normalises_with_bias_alone
from gradscope.curvature.problem_operator import BatchGraph, ProblemOperator
from gradscope.curvature.r_operator import NoRule
from gradscope.curvature.r_operator.agreement import few_of
from gradscope.curvature.ruled_jacobian import RuledJacobianGraph


class Share(NamedTuple):
    """One batch's share of an operator.

    Attributes:
        loss: The batch's share of the loss, a scalar.
        values: What J is the Jacobian of, with their graph.
        slope: The derivative of the loss by the values.
        middle: M as a function of a change of the values.
    """

    loss: Tensor
    values: Tensor
    slope: Tensor
    middle: Callable[[Tensor], Tensor]


class JacobianOperator(ProblemOperator):
    """Sum of J^T M J over batches; a kind of it says what `share` is.

    Attributes:
        engine: How products are made: `rules` or `double backward`; `auto` before the first batch was read.
        engine_reason: Why.
    """

    engine = "auto"
    engine_reason = ""

    @abstractmethod
    def share(self, inputs: Any, targets: Tensor | None) -> Share:
        """What the batch's share is made of; called inside `prepared`."""

    def graph(self, inputs: Any, targets: Tensor | None) -> BatchGraph:
        parameters = list(self.parameters.values())
        share = None
        try:
            if self.engine == "auto":
                self._compare(self._share_of_few(inputs, targets) or self.share(inputs, targets))
                self.engine, self.engine_reason = "rules", "every node has a rule"
            share = self.share(inputs, targets)
            if self.engine == "rules":
                return RuledJacobianGraph(*share, parameters)
        except NoRule as reason:
            self.engine, self.engine_reason = "double backward", str(reason)
        return JacobianGraph(*(share or self.share(inputs, targets)), parameters)

    def _compare(self, share: Share) -> None:
        """Look whether the rules give what double backward gives.

        Raises:
            NoRule: They do not, or some node has none.
        """
        parameters = list(self.parameters.values())
        graphs: list[BatchGraph] = [
            RuledJacobianGraph(*share, parameters),
        ]
        if normalises_with_bias_alone(share.values):
            # Double backward itself is known to be wrong there.
            return
        graphs.append(JacobianGraph(*share, parameters))
        vector = drawn(self.shape[0], parameters[0], torch.Generator().manual_seed(2))
        by_rules, by_taping = torch.zeros_like(vector), torch.zeros_like(vector)
        for graph, product in zip(graphs, (by_rules, by_taping), strict=True):
            graph.add_product(vector, product)
        # What neither can multiply with is left to whoever looks at the results.
        if not by_taping.isfinite().all():
            return
        length = torch.linalg.vector_norm(by_taping)
        difference = torch.linalg.vector_norm(by_rules - by_taping)
        if difference > (1e-9 if self.dtype == torch.float64 else 1e-4) * length:
            raise NoRule(
                "a product by rules differs from one by double backward by "
                f"{(difference / length).item():.2g} of its length"
            )

    def _share_of_few(self, inputs: Any, targets: Tensor | None) -> Share | None:
        """The share of a batch's first examples; None where it has no more, or cannot be cut."""
        few = few_of(inputs, targets)
        if few is None:
            return None
        try:
            return self.share(*few)
        except Exception:
            # A user's network or loss may insist on the size of its batches, in any words.
            return None
