"""The layers of a network whose Grams are wanted, and which parameter counts where."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from gradscope.instruments.sites import sites


@dataclass(frozen=True, eq=False)
class Layer:
    """A module with the parameters that count as its own.

    Attributes:
        name: Dotted path.
        module: Itself.
        parameters: By full name; a tied tensor only at its first owner.
    """

    name: str
    module: nn.Module
    parameters: dict[str, nn.Parameter]


def layers(model: nn.Module, at: str | Sequence[str] | None) -> list[Layer]:
    """The modules that match, in the order of `named_modules`; without `at`, all that own parameters.

    Raises:
        ValueError: As `sites`.
    """
    owner = _owners(model)
    return [Layer(name, module, owner.get(module, {})) for name, module in sites(model, at)]


def _owners(model: nn.Module) -> dict[nn.Module, dict[str, nn.Parameter]]:
    seen: set[Tensor] = set()
    found: dict[nn.Module, dict[str, nn.Parameter]] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is None or parameter in seen or not parameter.is_floating_point():
                continue
            seen.add(parameter)
            found.setdefault(module, {})[f"{path}.{name}" if path else name] = parameter
    return found
