"""A dict batch is handed to a model as its keywords, as `Problem` does."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

LABELS = "labels"


def spread(
    model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How the model is called: a single mapping is spread into keywords without its `labels`, all else is kept.

    Raises:
        ValueError: The forward does not take the keywords of that mapping.
    """
    if keywords or len(arguments) != 1 or not isinstance(arguments[0], Mapping):
        return arguments, keywords
    batch = {str(key): value for key, value in arguments[0].items() if key != LABELS}
    try:
        inspect.signature(model.forward).bind(**batch)
    except TypeError as error:
        raise ValueError(
            f"A dict batch is handed over as keywords, but {type(model).__name__} cannot be called with "
            f"{', '.join(batch) or 'none'}: {error}. Keep the keys that it takes, or, if its forward takes the dict "
            "itself, name that argument: gs.junctions(model, batch=batch)."
        ) from None
    return (), batch
