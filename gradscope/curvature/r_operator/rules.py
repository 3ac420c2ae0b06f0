"""The rule of each kind of node."""

from collections.abc import Callable, Sequence
from typing import Any

from gradscope.curvature.r_operator.arithmetic import ARITHMETIC
from gradscope.curvature.r_operator.convolution import CONVOLUTIONS
from gradscope.curvature.r_operator.indexing import INDEXING
from gradscope.curvature.r_operator.linear import LINEAR
from gradscope.curvature.r_operator.losses import LOSSES
from gradscope.curvature.r_operator.normalisation import NORMALISATIONS
from gradscope.curvature.r_operator.pointwise import POINTWISE
from gradscope.curvature.r_operator.pooling import POOLING
from gradscope.curvature.r_operator.products import PRODUCTS
from gradscope.curvature.r_operator.rule import NoRule, Rule
from gradscope.curvature.r_operator.softmax import SOFTMAX

RULES: dict[str, Callable[[Any, Sequence[bool]], Rule]] = {
    **ARITHMETIC,
    **CONVOLUTIONS,
    **INDEXING,
    **LINEAR,
    **LOSSES,
    **NORMALISATIONS,
    **POINTWISE,
    **POOLING,
    **PRODUCTS,
    **SOFTMAX,
}


def rule_for(node: Any, wanted: Sequence[bool]) -> Rule:
    """The rule of a node.

    Raises:
        NoRule: There is none for its kind, or for the way it was used.
    """
    make = RULES.get(node.name())
    if make is None:
        raise NoRule(f"there is no rule for {node.name()}")
    try:
        return make(node, wanted)
    except (AttributeError, RuntimeError) as error:
        raise NoRule(f"{node.name()} cannot be read: {str(error).splitlines()[0]}") from error
