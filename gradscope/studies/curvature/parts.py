"""Some of an operator's parameters: where they stand in its vectors, and an operator on them alone."""

from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from gradscope.curvature.problem_operator import ProblemOperator


def entries(operator: ProblemOperator, names: Iterable[str]) -> Tensor:
    """The places of these parameters in the operator's vectors."""
    places, whole = operator.slices, torch.arange(operator.shape[0], device=operator.device)
    return torch.cat([whole[places[name]] for name in names])


def alone(operator: ProblemOperator, names: Collection[str]) -> ProblemOperator:
    """The diagonal block of these parameters, with the whole memory budget for its graphs; close it after use."""
    wanted = set(names)
    return operator.restricted(lambda name, _: name in wanted)
