"""The ways in which `layer_grams.py` takes Grams.

Every contender gives, for each module with parameters of its own, the Gram of the per-example gradients of its
parameters and that of the per-example gradients at its output, from one batch. Peers hold per-example gradients; the
products of these are one matrix product for each parameter, and gradients at outputs are caught in the same backward
pass wherever a peer makes one for the whole batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from layer_grams_networks import Case
from torch import Tensor, nn
from torch.nn import functional

import gradscope as gs
from gradscope.gradients.grams import kernels
from gradscope.gradients.layer_grams import layer_grams

# By module: Gram of its parameters, Gram at its output.
Found = dict[str, tuple[Tensor, Tensor]]


def gram(gradients: Tensor) -> Tensor:
    if gradients.ndim == 4 and gradients.is_contiguous(memory_format=torch.channels_last):
        # The order of the columns does not matter, and this one needs no copy.
        gradients = gradients.permute(0, 2, 3, 1)
    rows = gradients.flatten(start_dim=1)
    return rows @ rows.T


def pairs(case: Case, per_example: Callable[[nn.Parameter], Tensor], outputs: dict[str, Tensor]) -> Found:
    """Grams of what a peer left: one parameter's per-example gradients after the other."""
    return {
        name: (sum(gram(per_example(p)) for p in module.parameters(recurse=False)), outputs[name])
        for name, module in case.owners.items()
        if name in outputs
    }


@contextmanager
def heard(owners: dict[str, nn.Module], hear: Callable[[str, tuple, Tensor, Tensor], None]) -> Iterator[None]:
    """`hear(name, inputs, output, gradient)` for each module during a backward pass."""

    def hook(name: str) -> Callable:
        def listen(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            output.register_hook(lambda gradient: hear(name, inputs, output, gradient))

        return listen

    handles = [module.register_forward_hook(hook(name)) for name, module in owners.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def forward_backward(case: Case) -> Found:
    torch.autograd.grad(case.total(), list(case.model.parameters()))
    return {}


def ours(case: Case) -> Found:
    problem = gs.Problem(case.model, (case.inputs, case.targets), case.losses, batch_norm="running")
    return {name: (layer.parameter, layer.output) for name, layer in layer_grams(problem).items()}


def by_hand(case: Case) -> Found:
    """The same kernels behind hooks, on modules of known kinds, each used once: what there is to reach."""
    found: Found = {}
    owners = case.owners

    def hear(name: str, inputs: tuple, output: Tensor, gradient: Tensor) -> None:
        module, x = owners[name], inputs[0].detach()
        at_output = kernels.gram_of_rows(gradient)
        bias = getattr(module, "bias", None) is not None
        if isinstance(module, nn.Linear):
            if x.ndim == 2:
                own = kernels.gram_of_rows(x) * at_output + (at_output if bias else 0)
            else:
                own = kernels.linear_weight_gram(x, gradient)[0] + (
                    kernels.summed_gram(gradient) if bias else 0
                )
        elif isinstance(module, nn.Conv2d):
            options = (module.stride, module.padding, module.dilation, module.groups)
            own = kernels.convolution_weight_gram([(x, gradient)], module.weight.shape, *options)[0]
        elif isinstance(module, nn.Embedding):
            own = kernels.embedding_gram(x, gradient)
        else:
            shape, normalised = module.weight.shape, None
            if isinstance(module, nn.LayerNorm):
                normalised = functional.layer_norm(x, module.normalized_shape, eps=module.eps)
            else:
                shape = (len(module.weight), 1, 1)
                normalised = functional.batch_norm(x, module.running_mean, module.running_var, eps=module.eps)
            own = kernels.elementwise_gram(normalised, gradient, shape) + kernels.elementwise_gram(
                None, gradient, shape
            )
        found[name] = (own, at_output)

    trained = [p for p in case.model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with heard(owners, hear):
            # What enters is asked for its gradient, so that the pass goes through every layer.
            if case.inputs.is_floating_point():
                inputs = case.inputs.detach().requires_grad_()
                case.losses(case.model(inputs), case.targets).sum().backward()
            else:
                for module in owners.values():
                    if isinstance(module, nn.Embedding):
                        module.weight.requires_grad_()
                case.total().backward()
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
            parameter.grad = None
    return found


def vmapped(case: Case) -> Found:
    """torch.func: vmap of grad; gradients at outputs are those at zeros added to them."""
    owners, added = case.owners, {}
    zeros: dict[str, Tensor] = {}

    def add(name: str) -> Callable:
        return lambda module, inputs, output: output + added[name]

    def measure(name: str) -> Callable:
        def note(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            zeros[name] = torch.zeros_like(output)

        return note

    handles = [module.register_forward_hook(measure(name)) for name, module in owners.items()]
    with torch.no_grad():
        case.model(case.inputs)
    for handle in handles:
        handle.remove()
    handles = [module.register_forward_hook(add(name)) for name, module in owners.items()]

    def loss(parameters: dict, own: dict, x: Tensor, y: Tensor) -> Tensor:
        added.update(own)
        return case.losses(torch.func.functional_call(case.model, parameters, (x[None],)), y[None]).sum()

    try:
        parameters = {name: p.detach() for name, p in case.model.named_parameters()}
        of_each = torch.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(None, 0, 0, 0))
        gradients, outputs = of_each(parameters, zeros, case.inputs, case.targets)
    finally:
        for handle in handles:
            handle.remove()
    names = {id(p): name for name, p in case.model.named_parameters()}
    return pairs(case, lambda p: gradients[names[id(p)]], {name: gram(g) for name, g in outputs.items()})


def opacus(case: Case) -> Found:
    """In train mode, without which it keeps nothing, and channels first, without which its convolutions are wrong."""
    from opacus import GradSampleModule

    outputs: dict[str, Tensor] = {}
    # It refuses before it touches the model, or else has hooks to take away.
    wrapped = GradSampleModule(case.model.train(), loss_reduction="sum")
    try:
        with heard(case.owners, lambda name, _, __, gradient: outputs.update({name: gram(gradient)})):
            case.losses(wrapped(case.inputs), case.targets).sum().backward()
        return pairs(case, lambda p: p.grad_sample, outputs)
    finally:
        _clean(case, "grad_sample")
        wrapped.to_standard_module()
        case.model.eval()


def backpack(case: Case) -> Found:
    """On modules it has a rule for: all but layer norms."""
    import backpack as package
    from backpack.extensions import BatchGrad

    owners = {name: m for name, m in case.owners.items() if not isinstance(m, nn.LayerNorm)}
    for module in owners.values():
        # Once is enough, and twice would count twice.
        if not getattr(module, "_extended_here", False):
            package.extend(module)
            module._extended_here = True
    outputs: dict[str, Tensor] = {}
    try:
        with package.backpack(BatchGrad()), heard(owners, lambda n, _, __, g: outputs.update({n: gram(g)})):
            case.total().backward()
        return pairs(case, lambda p: p.grad_batch, outputs)
    finally:
        _clean(case, "grad_batch")


def naive(case: Case) -> Found:
    """One example after the other."""
    parameters = list(case.model.parameters())
    rows: list[tuple[Tensor, ...]] = []
    seen: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda m, i, output, name=name: seen.update({name: output}))
        for name, module in case.owners.items()
    ]
    for number in range(len(case.inputs)):
        one = slice(number, number + 1)
        loss = case.losses(case.model(case.inputs[one]), case.targets[one]).sum()
        rows.append(torch.autograd.grad(loss, [*parameters, *seen.values()]))
    for handle in handles:
        handle.remove()
    stacked = [torch.stack(column) for column in zip(*rows, strict=True)]
    place = {id(p): number for number, p in enumerate(parameters)}
    outputs = {name: gram(g) for name, g in zip(seen, stacked[len(parameters) :], strict=True)}
    return pairs(case, lambda p: stacked[place[id(p)]], outputs)


def _clean(case: Case, attribute: str) -> None:
    for parameter in case.model.parameters():
        parameter.grad = None
        if hasattr(parameter, attribute):
            delattr(parameter, attribute)


CONTENDERS: dict[str, Callable[[Case], Any]] = {
    "layer_grams": ours,
    "kernels behind hooks, by hand": by_hand,
    "torch.func vmap(grad)": vmapped,
    "Opacus": opacus,
    "BackPACK": backpack,
    "naive loop": naive,
}
