"""The gradient through every set of branches, one by one, by gates at modules whose names are given.

Nothing of the package is used but `Problem`: what hangs on finding junctions is checked against this.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.problem import Problem


class _Gate(torch.autograd.Function):
    """Hands on a value; multiplies its gradient by a factor that is read when the gradient passes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factors: list[float], place: int) -> Tensor:
        ctx.factors, ctx.place = factors, place
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * ctx.factors[ctx.place], None, None


def first_replaced(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A module's output with its first tensor changed."""
    if isinstance(output, tuple):
        return (change(output[0]), *output[1:])
    return change(output)


@contextmanager
def gates(model: nn.Module, branches: Sequence[Sequence[str]]) -> Iterator[list[float]]:
    """Gates on the gradient of what crosses each branch; the list that is handed out holds their factors."""
    factors = [1.0] * len(branches)
    uses: dict[str, int] = {}
    at: dict[str, dict[int | None, int]] = {}
    for place, names in enumerate(branches):
        for name in names:
            path, _, use = name.partition("#")
            at.setdefault(path, {})[int(use) if use else None] = place

    def gated(path: str) -> Callable[..., Any]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> Any:
            use = uses[path] = uses.get(path, -1) + 1
            place = at[path][None] if None in at[path] else at[path][use]
            return first_replaced(output, lambda value: _Gate.apply(value, factors, place))

        return hook

    handles = [model.get_submodule(path).register_forward_hook(gated(path)) for path in at]
    try:
        yield factors
    finally:
        for handle in handles:
            handle.remove()


def gate_patterns(
    problem: Problem,
    branches: Sequence[Sequence[str]],
    *,
    at: str | None = None,
    patterns: Sequence[Sequence[float]] | None = None,
) -> dict[str, Tensor]:
    """The gradients of one forward pass for each pattern of factors on the branches: name -> [patterns, ...].

    Args:
        at: None: the input (if that is integers: the output of the module `token`), under the name "input"; a module's
            path: its output, the first time it runs; "parameters": all of them, each under its name.
        patterns: Factors, one a branch; all patterns of 0 and 1 in the order of binary numbers if left out.
    """
    chosen = itertools.product([0.0, 1.0], repeat=len(branches)) if patterns is None else patterns
    wanted: dict[str, Tensor] = {}

    def keep(module: nn.Module, arguments: Any, output: Any) -> Any:
        def taken(value: Tensor) -> Tensor:
            wanted.setdefault("input" if at is None else at, value)
            return value

        return first_replaced(output, taken)

    with problem.prepared() as model:
        inputs, targets = problem.first_batch()
        tensor = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
        heard = ("" if tensor.is_floating_point() else "token") if at is None else at
        if at == "parameters":
            wanted |= dict(model.named_parameters())
            handles = []
        elif heard:
            # Before the gates: what a site inside a branch hands on has yet to cross it.
            handles = [model.get_submodule(heard).register_forward_hook(keep)]
        else:
            wanted["input"] = tensor.requires_grad_()
            handles = []
        with gates(model, branches) as factors:
            loss = problem.value(inputs, targets)
            for handle in handles:
                handle.remove()
            rows: dict[str, list[Tensor]] = {name: [] for name in wanted}
            for pattern in chosen:
                factors[:] = pattern
                found = torch.autograd.grad(
                    loss, list(wanted.values()), retain_graph=True, materialize_grads=True, allow_unused=True
                )
                for name, gradient in zip(rows, found, strict=True):
                    rows[name].append(gradient.detach())
        if tensor.is_floating_point():
            tensor.requires_grad_(False)
    return {name: torch.stack(gradients) for name, gradients in rows.items()}


def through_each_set(
    problem: Problem, branches: Sequence[Sequence[str]], *, at: str | None = None, factor: float = 10.0
) -> dict[str, Tensor]:
    """The gradients through exactly the branches of each set, in the order of binary numbers: name -> [2^n, ...].

    Args:
        factor: Multiplies what crosses a branch; the result for each set is divided by its power. Near the inverse of
            what a branch multiplies gradients by, it keeps long paths from drowning in the rounding of short ones
            when sets are told apart.
    """
    number = len(branches)
    patterns = list(itertools.product([0.0, factor], repeat=number))
    opened = gate_patterns(problem, branches, at=at, patterns=patterns)
    powers = factor ** sizes(number).double()
    return {
        name: moebius(gradients, number) / powers.view(-1, *[1] * (gradients.ndim - 1))
        for name, gradients in opened.items()
    }


def moebius(opened: Tensor, branches: int) -> Tensor:
    """From gradients with some branches open, [2^n, ...], to those through exactly these."""
    exactly = opened.clone()
    for branch in range(branches):
        pairs = exactly.view(2**branch, 2, 2 ** (branches - 1 - branch), *opened.shape[1:])
        pairs[:, 1] -= pairs[:, 0]
    return exactly


def sizes(branches: int) -> Tensor:
    """How many branches are in each set: [2^n]."""
    return torch.tensor([sum(pattern) for pattern in itertools.product([0, 1], repeat=branches)])


def by_length(exactly: Tensor, branches: int) -> Tensor:
    """Sums over the sets of each size: [n + 1, ...]."""
    number = sizes(branches)
    return torch.stack([exactly[number == k].sum(dim=0) for k in range(branches + 1)])


def assert_alike(
    found: Tensor, expected: Tensor, tolerance: float = 1e-9, *, rounding: float = 1e-15
) -> None:
    """Each row relative to its own norm; one has zeros where it has fewer, and zero is `rounding` of the largest."""
    rows = max(len(found), len(expected))
    found, expected = (
        torch.cat([g, g.new_zeros(rows - len(g), *g.shape[1:])]).flatten(1) for g in (found, expected)
    )
    error, norm = (found - expected).norm(dim=1), expected.norm(dim=1)
    if not bool((error <= tolerance * norm + rounding * norm.max()).all()):
        raise AssertionError(f"Errors of {error.tolist()} in rows of norm {norm.tolist()}.")
