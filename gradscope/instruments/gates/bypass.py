"""Modules that hand on their input: the lesion of a layer where there is no skip to fall back on."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from gradscope.instruments.gates.outputs import named_module, with_first_tensor
from gradscope.instruments.listen import first_tensor


@contextmanager
def bypass(model: nn.Module, at: str | Sequence[str]) -> Iterator[None]:
    """Let modules hand on their input unchanged: the lesion of a plain network's layer, or of a highway layer.

    The first tensor a module is given takes the place of the first tensor it returns. The module is still
    computed, so junctions found before keep their numbers. Where activations are checkpointed, the backward pass
    belongs inside the block too, for it runs the modules again.

    Args:
        model: The network.
        at: Dotted path of a module whose input and output have the same shape, or several.

    Raises:
        ValueError: No such module, or no path at all; or, in the forward, its output has another shape than its input.

    Source:
        Veit et al. (2016), arXiv:1605.06431, section 4.1 (plain control); Srivastava et al. (2015),
        arXiv:1507.06228 (a highway layer whose transform gate is 0).
    """
    paths = [at] if isinstance(at, str) or not isinstance(at, Sequence) else list(at)
    if not paths:
        raise ValueError("bypass needs the path of at least one module, got none.")
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(_bypassed(model, path))
        yield


@contextmanager
def _bypassed(model: nn.Module, at: str) -> Iterator[None]:
    module = named_module(model, at)
    untouched: list[Tensor] = []

    def set_aside(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        given = first_tensor([*arguments, *keywords.values()])
        if given is None:
            raise ValueError(f"{at} was given no tensor to hand on. Bypass a module that takes one.")
        untouched.append(given.clone())
        # Copies both ways: in-place layers, in the module or behind it, would overwrite what others hold.
        if first_tensor(arguments) is not None:
            return with_first_tensor(arguments, Tensor.clone), keywords
        return arguments, with_first_tensor(keywords, Tensor.clone)

    def hand_on(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        given = untouched.pop()

        def same_shape(made: Tensor) -> Tensor:
            if given.shape != made.shape:
                raise ValueError(
                    f"{at} maps {list(given.shape)} to {list(made.shape)}, so it cannot be replaced by "
                    "the identity. Bypass a module that keeps the shape."
                )
            return given

        return with_first_tensor(output, same_shape)

    handles = [
        module.register_forward_pre_hook(set_aside, with_kwargs=True),
        module.register_forward_hook(hand_on),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
