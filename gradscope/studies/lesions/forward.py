"""Ways to run a network in which residual sums cannot be counted, and what to do instead."""

from typing import Any

import torch
from torch import nn

from gradscope.problem import Problem


def refuse_scripted(model: nn.Module) -> None:
    """Raise ValueError if a part of the model is scripted, where torch allows no hook."""
    # A traced module is a ScriptModule too, but allows hooks.
    scripted = torch.jit.RecursiveScriptModule  # type: ignore[attr-defined]
    names = [name for name, part in model.named_modules() if isinstance(part, scripted)]
    if names:
        raise ValueError(
            f"{names[0] or 'The whole model'} is scripted by torch.jit.script, which allows no hooks, so its residual "
            "sums cannot be found. Put the module that was scripted in its place."
        )


def refuse_other_forward(problem: Problem, inputs: Any, *, repeated: bool) -> None:
    """Raise ValueError if `forward=` runs parts of the model only.

    Args:
        problem: One without `forward=` always passes, at no cost; one with it runs once.
        inputs: A batch.
        repeated: Whether to raise for a model that `forward=` runs several times, too.
    """
    if problem.forward is None:
        return
    runs = 0

    def count(module: nn.Module, arguments: object) -> None:
        nonlocal runs
        runs += 1

    listening = problem.model.register_forward_pre_hook(count)
    try:
        with torch.no_grad():
            problem.outputs(inputs)
    finally:
        listening.remove()
    if runs == 1 or (runs and not repeated):
        return
    name = type(problem.model).__name__
    told = f"runs {name} {runs} times" if runs else f"runs parts of {name} but never {name} itself"
    raise ValueError(
        f"forward= {told}, but residual sums are counted in one run of the model. Write what forward= does as the "
        "forward of an nn.Module around it, and pass that as the model."
    )
