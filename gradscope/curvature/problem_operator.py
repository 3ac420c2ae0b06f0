"""What the operators of a problem have in common: the loop over batches, kept graphs, parts of them."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from gradscope.curvature.coupling import CouplingOperator
from gradscope.curvature.culprits import not_finite_part
from gradscope.curvature.gradient_graph import exact_derivatives, saved_bytes
from gradscope.curvature.missing_derivatives import recurrent_by_torch
from gradscope.curvature.operators import Operator
from gradscope.curvature.partition import Partition, members, partition
from gradscope.curvature.preconditioning import Diagonal, diagonal_of
from gradscope.curvature.selection import Selection, select
from gradscope.curvature.stamp import Stamp, stamp
from gradscope.instruments.renormalised import renormalising_refused
from gradscope.problem import Problem


class BatchGraph(Protocol):
    """One batch's graph, through which vectors are sent."""

    loss: Tensor

    def gradient(self) -> Tensor:
        """The gradient of the batch's share of the loss, [P]."""

    def add_product(self, vector: Tensor, total: Tensor, *, last: bool = False) -> None:
        """Add the batch's share of the product with `vector` to `total`, both [P]; `last` frees the graph."""


class ProblemOperator(Operator):
    """A symmetric matrix made of one share for each batch of a problem, with respect to some parameters.

    With weight decay w and a preconditioner D the matrix is D^(-1/2) (A + w I) D^(-1/2).

    Graphs kept between products are rebuilt when what the loss is computed from changed since. What `stamp` cannot
    see (an edit of `.data` elsewhere, a list changed in place, data behind a loader) asks for `close()`.

    Args:
        problem: What is differentiated.
        parameters: The parameters by name.
        weight_decay: Added to the diagonal.
        precondition: Positive diagonal D; see `preconditioning.diagonal_of`.
        budget_bytes: Memory that graphs may keep between products.

    Attributes:
        parameters: The parameters by name, in the order of the vector's entries.
        diagonal: D as a float64 vector, [P]; None without.
        retained: Whether graphs are kept between products; None before the first one.

    Raises:
        ValueError: Parameters of several dtypes or devices, complex or without entries; a preconditioner that
            does not fit. Products: a parameter was replaced since, or the forward pass writes to one.
    """

    title: ClassVar[str]
    """What the matrix is called in sentences and in the frames' column `operator`."""

    def __init__(
        self,
        problem: Problem,
        parameters: Mapping[str, nn.Parameter],
        *,
        weight_decay: float = 0.0,
        precondition: Diagonal = None,
        budget_bytes: int = 2**30,
    ) -> None:
        unlike = [name for name, parameter in parameters.items() if not parameter.is_floating_point()]
        if unlike:
            raise ValueError(
                f"The {self.title} is a real matrix, but {', '.join(unlike)} is {parameters[unlike[0]].dtype}. Leave "
                "it out with parameters=, or hold real and imaginary parts as two real parameters."
            )
        kinds = {(parameter.dtype, parameter.device) for parameter in parameters.values()}
        if len(kinds) > 1:
            raise ValueError(
                f"The {self.title} needs parameters of one dtype on one device, got "
                f"{', '.join(sorted(f'{dtype} on {device}' for dtype, device in kinds))}. "
                "Select some with parameters=."
            )
        dtype, device = kinds.pop()
        size = sum(parameter.numel() for parameter in parameters.values())
        if size == 0:
            raise ValueError(
                f"The {self.title} needs at least one entry, but {', '.join(parameters)} hold none. Select others "
                "with parameters=."
            )
        super().__init__(size, dtype, device)
        self.problem = problem
        self.parameters = dict(parameters)
        self.weight_decay = weight_decay
        self.diagonal = diagonal_of(precondition, self.parameters)
        self.budget_bytes = budget_bytes
        self.retained: bool | None = None
        self.conditions = {"operator": self.title, "batch_norm": problem.batch_norm_name}
        if weight_decay:
            self.conditions["weight_decay"] = f"{weight_decay:g}"
        if self.diagonal is not None:
            self.conditions["precondition"] = "diagonal"
        self._roots = None if self.diagonal is None else self.diagonal.rsqrt().to(device, dtype)
        self._graphs: list[BatchGraph] = []
        self._stamp: Stamp | None = None
        self._shapes = [parameter.shape for parameter in self.parameters.values()]

    @abstractmethod
    def graph(self, inputs: Any, targets: Tensor | None) -> BatchGraph:
        """One batch's graph; called inside `prepared`."""

    @abstractmethod
    def by_differences(self, vector: Tensor, step: float) -> Tensor:
        """The product with `vector`, [P], by central differences of `step`: what the full check compares with.

        Without weight decay and preconditioner. Parameters are put back.
        """

    @property
    def slices(self) -> dict[str, slice]:
        """Which entries of a vector, [P], belong to which parameter."""
        places, start = {}, 0
        for name, parameter in self.parameters.items():
            places[name] = slice(start, start + parameter.numel())
            start += parameter.numel()
        return places

    def restricted(self, parameters: Selection) -> Self:
        """The same matrix on fewer parameters: its rows and columns, differentiated for these only.

        Args:
            parameters: Some of the operator's own, as in `hessian`.

        Raises:
            ValueError: Nothing is selected.
        """
        chosen = select(self.parameters, parameters, model=self.problem.model)
        return self._on(list(chosen), self.budget_bytes)

    def blocks(self, by: Partition = "layer") -> dict[str, Self]:
        """The diagonal blocks, each an operator of its own; every parameter is in exactly one.

        Args:
            by: `parameter`; `layer` (module that holds the parameters); `block` (branch of a residual
                junction, named after it; what is in none goes under its layer); `stage` (runs of
                residual blocks at one shape, `stage 0`, ...; the rest likewise); or a mapping from
                names to selections, where the first that takes a parameter has it.

        Returns:
            Operators by name, in the order of their first parameters. The memory budget is divided among them; close
            each after use. Off-diagonal blocks are what `coupling` is for.

        Raises:
            ValueError: An unknown `by`; a mapping that leaves parameters out.
        """
        parts = partition(self.problem, self.parameters, by)
        share = self.budget_bytes // len(parts)
        return {name: self._on(names, share) for name, names in parts.items()}

    def coupling(self, a: Selection, b: Selection, *, by: Partition | None = None) -> CouplingOperator:
        """[[0, A_ab], [A_ba, 0]], symmetric, of size Pa + Pb: how parameters a and b depend on each other.

        Its largest eigenvalue is the norm |A_ab|, and its spectrum is that of A_ab's singular values,
        plus and minus. A product costs two of the operator restricted to a and b.

        Args:
            a: Parameters: the name of one of the `blocks`, or else a selection.
            b: Others; none of a.
            by: Of which `blocks(by)` the names are. By default a layer's, residual block's or stage's
                name is known as such.

        Raises:
            ValueError: Nothing is selected, or a parameter is in both.
        """
        first, second = (members(self.problem, self.parameters, wanted, by) for wanted in (a, b))
        both = [name for name in first if name in second]
        if both:
            raise ValueError(
                f"coupling(a, b) is between different parameters, but {', '.join(both)} is in both. "
                "For what is within a group use blocks() or restricted()."
            )
        return CouplingOperator(
            self._on([n for n in self.parameters if n in {*first, *second}]), first, second
        )

    def not_finite(self) -> str:
        return not_finite_part(self.problem)

    def close(self) -> None:
        self._graphs = []
        self._stamp = None

    def options(self) -> dict[str, Any]:
        """Further arguments with which an operator of the same kind is made on other parameters."""
        return {"weight_decay": self.weight_decay}

    def _on(self, names: list[str], budget_bytes: int | None = None) -> Self:
        chosen = {name: parameter for name, parameter in self.parameters.items() if name in set(names)}
        places = self.slices
        kept = None if self.diagonal is None else torch.cat([self.diagonal[places[name]] for name in chosen])
        budget = self.budget_bytes if budget_bytes is None else budget_bytes
        return type(self)(self.problem, chosen, precondition=kept, budget_bytes=budget, **self.options())

    def _apply(self, rows: Tensor) -> Tensor:
        inward = rows if self._roots is None else rows * self._roots
        totals = inward * self.weight_decay if self.weight_decay else torch.zeros_like(rows)

        def multiply(graph: BatchGraph, kept: bool) -> None:
            for index, (row, total) in enumerate(zip(inward, totals, strict=True), start=1):
                graph.add_product(row, total, last=not kept and index == len(rows))

        self.for_each_batch(multiply)
        return totals if self._roots is None else totals.mul_(self._roots)

    def for_each_batch(self, visit: Callable[[BatchGraph, bool], None]) -> None:
        """Call `visit(graph, kept)` with each batch's graph: kept, or built and freed in turn."""
        with exact_derivatives(self.device):
            if self._graphs and self._stamp is not None and self._stamp.matches(stamp(self.problem)):
                for graph in self._graphs:
                    visit(graph, True)
            else:
                self.close()
                self._build(visit)

    def _build(self, visit: Callable[[BatchGraph, bool], None]) -> None:
        kept: list[BatchGraph] = []
        bytes_kept = 0
        keep = self.retained is not False
        with self.prepared() as model:
            for inputs, targets in self.problem.batches():
                with (
                    saved_bytes(model.parameters(), model.buffers())
                    if keep
                    else nullcontext(_nothing) as size
                ):
                    graph = self.graph(inputs, targets)
                bytes_kept += getattr(graph, "bytes", size())
                keep = keep and bytes_kept <= self.budget_bytes
                if keep:
                    kept.append(graph)
                else:
                    kept.clear()
                visit(graph, keep)
                del graph
        self.retained = keep
        if keep:
            self._graphs, self._stamp = kept, stamp(self.problem)

    @contextmanager
    def prepared(self) -> Iterator[nn.Module]:
        """The problem's model, ready to be measured, with no gradients but the operator's.

        Raises:
            ValueError: A parameter is no longer the model's, or no longer what it was; the forward pass wrote
                to one.
        """
        self._same_parameters()
        chosen = {id(parameter) for parameter in self.parameters.values()}
        with (
            self.problem.prepared() as model,
            recurrent_by_torch(model, self.device),
            renormalising_refused(model, self.title),
        ):
            for parameter in model.parameters():
                parameter.requires_grad_(id(parameter) in chosen)
            yield model

    def _same_parameters(self) -> None:
        """Raise where a parameter has been replaced, of which the matrix would be zero."""
        held = {id(parameter) for parameter in self.problem.model.parameters()}
        for (name, parameter), shape in zip(self.parameters.items(), self._shapes, strict=True):
            kind = parameter.dtype, parameter.device, parameter.shape
            if id(parameter) not in held or kind != (self.dtype, self.device, shape):
                raise ValueError(
                    f"{name} is no longer the parameter that this {self.title} was made for: it was replaced, "
                    "reparametrised, moved or cast since. Make the operator anew."
                )


def _nothing() -> int:
    return 0
