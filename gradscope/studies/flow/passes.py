"""One forward and one backward pass over each batch, and what is kept of them: sizes, never gradients of examples."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.gradients.example_values import ExampleSource, example_values
from gradscope.instruments.junctions.source import streams_of
from gradscope.instruments.listen import Heard, on_gradient, on_output
from gradscope.instruments.rectifiers import on_rectified
from gradscope.instruments.sites import Site
from gradscope.measures.log_norm import log_norms
from gradscope.problem import Problem, examples_in
from gradscope.studies.flow.entries import Entries


@dataclass
class AtOutput:
    """What is kept of the gradients at one output of one site.

    Attributes:
        order: Place among all outputs heard in a forward pass, from 0.
        kind: Name of the module's class.
        shape: Of one example's output.
        examples: Number of examples seen.
        log_norms: Natural logarithms of the norms, one tensor [N] a batch; of a whole batch, [1], where rows are not
            examples.
        per_example: Whether rows are examples.
        signal: Largest magnitude of the output itself.
        exact_above: As in `Entries`, of the output.
    """

    order: int
    kind: str
    shape: tuple[int, ...]
    examples: int = 0
    log_norms: list[Tensor] = field(default_factory=list)
    per_example: bool = True
    signal: float = 0.0
    exact_above: float = 0.0
    entries: Entries = field(default_factory=Entries)


@dataclass
class AtRectifier:
    """How often the units of one rectifier were active.

    Attributes:
        depth: That of the innermost site it runs in, else of the last site that ran before it; 0 where none did.
        counts: Examples on which each unit was active; None where batches had outputs of different shapes.
    """

    depth: int
    counts: Tensor | None
    examples: int = 0


@dataclass
class Flow:
    """What the passes over all batches left; depth counts from 1, the input being 0."""

    outputs: dict[Heard, AtOutput] = field(default_factory=dict)
    rectifiers: dict[tuple[str, int], AtRectifier] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)

    def lost_forward(self) -> str:
        """Where the signal itself fell below the precision on its way forward; empty where it did not.

        Behind it every rectifier is off, so that gradients are zero although the network's are not.
        """
        for where, read in self.outputs.items():
            if 0 < read.signal < read.exact_above:
                return f"the outputs of {where.site} are at most {read.signal:.1e}: the forward signal underflowed"
        return ""


def flow_of(problem: Problem, at: Sequence[Site], source: ExampleSource, everywhere: bool) -> Flow:
    """Drive all batches of a prepared problem; parameter gradients are those of the sum over all examples.

    Args:
        problem: Inside `problem.prepared()`.
        at: Sites to hear.
        source: What is differentiated of each example.
        everywhere: Whether rectifiers outside of the sites are heard too.

    Raises:
        ValueError: As `example_values`, or nothing to differentiate.
    """
    flow = Flow()
    for inputs, targets in problem.batches():
        _Batch(problem, at, flow, examples_in(inputs), everywhere).run(inputs, targets, source)
    return flow


class _Batch:
    """Listeners of one batch's passes."""

    def __init__(
        self, problem: Problem, at: Sequence[Site], flow: Flow, examples: int, everywhere: bool
    ) -> None:
        self.problem, self.at, self.flow = problem, at, flow
        self.examples, self.everywhere = examples, everywhere
        # Checkpointed parts run once more in the backward pass, and are not heard again.
        self.forward = True
        self.example: int | None = None
        self.order = 0
        self.finished = 0
        self.within: list[tuple[tuple[str, int], str]] = []
        self.depths: dict[str, int] = {}
        self.kinds = {site.name: type(site.module).__name__ for site in at}

    def run(self, inputs: Any, targets: Tensor | None, source: ExampleSource) -> None:
        model, parameters = self.problem.model, self.problem.parameters
        with (
            torch.enable_grad(),
            streams_of(model, inputs) as (placed, sources),
            on_output(self.at, self.ran),
            on_gradient(self.at, self.hear),
        ):
            with on_rectified(model, self.rectified):
                values = example_values(self.problem, placed, targets, source)
            self.forward = False
            wanted = [*parameters.values(), *sources()[0]]
            if not wanted or not values.requires_grad:
                raise ValueError(
                    "Neither a trainable parameter nor the input reaches the output in a way autograd can see."
                )
            own = self.problem.batch_norm_name == "own"
            for example in range(len(values)) if own else (None,):
                self.example = example
                value = values.sum() if example is None else values[example]
                found = torch.autograd.grad(value, wanted, retain_graph=own, allow_unused=True)
                self.keep(parameters, found)
        for key, site in self.within:
            self.flow.rectifiers[key].depth = self.depths.get(site, 0)

    def keep(self, parameters: dict[str, nn.Parameter], found: Sequence[Tensor | None]) -> None:
        for name, gradient in zip(parameters, found, strict=False):
            if gradient is not None:
                known = self.flow.gradients.get(name)
                dense = gradient.to_dense().double() if gradient.is_sparse else gradient.double()
                self.flow.gradients[name] = dense if known is None else known.add_(dense)

    def ran(self, where: Heard, output: Tensor) -> None:
        if self.forward:
            where = where._replace(depth=where.depth + 1)
            shape = tuple(output.shape[1:])
            read = self.flow.outputs.setdefault(where, AtOutput(self.order, self.kinds[where.site], shape))
            read.examples += self.examples
            if output.is_floating_point() and output.numel():
                limits = torch.finfo(output.dtype)
                read.signal = max(read.signal, float(output.detach().abs().amax()))
                read.exact_above = limits.tiny / limits.eps
            read.per_example &= output.ndim > 0 and len(output) == self.examples
            self.order, self.finished = self.order + 1, where.depth
            self.depths[where.site] = where.depth

    def hear(self, where: Heard, gradient: Tensor) -> None:
        read = self.flow.outputs.get(where._replace(depth=where.depth + 1))
        if read is None:
            return
        rows = gradient.reshape(self.examples, -1) if read.per_example else gradient.reshape(1, -1)
        if self.example is not None and read.per_example:
            rows = rows[self.example : self.example + 1]
        read.log_norms.append(log_norms(rows))
        read.entries.add(rows)

    def rectified(self, name: str, call: int, output: Tensor) -> None:
        if output.ndim == 0 or len(output) != self.examples:
            return
        inside = [site.name for site in self.at if _holds(site.name, name)]
        if not inside and not self.everywhere:
            return
        key = (name, call)
        counts = (output.detach() > 0).sum(dim=0)
        read = self.flow.rectifiers.get(key)
        if read is None:
            read = self.flow.rectifiers[key] = AtRectifier(self.finished, torch.zeros_like(counts))
        if inside:
            self.within.append((key, max(inside, key=len)))
        if read.counts is not None:
            same = read.counts.shape == counts.shape
            read.counts = read.counts + counts if same else None
        read.examples += self.examples


def _holds(site: str, name: str) -> bool:
    return site == name or not site or name.startswith(f"{site}.")
