"""Checks of the options of a family, made where the mistake is made."""

from collections.abc import Iterable
from difflib import get_close_matches


def choice(option: str, value: object, allowed: Iterable[str]) -> None:
    """Raise ValueError, naming what is allowed, unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(
            f"{option} is one of {', '.join(allowed)}; got {value!r}.{closest(str(value), allowed)}"
        )


def whole(option: str, value: object, least: int) -> None:
    """Raise ValueError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{option} is a whole number of at least {least}; got {value!r}.")


def closest(word: str, known: Iterable[str]) -> str:
    """` Did you mean '...'?` for the known word nearest to `word`, or nothing if none is near."""
    near = get_close_matches(word, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
