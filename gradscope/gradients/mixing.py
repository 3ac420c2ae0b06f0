"""Whether examples that were run alone have the gradients that they have among the others."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

# What differs by more than so many roots of the rounding step is another example's doing.
_ROUNDING_ROOTS = 8
# Norms outside of it have no reciprocal that a backward pass in float32 could start from.
_SMALLEST, _LARGEST = 1e-30, 1e30


class Mixing(Exception):
    """Gradients of examples alone are not those they have among the others."""


def same_values(alone: Tensor, among: Tensor, all_values: Tensor) -> bool:
    """Whether values might be those among the others: an early notice, generous to rounding, since gradients decide.

    Args:
        alone: Of some examples, each run by itself, [n].
        among: Of the same ones in the whole batch, [n].
        all_values: Of the whole batch, [N]; its largest says what rounding is.
    """
    largest = float(all_values.abs().amax())
    return not math.isfinite(largest) or float((alone - among).abs().amax()) <= _allowed(all_values) * largest


class SumOfExamples:
    """A weighted sum of examples' gradients, to be compared with the gradient of the weighted sum of their values.

    Each weight is one over the example's norm, so that no example with a large gradient hides the others, with a sign
    drawn for each, so that what examples do to one another does not cancel in the sum.

    Args:
        parameters: By name; those of one module are compared together.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = list(parameters.values())
        self._modules = [name.rpartition(".")[0] for name in parameters]
        self._sums = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._weights: list[Tensor] = []
        self._lengths: dict[str, float] = dict.fromkeys(self._modules, 0.0)
        self._generator = torch.Generator().manual_seed(0)
        self._finite = True

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Take in the gradients of the next examples, one tensor [n, ...] for each parameter."""
        with torch.no_grad():
            squares = torch.stack(
                [torch.linalg.vector_norm(g.flatten(start_dim=1), dim=1).double().square() for g in gradients]
            )
            norms = squares.sum(dim=0).sqrt()
            self._finite &= bool(torch.isfinite(norms).all())
            drawn = torch.randint(2, norms.shape, generator=self._generator).to(norms) * 2 - 1
            usable = (norms > _SMALLEST) & (norms < _LARGEST)
            weights = torch.where(usable, drawn / norms, torch.zeros_like(norms))
            # A gradient of nothing adds nothing, whatever its weight, which then is to show what it is among others.
            self._weights.append(torch.where(norms == 0, drawn * math.inf, weights))
            for total, gradient in zip(self._sums, gradients, strict=True):
                total += torch.tensordot(weights.to(gradient.dtype), gradient, dims=1)
            for place, module in enumerate(self._modules):
                self._lengths[module] += float(weights.abs() @ squares[place].sqrt())

    def agrees(self, values: Tensor) -> bool:
        """Whether the sums are the gradient of these values of the whole batch, [N], differentiable."""
        weights = torch.cat(self._weights)
        known = weights[torch.isfinite(weights)].abs()
        largest = float(known.amax()) if bool((known > 0).any()) else 1.0
        weights = weights.nan_to_num(posinf=largest, neginf=-largest).to(values)
        if not self._finite:
            return False
        whole = torch.autograd.grad(
            (weights * values).sum(), self.parameters, allow_unused=True, materialize_grads=True
        )
        apart = dict.fromkeys(self._lengths, 0.0)
        for module, one, other in zip(self._modules, self._sums, whole, strict=True):
            apart[module] += float(torch.linalg.vector_norm(one - other)) ** 2
        return all(
            math.sqrt(square) <= _allowed(values) * self._lengths[module] for module, square in apart.items()
        )


def _allowed(values: Tensor) -> float:
    return _ROUNDING_ROOTS * math.sqrt(torch.finfo(values.dtype).eps)
