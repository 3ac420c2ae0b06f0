"""Is this operator what it says: the same matrix twice, symmetric, and the derivative of what it claims?"""

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradscope.curvature.culprits import changing_part, not_finite_part, weight_normalised, wrong_layer
from gradscope.curvature.differences import loss_and_gradient, own_functions, reduced_precision
from gradscope.curvature.gradient_graph import drawn
from gradscope.curvature.probes import inner_product
from gradscope.curvature.problem_operator import BatchGraph, ProblemOperator
from gradscope.curvature.selection import select
from gradscope.problem import Problem

HESSIAN = "Hessian"
LARGEST_ERROR = 1e-3
"""How far a product may be from differences, of its length: their own error is far smaller."""


def check_repeatable(operator: ProblemOperator) -> None:
    """Two passes give the same loss and gradient, and u.Av = v.Au.

    Symmetry finds the wrong second derivatives of weight normalisation and of many functions of one's own.
    Wrong ones that are symmetric it does not, so where such functions run, differences are asked too.

    Raises:
        ValueError: They do not; the sentence names the loader, the module or the parametrisation.
        FloatingPointError: The loss or its gradient is not finite.
    """
    tolerance = 1e-9 if operator.dtype == torch.float64 else 1e-4
    first_loss, first_gradient, asymmetry, size = _first_pass(operator)
    if not (first_loss.isfinite() and first_gradient.isfinite().all()):
        raise FloatingPointError(
            f"The {operator.title} needs a finite loss and gradient; the loss is {first_loss.item()}: "
            f"{not_finite_part(operator.problem)}"
        )
    own: set[str] = set()
    reduced: set[str] = set()

    def look(value: Tensor) -> None:
        own.update(own_functions(value))
        reduced.update(reduced_precision(value))

    second_loss, second_gradient = loss_and_gradient(operator, look)
    loss_moved = (second_loss - first_loss).abs() > tolerance * first_loss.abs()
    length = torch.linalg.vector_norm(first_gradient)
    change = torch.linalg.vector_norm(second_gradient.sub_(first_gradient))
    if loss_moved or change > tolerance * length + _rounding(operator, first_loss):
        raise ValueError(
            f"The {operator.title} needs the same loss and gradient on every pass, but a second pass moved the "
            f"loss from {first_loss.item():.6g} to {second_loss.item():.6g}: {changing_part(operator.problem)}"
        )
    # A matrix that is zero comes out as rounding errors, which are not symmetric.
    noise = (
        10 * torch.finfo(operator.dtype).eps * (first_loss.abs() + length).item() * operator.shape[0] ** 0.5
    )
    if asymmetry > tolerance * size + noise:
        raise ValueError(
            f"The {operator.title} must be symmetric, but u.Av and v.Au differ by "
            f"{asymmetry:.2g}: {wrong_layer(operator.problem.model, sorted(own), sorted(reduced))}"
        )
    suspects = [f"custom autograd functions ({', '.join(sorted(own))})"] if own else []
    if operator.title == HESSIAN:
        # Its wrong second derivative is symmetric where a row has one entry.
        suspects += [
            f"weight normalisation in {name}"
            for name in weight_normalised(operator.problem.model, operator.parameters.values())
        ]
    if suspects:
        _compare(operator, suspects)


def _first_pass(operator: ProblemOperator) -> tuple[Tensor, Tensor, float, float]:
    """Loss, gradient [P], and the difference of u.Av and v.Au beside |u| |Av|, all from one graph of each batch.

    Five vectors of P entries are alive at once, none of them while rules are compared, and one afterwards.
    """
    size, generator = operator.shape[0], torch.Generator().manual_seed(0)
    like = next(iter(operator.parameters.values())).detach()
    loss = torch.zeros((), dtype=torch.float64, device=operator.device)
    vectors: list[Tensor] = []

    def visit(graph: BatchGraph, kept: bool) -> None:
        loss.add_(graph.loss)
        if not vectors:
            vectors.extend([graph.gradient(), drawn(size, like, generator), drawn(size, like, generator)])
            vectors.extend([like.new_zeros(size), like.new_zeros(size)])
        else:
            vectors[0].add_(graph.gradient())
        _, u, v, hu, hv = vectors
        graph.add_product(u, hu)
        graph.add_product(v, hv, last=not kept)

    operator.for_each_batch(visit)
    gradient, u, v, hu, hv = vectors
    asymmetry = abs(inner_product(u, hv) - inner_product(v, hu))
    return loss, gradient, asymmetry, (inner_product(u, u) * inner_product(hv, hv)) ** 0.5


def check_by_differences(operator: ProblemOperator) -> None:
    """A product against central differences, on a float64 copy and the first batch.

    Kinked networks are asked again with smaller steps. Frozen batch statistics are differentiated
    through in both, since differences cannot hold them still.

    Raises:
        ValueError: They differ by more than `LARGEST_ERROR` of the product at every step, or the model cannot
            be copied.
    """
    problem = operator.problem
    batch_norm = "train" if "frozen" in problem.batch_norm_name else problem.batch_norm
    twin = Problem(
        _copied(problem.model),
        [_in_double(problem.first_batch())],
        problem.loss,
        reduction=problem.reduction,
        batch_norm=batch_norm,
        forward=problem.forward,
    )
    chosen = select(twin.parameters, list(operator.parameters))
    exact = type(operator)(twin, chosen, budget_bytes=0, **(operator.options() | {"weight_decay": 0.0}))
    generator = torch.Generator().manual_seed(1)
    vector = torch.randn(exact.shape[0], generator=generator, dtype=torch.float64).to(exact.device)
    vector /= torch.linalg.vector_norm(vector)
    product = exact.matvec(vector)
    errors = [_difference_error(exact, vector, product, step) for step in (1e-5, 1e-7, 1e-8)]
    if min(errors) > LARGEST_ERROR:
        own: set[str] = set()
        loss_and_gradient(exact, lambda value: own.update(own_functions(value)))
        raise ValueError(
            f"A product with the {operator.title} differs from central differences by "
            f"{min(errors):.2g} of its length: {wrong_layer(problem.model, sorted(own))}"
        )


class NotCopied(ValueError):
    """A model of which no float64 copy can be made."""


def _compare(operator: ProblemOperator, suspects: list[str]) -> None:
    """Ask differences about a network that runs what may have wrong second derivatives, where it runs in float64."""
    try:
        check_by_differences(operator)
    except (RuntimeError, TypeError, NotCopied) as error:
        warnings.warn(
            f"The network runs {', '.join(suspects)}, and whether the second derivatives are right could not be "
            f"tried on a float64 copy: {str(error).splitlines()[0]}",
            UserWarning,
            stacklevel=4,
        )


def _copied(model: Any) -> Any:
    try:
        copied = copy.deepcopy(model).double()
        for module in copied.modules():
            if getattr(module, "max_norm", None) is not None:
                # Rows are short already, and shifted parameters must not be shortened.
                module.max_norm = None
        return copied
    except RuntimeError as error:
        raise NotCopied(
            "check='full' compares with differences on a float64 copy of the model, which cannot be copied: "
            f"{str(error).splitlines()[0]} Use check='cheap', or nn.utils.parametrizations in place of the older "
            "weight_norm."
        ) from error


def _difference_error(operator: ProblemOperator, vector: Tensor, product: Tensor, step: float) -> float:
    slope = operator.by_differences(vector, step)
    scale = torch.linalg.vector_norm(product) + 1e-8 * torch.linalg.vector_norm(
        loss_and_gradient(operator)[1]
    )
    error = torch.linalg.vector_norm(slope - product)
    return 0.0 if error == 0 else (error / scale).item()


def _rounding(operator: ProblemOperator, loss: Tensor) -> float:
    """Gradients at a stationary point are sums that cancel: what rounding leaves of them is no change."""
    return 1e3 * torch.finfo(operator.dtype).eps * max(1.0, loss.abs().item())


def _in_double(batch: Any) -> Any:
    """The batch as data for a `Problem`: a pair, or a dict with its targets under `labels`."""
    inputs, targets = batch
    if targets is not None and targets.is_floating_point():
        targets = targets.double()
    return {**inputs, "labels": targets} if isinstance(inputs, Mapping) else (inputs, targets)
