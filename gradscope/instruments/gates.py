"""All gates by name: what is put on junctions of a forward pass for a while.

Every gate is a context manager on one mechanism (`instruments.operands`), leaves the model as found and may
be used inside any other. The innermost gate sees an operand first, and a gate around it sees what the inner
one made of it: a branch closed inside `scale_branches(..., 2.0)` stays closed.
"""

from gradscope.instruments.by_hand import ByHand, junction_by_hand
from gradscope.instruments.bypass import bypass
from gradscope.instruments.lesion import lesion
from gradscope.instruments.operands import closable
from gradscope.instruments.scaling import scale_branches
from gradscope.instruments.skips import cut_skips
from gradscope.instruments.stochastic_depth import linear_survival, stochastic_depth

__all__ = [
    "ByHand",
    "bypass",
    "closable",
    "cut_skips",
    "junction_by_hand",
    "lesion",
    "linear_survival",
    "scale_branches",
    "stochastic_depth",
]
