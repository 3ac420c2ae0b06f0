"""Which of a model's parameters an operator is about."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

Pattern = str | type[nn.Module]
Selection = Pattern | Sequence[Pattern] | Callable[[str, nn.Parameter], bool] | None


def select(
    parameters: Mapping[str, nn.Parameter], wanted: Selection = None, *, model: nn.Module | None = None
) -> dict[str, nn.Parameter]:
    """The parameters asked for, in the model's order.

    Args:
        parameters: Those there are, by name.
        wanted: A name (of a tied parameter any of its names), a glob, a module's path, a type of module
            (what such modules hold, and what is inside of them), several of these, or
            `f(name, parameter) -> bool`. None: all.
        model: Where types of modules are looked for.

    Raises:
        ValueError: A pattern, or all of them together, selects nothing; something else than these.
    """
    if isinstance(wanted, nn.Module | Tensor):
        raise ValueError(
            f"parameters= takes names, and was given {_named(wanted, parameters, model)}. A module's path or a "
            "parameter's name selects it."
        )
    if wanted is None:
        chosen = dict(parameters)
    elif callable(wanted) and not isinstance(wanted, type):
        chosen = {name: parameter for name, parameter in parameters.items() if wanted(name, parameter)}
    else:
        patterns = [wanted] if isinstance(wanted, str | type) else list(wanted)
        names = {name for pattern in patterns for name in _matching(parameters, pattern, model)}
        chosen = {name: parameter for name, parameter in parameters.items() if name in names}
    if not chosen:
        raise ValueError(
            "The operator needs at least one parameter, and none was selected. Trainable are: "
            f"{', '.join(parameters) or 'none; set requires_grad on some'}."
        )
    return chosen


def _matching(parameters: Mapping[str, nn.Parameter], pattern: Pattern, model: nn.Module | None) -> list[str]:
    """The names that one pattern selects.

    Raises:
        ValueError: None, or the pattern is neither text nor a type of module.
    """
    if isinstance(pattern, str):
        listed = {name: name for name in parameters} | _further_names(parameters, model)
        meant = {
            name
            for listing, name in listed.items()
            if fnmatchcase(listing, pattern) or fnmatchcase(listing, f"{pattern}.*")
        }
        found = [name for name in parameters if name in meant]
        if not found:
            raise ValueError(
                f"No trainable parameter matches {pattern!r}. There are: {', '.join(parameters) or 'none'}."
            )
        return found
    if not (isinstance(pattern, type) and issubclass(pattern, nn.Module)):
        known = isinstance(pattern, nn.Module | Tensor)
        told = _named(pattern, parameters, model) if known else repr(pattern)
        raise ValueError(
            "parameters= takes names, globs, module paths, types of modules such as nn.Conv2d, or "
            f"f(name, parameter) -> bool; got {told}."
        )
    modules = [] if model is None else [m for m in model.modules() if isinstance(m, pattern)]
    inside = {id(parameter) for module in modules for parameter in module.parameters()}
    found = [name for name, parameter in parameters.items() if id(parameter) in inside]
    if not found:
        holding = [] if model is None else _holding(model, parameters)
        raise ValueError(
            f"No {pattern.__name__} of the model has trainable parameters. Modules that have: "
            f"{', '.join(holding) or 'none'}."
        )
    return found


def _named(thing: nn.Module | Tensor, parameters: Mapping[str, nn.Parameter], model: nn.Module | None) -> str:
    """A module or a parameter that was given in place of its name."""
    modules = {} if model is None else dict(model.named_modules())
    names = [name for name, known in (*modules.items(), *parameters.items()) if known is thing and name]
    return f"a {type(thing).__name__}" + (f" whose name is {names[0]!r}" if names else "")


def _further_names(parameters: Mapping[str, nn.Parameter], model: nn.Module | None) -> dict[str, str]:
    """For each further name of a tied parameter, the one it is listed under."""
    if model is None:
        return {}
    listed = {id(parameter): name for name, parameter in parameters.items()}
    everywhere = model.named_parameters(remove_duplicate=False)
    return {name: listed[id(parameter)] for name, parameter in everywhere if id(parameter) in listed}


def _holding(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """The types of modules that hold parameters themselves."""
    known = {id(parameter) for parameter in parameters.values()}
    return sorted(
        {
            type(module).__name__
            for module in model.modules()
            if any(id(parameter) in known for parameter in module.parameters(recurse=False))
        }
    )
