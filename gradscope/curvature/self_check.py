"""Is this operator what it says: the same matrix twice, symmetric, and the derivative of the gradient?"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradscope.curvature.culprits import changing_part, wrong_layer
from gradscope.curvature.gradient_graph import GradientGraph, exact_derivatives, plain_gradient
from gradscope.curvature.hessian_operator import HessianOperator
from gradscope.curvature.selection import select
from gradscope.problem import Problem


def check_repeatable(operator: HessianOperator) -> None:
    """Two passes give the same loss and gradient, and u.Hv = v.Hu.

    Raises:
        ValueError: They do not; the sentence names the loader, the module or the parametrisation.
        FloatingPointError: The loss or its gradient is not finite.
    """
    tolerance = 1e-9 if operator.dtype == torch.float64 else 1e-4
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(2, operator.shape[0], generator=generator, dtype=torch.float64)
    u, v = probes.to(operator.device, operator.dtype)
    first_loss = torch.zeros((), dtype=torch.float64, device=operator.device)
    first_gradient, hu, hv = torch.zeros_like(u), torch.zeros_like(u), torch.zeros_like(u)

    def first_pass(graph: GradientGraph, kept: bool) -> None:
        first_loss.add_(graph.loss)
        first_gradient.add_(graph.gradient())
        graph.add_product(u, hu)
        graph.add_product(v, hv)

    operator.for_each_batch(first_pass)
    if not (first_loss.isfinite() and first_gradient.isfinite().all()):
        raise FloatingPointError(
            f"The Hessian needs a finite loss and gradient; the loss is {first_loss.item()}. Look for "
            "NaN or infinite inputs and parameters, or a learning rate that made training diverge."
        )
    second_loss, second_gradient = _second_pass(operator)
    loss_moved = (second_loss - first_loss).abs() > tolerance * first_loss.abs()
    change = torch.linalg.vector_norm(second_gradient - first_gradient)
    if loss_moved or change > tolerance * torch.linalg.vector_norm(first_gradient) + _rounding(
        operator, first_loss
    ):
        raise ValueError(
            "The Hessian needs the same loss and gradient on every pass, but a second pass moved the loss "
            f"from {first_loss.item():.6g} to {second_loss.item():.6g}: {changing_part(operator.problem)}"
        )
    difference = (torch.dot(u.double(), hv.double()) - torch.dot(v.double(), hu.double())).abs()
    if difference > tolerance * torch.linalg.vector_norm(u.double()) * torch.linalg.vector_norm(hv.double()):
        raise ValueError(
            "The Hessian must be symmetric, but u.Hv and v.Hu differ by "
            f"{difference.item():.2g}: {wrong_layer(operator.problem.model)}"
        )


def check_by_differences(operator: HessianOperator) -> None:
    """A product against central differences of the gradient, on a float64 copy and the first batch.

    Kinked networks are asked again with smaller steps. Frozen batch statistics are differentiated
    through in both, since differences cannot hold them still.

    Raises:
        ValueError: They differ by more than 1e-3 of the product at every step.
    """
    problem = operator.problem
    batch_norm = "train" if "frozen" in problem.batch_norm_name else problem.batch_norm
    twin = Problem(
        copy.deepcopy(problem.model).double(),
        [_in_double(problem.first_batch())],
        problem.loss,
        reduction=problem.reduction,
        batch_norm=batch_norm,
        forward=problem.forward,
    )
    chosen = select(twin.parameters, list(operator.parameters))
    exact = HessianOperator(twin, chosen, weight_decay=0.0, budget_bytes=0)
    generator = torch.Generator().manual_seed(1)
    vector = torch.randn(exact.shape[0], generator=generator, dtype=torch.float64).to(exact.device)
    vector /= torch.linalg.vector_norm(vector)
    product = exact.matvec(vector)
    errors = [_difference_error(exact, vector, product, step) for step in (1e-5, 1e-7, 1e-8)]
    if min(errors) > 1e-3:
        raise ValueError(
            "A product with the Hessian differs from central differences of the gradient by "
            f"{min(errors):.2g} of its length: {wrong_layer(problem.model)}"
        )


def _difference_error(operator: HessianOperator, vector: Tensor, product: Tensor, step: float) -> float:
    parameters = list(operator.parameters.values())
    start = torch.nn.utils.parameters_to_vector(parameters).detach().clone()
    gradients = []
    for shift in (step, -step):
        torch.nn.utils.vector_to_parameters(start + shift * vector, parameters)
        gradients.append(_second_pass(operator)[1])
    torch.nn.utils.vector_to_parameters(start, parameters)
    slope = (gradients[0] - gradients[1]) / (2 * step)
    scale = torch.linalg.vector_norm(product) + 1e-8 * torch.linalg.vector_norm(gradients[0])
    error = torch.linalg.vector_norm(slope - product)
    return 0.0 if error == 0 else (error / scale).item()


def _second_pass(operator: HessianOperator) -> tuple[Tensor, Tensor]:
    """Loss and gradient by one ordinary backward pass a batch; random numbers differ from the first pass."""
    loss = torch.zeros((), dtype=torch.float64, device=operator.device)
    gradient = torch.zeros(operator.shape[0], dtype=operator.dtype, device=operator.device)
    with exact_derivatives(operator.device), operator.prepared():
        torch.rand(1, device=operator.device)
        torch.rand(1)
        for inputs, targets in operator.problem.batches():
            value = operator.problem.value(inputs, targets)
            loss += value.detach()
            gradient += plain_gradient(value, list(operator.parameters.values()))
    return loss, gradient


def _rounding(operator: HessianOperator, loss: Tensor) -> float:
    """Gradients at a stationary point are sums that cancel: what rounding leaves of them is no change."""
    return 1e3 * torch.finfo(operator.dtype).eps * max(1.0, loss.abs().item())


def _in_double(batch: Any) -> Any:
    """The batch as data for a `Problem`: a pair, or a dict with its targets under `labels`."""
    inputs, targets = batch
    if targets is not None and targets.is_floating_point():
        targets = targets.double()
    return {**inputs, "labels": targets} if isinstance(inputs, Mapping) else (inputs, targets)
