"""Products with the Hessian, batch by batch, with the gradient's graph kept where memory allows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.curvature.gradient_graph import GradientGraph, exact_derivatives, saved_bytes
from gradscope.curvature.operators import Operator
from gradscope.problem import Problem


class HessianOperator(Operator):
    """Products with the Hessian by differentiating the gradient; made by `hessian`.

    Graphs kept between products are rebuilt when parameters or buffers changed since: their version
    counters and three entries of each are compared (an edit of `.data` elsewhere goes unseen).

    Attributes:
        problem: What is differentiated.
        parameters: The parameters by name, in the order of the vector's entries.
        retained: Whether gradient graphs are kept between products; None before the first one.
    """

    def __init__(
        self, problem: Problem, parameters: dict[str, nn.Parameter], *, weight_decay: float, budget_bytes: int
    ) -> None:
        kinds = {(parameter.dtype, parameter.device) for parameter in parameters.values()}
        if len(kinds) > 1:
            raise ValueError(
                "The Hessian needs parameters of one dtype on one device, got "
                f"{', '.join(sorted(f'{dtype} on {device}' for dtype, device in kinds))}. "
                "Select some with parameters=."
            )
        dtype, device = kinds.pop()
        super().__init__(sum(parameter.numel() for parameter in parameters.values()), dtype, device)
        self.problem = problem
        self.conditions = {"batch_norm": problem.batch_norm_name}
        self.parameters = parameters
        self.weight_decay = weight_decay
        self.budget_bytes = budget_bytes
        self.retained: bool | None = None
        self._graphs: list[GradientGraph] = []
        self._stamp: tuple[Any, ...] | None = None

    def close(self) -> None:
        self._graphs = []
        self._stamp = None

    def _apply(self, rows: Tensor) -> Tensor:
        totals = rows * self.weight_decay if self.weight_decay else torch.zeros_like(rows)

        def multiply(graph: GradientGraph, kept: bool) -> None:
            for index, (row, total) in enumerate(zip(rows, totals, strict=True), start=1):
                graph.add_product(row, total, last=not kept and index == len(rows))

        self.for_each_batch(multiply)
        return totals

    def for_each_batch(self, visit: Callable[[GradientGraph, bool], None]) -> None:
        """Call `visit(graph, kept)` with each batch's gradient graph: kept, or built and freed in turn."""
        with exact_derivatives(self.device):
            if self._graphs and self._stamp == self._checksum():
                for graph in self._graphs:
                    visit(graph, True)
            else:
                self.close()
                self._build(visit)

    def _build(self, visit: Callable[[GradientGraph, bool], None]) -> None:
        kept: list[GradientGraph] = []
        bytes_kept = 0
        keep = self.retained is not False
        with self.prepared() as model:
            for inputs, targets in self.problem.batches():
                with (
                    saved_bytes(model.parameters(), model.buffers())
                    if keep
                    else nullcontext(_nothing) as size
                ):
                    graph = GradientGraph(self.problem.value(inputs, targets), list(self.parameters.values()))
                bytes_kept += size()
                keep = keep and bytes_kept <= self.budget_bytes
                if keep:
                    kept.append(graph)
                else:
                    kept.clear()
                visit(graph, keep)
                del graph
        self.retained = keep
        if keep:
            self._graphs, self._stamp = kept, self._checksum()

    @contextmanager
    def prepared(self) -> Iterator[nn.Module]:
        """The problem's model, ready to be measured, with no gradients but the operator's."""
        chosen = {id(parameter) for parameter in self.parameters.values()}
        with self.problem.prepared() as model:
            for parameter in model.parameters():
                parameter.requires_grad_(id(parameter) in chosen)
            yield model

    def _checksum(self) -> tuple[Any, ...]:
        model = self.problem.model
        with torch.no_grad():
            tensors = [
                tensor.detach() for tensor in (*model.parameters(), *model.buffers()) if tensor.numel()
            ]
            entries = [tensor.flatten()[:: max(1, tensor.numel() // 2)].double() for tensor in tensors]
            versions = sum(tensor._version for tensor in tensors)
            trainable = all(parameter.requires_grad for parameter in self.parameters.values())
            return versions, trainable, self.problem.batch_norm_name, *torch.cat(entries).tolist()


def _nothing() -> int:
    return 0
