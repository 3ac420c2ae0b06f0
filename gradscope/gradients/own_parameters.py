"""What to say where a container was asked for, which holds no parameters of its own."""

from collections.abc import Sequence

from gradscope.instruments.sites import sites
from gradscope.problem import Problem


def without_own_parameters(problem: Problem, at: str | Sequence[str] | None) -> str:
    """That none of these sites has parameters of its own, and what to write instead; empty where one has."""
    found = sites(problem.model, at)
    if any(True for site in found for _ in site.module.parameters(recurse=False)):
        return ""
    holding = next((site for site in found if any(True for _ in site.module.parameters())), None)
    if holding is None:
        return f"{_named(found[0].name)} has no parameters, nor has anything inside it."
    near = any(True for child in holding.module.children() for _ in child.parameters(recurse=False))
    pattern = (f"{holding.name}." if holding.name else "") + ("*" if near else "**")
    return (
        f"{_named(holding.name)} is a container, it has no parameters of its own: write at={pattern!r} for the modules "
        "inside it."
    )


def _named(site: str) -> str:
    return repr(site) if site else "The network itself"
