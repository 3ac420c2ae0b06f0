"""Cells on what of a residual network expands into 2^n terms: its gradient, and its function only if linear."""

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import jacrev

from gradscope.gradients.paths import path_gradients
from gradscope.nets import build
from gradscope.problem import Problem

if TYPE_CHECKING:
    import pandas as pd


def expansion(branches: str, blocks: int, width: int, seed: int) -> "pd.DataFrame":
    """How far 2^n terms, followed one by one, are from the whole: `gradient_error` and `function_error`.

    The gradient's terms are products of one Jacobian, or the identity, for each block, at the states that the
    network visits; they are added up by the number of Jacobians and compared with `path_gradients`. The
    function's terms are the 2^n networks in which each block is replaced by its branch or left out.

    Args:
        branches: `relu`, W relu(h), or `linear`, W h.
        blocks: Number n of blocks; 2^n terms are followed.
        width: Units of the stream.
        seed: Of weights and input.
    """
    import pandas as pd

    functions, x = _specimen(branches, blocks, width, seed)
    states = [x]
    for function in functions:
        states.append(states[-1] + function(states[-1]))
    jacobians = [jacrev(function)(state[0]) for function, state in zip(functions, states[:-1], strict=True)]
    cotangent = torch.ones(width, dtype=x.dtype)
    by_length = torch.zeros(blocks + 1, width, dtype=x.dtype)
    outputs = torch.zeros_like(x)
    for crossed in itertools.product((False, True), repeat=blocks):
        gradient, term = cotangent, x
        for jacobian in (j for j, used in zip(reversed(jacobians), reversed(crossed), strict=True) if used):
            gradient = jacobian.T @ gradient
        for function in (f for f, used in zip(functions, crossed, strict=True) if used):
            term = function(term)
        by_length[sum(crossed)] += gradient
        outputs += term
    model = nn.Sequential(*map(_Block, functions))
    problem = Problem(model, (x, torch.zeros(1)), loss=lambda output, _: output.sum(dim=1))
    graded = path_gradients(problem)[:, 0]
    shared = {"terms": 2**blocks}
    rows = [
        {"quantity": "gradient_error", "value": _off(by_length, graded)},
        {"quantity": "function_error", "value": _off(outputs, states[-1])},
    ]
    return pd.DataFrame([{**shared, **row, "unit": "1", "status": "ok", "reason": ""} for row in rows])


class _Block(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.branch(x)
        return out


def _specimen(branches: str, blocks: int, width: int, seed: int) -> tuple[list[nn.Module], Tensor]:
    activation = {"relu": "relu", "linear": "linear"}[branches]
    network = build(
        "residual_mlp",
        seed=seed,
        depth=blocks,
        inputs=width,
        width=width,
        outputs=width,
        activation=activation,
    )
    network = network.double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    return [block.get_submodule("branch") for block in network.blocks], torch.randn(
        1, width, generator=generator, dtype=torch.float64
    )


def _off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
