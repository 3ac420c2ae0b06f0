"""The Jacobian of the output with respect to the input, or between two places inside, example by example."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.instruments.junctions.source import source_of
from gradscope.instruments.sites import sites
from gradscope.problem import Problem, examples_in


@dataclass
class LiveJacobian:
    """One forward pass, held, and the Jacobian of each example between two of its tensors.

    Attributes:
        start: Where it is differentiated, [N, ...].
        end: What is differentiated, [N, ...].
        examples: The first so many examples are looked at.
        mixing: Whether each example needs a backward pass of its own (batch_norm="own").
    """

    start: Tensor
    end: Tensor
    examples: int
    mixing: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers in one example's `end` and `start`."""
        return self.end[0].numel(), self.start[0].numel()

    @property
    def entries(self) -> int:
        """Numbers in the Jacobians of all examples."""
        return self.examples * math.prod(self.shape)

    @property
    def passes(self) -> int:
        """Backward passes that `dense` takes, but for a few."""
        return self.shape[0] * self.examples if self.mixing else min(self.shape)

    def dense(self, advance: Callable[[int], None] = lambda passes: None) -> tuple[Tensor, str]:
        """All entries, [examples, outputs, inputs] in the model's precision, and the mode they were taken in.

        "reverse": a backward pass for each output. "forward": where there are fewer inputs, a pass for each of them
        through the graph of one backward pass, whose derivative with respect to what is fed into it is the Jacobian
        itself. It is checked against one backward pass, and operations without a second derivative fall back on
        reverse mode.

        Args:
            advance: Told of each row or column of the Jacobians.
        """
        outputs, inputs = self.shape
        if inputs < outputs and not self.mixing:
            columns = self._forward(advance)
            if columns is not None and self._agrees(columns):
                return columns, "forward"
        rows = []
        for k in range(outputs):
            rows.append(self.transposed(self._unit(k)))
            advance(1)
        return torch.stack(rows, dim=1), "reverse"

    def transposed(self, vectors: Tensor) -> Tensor:
        """Products of each example's transposed Jacobian with its own vector, [examples, outputs] to [., inputs]."""
        if not self.mixing:
            return self._pulled(self._filled(self.end, vectors))[: self.examples].flatten(start_dim=1)
        rows = []
        for example in range(self.examples):
            alone = torch.zeros_like(vectors)
            alone[example] = vectors[example]
            rows.append(self._pulled(self._filled(self.end, alone))[example].flatten())
        return torch.stack(rows)

    def _forward(self, advance: Callable[[int], None]) -> Tensor | None:
        inputs = self.shape[1]
        fed = torch.zeros_like(self.end).requires_grad_()
        try:
            (pulled,) = torch.autograd.grad(
                self.end, self.start, fed, retain_graph=True, create_graph=True, materialize_grads=True
            )
            columns = []
            for k in range(inputs):
                unit = torch.zeros(self.examples, inputs, dtype=pulled.dtype, device=pulled.device)
                unit[:, k] = 1
                (pushed,) = torch.autograd.grad(
                    pulled, fed, self._filled(self.start, unit), retain_graph=True, materialize_grads=True
                )
                columns.append(pushed[: self.examples].flatten(start_dim=1))
                advance(1)
        except (RuntimeError, NotImplementedError):
            return None
        return torch.stack(columns, dim=2)

    def _agrees(self, jacobians: Tensor) -> bool:
        """Whether a backward pass gives the same: a derivative that autograd cannot see is zero without an error."""
        generator = torch.Generator().manual_seed(0)
        vectors = torch.randn(jacobians.shape[:2], generator=generator, dtype=torch.float64).to(jacobians)
        expected = self.transposed(vectors)
        difference = torch.einsum("eoi,eo->ei", jacobians, vectors) - expected
        rounding = 100 * torch.finfo(expected.dtype).eps * self.shape[0]
        return bool(difference.abs().max() <= rounding * expected.abs().max())

    def _unit(self, k: int) -> Tensor:
        vectors = torch.zeros(self.examples, self.shape[0], dtype=self.end.dtype, device=self.end.device)
        vectors[:, k] = 1
        return vectors

    def _pulled(self, vectors: Tensor) -> Tensor:
        (pulled,) = torch.autograd.grad(
            self.end, self.start, vectors, retain_graph=True, materialize_grads=True
        )
        return pulled

    def _filled(self, like: Tensor, rows: Tensor) -> Tensor:
        whole = torch.zeros_like(like)
        whole[: self.examples] = rows.reshape(self.examples, *like.shape[1:])
        return whole


@contextmanager
def live_jacobian(
    problem: Problem, of: tuple[str, str] = ("input", "output"), examples: int = 8
) -> Iterator[LiveJacobian]:
    """Run the first batch once and hold its graph, so that Jacobians between two places can be taken from it.

    Args:
        problem: Its first batch runs whole, for statistics of the batch are those of all of it.
        of: Where from and where to: `input` (for integers, what the embedding makes of them), `output`, or the dotted
            path of a module that runs once, for its output.
        examples: How many of the first batch's first examples are looked at, at most.

    Raises:
        ValueError: No such site, or several; a site that ran not once, put out no tensor, or nothing with a row for
            each example; an end that does not depend on the start.
    """
    start, end = of if isinstance(of, tuple | list) and len(of) == 2 else ("", "")
    if not start or not end or start == "output" or end == "input":
        raise ValueError(
            f"of is a pair (from, to): from 'input' or a site, to a site or 'output', got {of!r}."
        )
    if not isinstance(examples, int) or isinstance(examples, bool) or examples < 1:
        raise ValueError(f"examples is a whole number, at least 1, got {examples!r}.")
    with problem.prepared() as model, torch.enable_grad(), ExitStack() as stack:
        inputs = problem.first_batch()[0]
        placed, sources = stack.enter_context(source_of(model, inputs))
        heard: dict[str, list[Tensor]] = {}
        for name, opened in ((start, True), (end, False)):
            if name not in ("input", "output"):
                hook = _hook(heard.setdefault(name, []), name, opened)
                stack.callback(_one(model, name).register_forward_hook(hook).remove)
        output = problem.outputs(placed)
        begun = sources() if start == "input" else heard[start]
        ended = [output] if end == "output" else heard[end]
        number = examples_in(inputs)
        for name, found in ((start, begun), (end, ended)):
            _check(name, found, number)
        if not _depends(ended[0], begun[0]):
            raise ValueError(
                f"{end} does not depend on {start} in a way autograd can see. Name them in order."
            )
        mixing = problem.batch_norm_name == "own"
        yield LiveJacobian(begun[0], ended[0], min(examples, number), mixing)


def _one(model: nn.Module, name: str) -> nn.Module:
    found = sites(model, name)
    if len(found) > 1:
        raise ValueError(
            f"{name!r} matches {len(found)} sites, of which {found[0].name} is the first; name one."
        )
    return found[0].module


def _hook(heard: list[Tensor], name: str, opened: bool) -> Callable[[nn.Module, Any, Any], Tensor]:
    def hook(module: nn.Module, arguments: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise ValueError(
                f"{name} put out {type(output).__name__}, but one tensor is needed. Name another site."
            )
        heard.append(output.detach().requires_grad_() if opened else output)
        # The network goes on with a copy, which it may change in place.
        return heard[-1].clone()

    return hook


def _check(name: str, found: list[Tensor], examples: int) -> None:
    if len(found) != 1:
        came = (
            f"it ran {len(found)} times"
            if name != "input"
            else "no tensor of the inputs can be differentiated"
        )
        raise ValueError(f"A Jacobian needs {name} once in a forward pass, but {came}.")
    if found[0].ndim == 0 or len(found[0]) != examples:
        raise ValueError(
            f"{name} is {list(found[0].shape)} for {examples} examples; the first dimension has to count them."
        )


def _depends(end: Tensor, start: Tensor) -> bool:
    if not end.requires_grad:
        return False
    return torch.autograd.grad(end.sum(), start, retain_graph=True, allow_unused=True)[0] is not None
