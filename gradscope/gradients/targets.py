"""Where a gradient is taken: at the input, at a site, or at the parameters."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from gradscope.gradients.engines.graph import Target
from gradscope.instruments.junctions.source import tensors_of
from gradscope.instruments.sites import sites

Located = Callable[[Tensor], tuple[Target, ...]]


@contextmanager
def located(model: nn.Module, parameters: dict[str, nn.Parameter], at: str) -> Iterator[Located]:
    """While the block runs the forward pass, note where the gradient is wanted.

    Args:
        model: The network.
        parameters: Its trainable parameters by name.
        at: `input`, `parameters`, or the dotted path of one module, for the gradient at its output.

    Yields:
        A function of the forward pass' source that gives the targets; to be called after it.

    Raises:
        ValueError: No such site, or several; on calling, a site that did not run, ran more than once or gave
            nothing that the graph knows; no trainable parameter.
    """
    if at == "input":
        yield lambda source: (Target("", source, tuple(source.shape), source.device),)
        return
    if at == "parameters":
        if not parameters:
            raise ValueError(
                "at='parameters' needs trainable parameters, but all of them are frozen (requires_grad=False)."
            )
        yield lambda source: tuple(
            Target(name, weight, tuple(weight.shape), weight.device) for name, weight in parameters.items()
        )
        return
    found = sites(model, at)
    if len(found) > 1:
        raise ValueError(
            f"at={at!r} matches {len(found)} sites, the first of them {found[0].name} and {found[1].name}; name one."
        )
    name, module = found[0]
    heard: list[Target | None] = []

    def hear(module: nn.Module, arguments: object, output: object) -> None:
        tensors = [tensor for tensor in tensors_of(output) if tensor.requires_grad]
        heard.append(
            Target(name, get_gradient_edge(tensors[0]), tuple(tensors[0].shape), tensors[0].device)
            if tensors
            else None
        )

    def targets(source: Tensor) -> tuple[Target, ...]:
        if len(heard) != 1 or heard[0] is None:
            came = (
                f"it ran {len(heard)} times"
                if len(heard) != 1
                else "its output does not depend on the input or on any trainable parameter"
            )
            raise ValueError(
                f"The gradient at site {name} is asked for, but in this forward pass {came}. Name a module "
                "that runs once and whose output is a tensor."
            )
        return (heard[0],)

    handle = module.register_forward_hook(hear)
    try:
        yield targets
    finally:
        handle.remove()
