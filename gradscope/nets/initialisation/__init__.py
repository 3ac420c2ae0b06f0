"""Where training starts: the initialisations that the literature compares."""

from gradscope.nets.initialisation.linearity import looks_linear_deviation
from gradscope.nets.initialisation.schemes import SCHEMES, initialise

__all__ = ["SCHEMES", "initialise", "looks_linear_deviation"]
