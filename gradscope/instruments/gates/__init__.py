"""All gates by name: what is put on junctions of a forward pass for a while.

Every gate is a context manager on one mechanism (`instruments.gates.operands`), leaves the model as found and may
be used inside any other. The innermost gate sees an operand first, and a gate around it sees what the inner
one made of it: a branch closed inside `scale_branches(..., 2.0)` stays closed.
"""

from gradscope.instruments.gates.by_hand import ByHand, junction_by_hand
from gradscope.instruments.gates.bypass import bypass
from gradscope.instruments.gates.lesion import lesion
from gradscope.instruments.gates.operands import closable
from gradscope.instruments.gates.scaling import scale_branches
from gradscope.instruments.gates.skips import cut_skips
from gradscope.instruments.gates.stochastic_depth import linear_survival, stochastic_depth

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
