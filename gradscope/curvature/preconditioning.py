"""Diagonal preconditioners: what an optimiser divides its steps by."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

Diagonal = Tensor | Mapping[str, Tensor | float] | None


def diagonal_of(given: Diagonal, parameters: Mapping[str, nn.Parameter]) -> Tensor | None:
    """A preconditioner as one vector.

    Args:
        given: A vector, [P], or for each parameter's name a tensor of its shape or one number for all its
            entries (names of other parameters are passed over); None for no preconditioner.
        parameters: Those of the operator, in the order of the vector's entries.

    Returns:
        Float64 vector, [P], on the parameters' device; None for None.

    Raises:
        ValueError: An entry is not positive and finite, a shape does not fit, or a parameter is missing.
    """
    if given is None:
        return None
    device = next(iter(parameters.values())).device
    size = sum(parameter.numel() for parameter in parameters.values())
    if isinstance(given, Tensor):
        if given.shape != (size,):
            raise ValueError(
                f"precondition= as one tensor has an entry for each of the parameters, [{size}], got "
                f"{list(given.shape)}. Pass a dict from parameters' names to tensors of their shapes."
            )
        diagonal = given
    elif isinstance(given, Mapping):
        missing = [name for name in parameters if name not in given]
        if missing:
            raise ValueError(
                f"precondition= has no entry for {', '.join(missing)}. Add them, or leave these parameters out "
                "with parameters=."
            )
        diagonal = torch.cat([_filled(name, given[name], p) for name, p in parameters.items()])
    else:
        raise ValueError(
            "precondition= is a tensor [P] or a dict from parameters' names to tensors or numbers, got "
            f"{type(given).__name__}. For an optimiser of Adam's kind write adam_diagonal(optimiser, problem)."
        )
    diagonal = diagonal.detach().to(device, torch.float64)
    if not (diagonal.isfinite().all() and (diagonal > 0).all()):
        raise ValueError(
            "precondition= is a positive diagonal D, by whose square root is divided on both sides; its smallest "
            f"entry is {diagonal.min().item():g}, its largest {diagonal.max().item():g}. Add a small positive number."
        )
    return diagonal


def adam_diagonal(optimiser: torch.optim.Optimizer, problem: Any) -> dict[str, Tensor]:
    """What Adam divides its momentum by: sqrt(v / (1 - beta2^t)) + eps for each parameter.

    With it as `precondition`, lr times the largest eigenvalue is what Adam's edge of stability is about:
    it settles near (2 + 2 beta1) / (1 - beta1), 38 for beta1 = 0.9.

    Args:
        optimiser: `Adam`, `AdamW` or `NAdam`, after at least one step; v is the largest so far for amsgrad.
        problem: A `Problem`, a module, or parameters by name.

    Returns:
        Tensors by parameter's name, of the parameters' shapes; parameters that the optimiser does not hold
        are left out.

    Raises:
        ValueError: The optimiser keeps no second moments, or made no step yet.

    Source:
        Kingma and Ba (2015), arXiv:1412.6980; Cohen et al. (2022), Adaptive gradient methods at the edge of
        stability, arXiv:2207.14484.
    """
    if isinstance(problem, nn.Module):
        named = dict(problem.named_parameters())
    else:
        named = dict(problem if isinstance(problem, Mapping) else problem.parameters)
    names = {id(parameter): name for name, parameter in named.items()}
    found: dict[str, Tensor] = {}
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            state = optimiser.state.get(parameter, {})
            moment = state.get("max_exp_avg_sq", state.get("exp_avg_sq"))
            if id(parameter) not in names or moment is None:
                continue
            correction = 1 - group["betas"][1] ** float(state["step"])
            found[names[id(parameter)]] = (moment / correction).sqrt().add(group["eps"]).detach()
    if not found:
        raise ValueError(
            f"{type(optimiser).__name__} holds no second moments of these parameters. Pass an Adam-like "
            "optimiser of this model, after its first step."
        )
    return {name: found[name] for name in named if name in found}


def _filled(name: str, given: Tensor | float, parameter: nn.Parameter) -> Tensor:
    """One parameter's entries, flat."""
    tensor = torch.as_tensor(given, dtype=torch.float64).detach().to(parameter.device)
    if tensor.ndim == 0:
        return tensor.expand(parameter.numel())
    if tensor.shape != parameter.shape:
        raise ValueError(
            f"precondition= for {name} has shape {list(tensor.shape)}, the parameter {list(parameter.shape)}. "
            "Pass that shape, or one number."
        )
    return tensor.flatten()
