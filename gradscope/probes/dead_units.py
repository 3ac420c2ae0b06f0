"""Which share of the units is inactive on the whole batch?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from gradscope.instruments.listen import Heard, on_output
from gradscope.instruments.readings import Readings
from gradscope.instruments.sites import sites
from gradscope.measures.activation import dead_fraction


@contextmanager
def dead_units(model: nn.Module, at: str | Sequence[str] | None = None) -> Iterator[Readings]:
    """Read the share of units that are active on no example, at the output of each site.

    Args:
        model: Network whose sites' outputs have shape [N, ...], one row per example.
        at: Sites whose outputs are compared with zero, as in `instruments.sites`: rectifiers, or the
            layers that feed them.

    Yields:
        Readings of `dead_fraction`, unit 1, in [0, 1]: one per site and forward pass. A unit is one number of an
        example's output, so that a channel counts once for each of its positions.

    Example:
        >>> with dead_units(net, at="blocks.*") as readings:
        ...     net(x)
        >>> readings.frame()
    """
    readings = Readings("dead_fraction", unit="1")

    def listen(heard: Heard, output: Tensor) -> None:
        readings.add(dead_fraction((output.detach() > 0).reshape(len(output), -1)), heard)

    with on_output(sites(model, at), listen):
        yield readings
