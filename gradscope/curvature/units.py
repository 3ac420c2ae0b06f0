"""The units of what is read off an operator of second derivatives."""

EIGENVALUE = "loss per squared parameter"
"""Of eigenvalues, traces, and norms of blocks."""

SQUARE = "(loss per squared parameter)^2"
"""Of the trace of the square."""

DENSITY = "squared parameters per loss"
"""Of a density over eigenvalues, which integrates to 1."""
