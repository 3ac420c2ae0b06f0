"""Which share of the units is active on the whole batch, and so does nothing but a linear map there?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from gradscope.instruments.listen import Heard, on_output
from gradscope.instruments.readings import Readings
from gradscope.instruments.sites import sites
from gradscope.measures.activation import always_on_fraction


@contextmanager
def units_always_on(model: nn.Module, at: str | Sequence[str] | None = None) -> Iterator[Readings]:
    """Read the share of units that are active on every example, at the output of each site.

    Args:
        model: Network whose sites' outputs have shape [N, ...], one row per example.
        at: Sites whose outputs are compared with zero, as in `instruments.sites`: rectifiers, or the
            layers that feed them.

    Yields:
        Readings of `always_on_fraction`, unit 1, in [0, 1]: one per site and forward pass. A unit is one number of
        an example's output, so that a channel counts once for each of its positions.

    Example:
        >>> with units_always_on(net, at="blocks.*") as readings:
        ...     net(x)
        >>> readings.frame()
    """
    readings = Readings("always_on_fraction", unit="1")

    def listen(heard: Heard, output: Tensor) -> None:
        readings.add(always_on_fraction((output.detach() > 0).reshape(len(output), -1)), heard)

    with on_output(sites(model, at), listen):
        yield readings
