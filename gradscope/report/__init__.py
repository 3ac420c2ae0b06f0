"""Keeps results with their provenance, judges claims, and renders a report that needs nothing else."""

from .claims import Claim, Criterion, claim, load_claims
from .judged import judged
from .provenance import provenance
from .render import render
from .sections import Picture, Section
from .store import keep
from .verdicts import verdict, verdict_table

__all__ = [
    "Claim",
    "Criterion",
    "Picture",
    "Section",
    "claim",
    "judged",
    "keep",
    "load_claims",
    "provenance",
    "render",
    "verdict",
    "verdict_table",
]
