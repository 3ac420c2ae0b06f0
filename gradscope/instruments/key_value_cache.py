"""Caches of keys and values, in which each layer has one place: a layer that runs twice would fill it twice."""

from typing import Any

REMEDY = "call the model with use_cache=False (model.config.use_cache = False)"
KEYWORDS = ("past_key_values", "past_key_value", "layer_past")


def refuse_cache(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    """Raise RuntimeError if the block of this name, which runs several times in one forward, is given a cache."""
    named = any(keywords.get(key) is not None for key in KEYWORDS)
    if named or any(_is_cache(value) for value in (*arguments, *keywords.values())):
        raise RuntimeError(
            f"{name} runs several times in one forward and each time writes to a key-value cache: {REMEDY}."
        )


def uses_cache(keywords: dict[str, Any]) -> bool:
    """Whether a block is told to fill a cache, whatever that is made of."""
    return bool(keywords.get("use_cache"))


def _is_cache(value: Any) -> bool:
    # The interface of the caches of transformers, which some models hand over by position.
    return all(callable(getattr(value, method, None)) for method in ("update", "get_seq_length"))
