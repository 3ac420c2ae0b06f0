"""Finding the residual junctions of any network, and telling what they are."""

from gradscope.instruments.junctions.junction import Edge, Junction
from gradscope.instruments.junctions.listing import Junctions
from gradscope.instruments.junctions.routes import Routes
from gradscope.instruments.junctions.tracing import Trace, junctions, trace

__all__ = ["Edge", "Junction", "Junctions", "Routes", "Trace", "junctions", "trace"]
