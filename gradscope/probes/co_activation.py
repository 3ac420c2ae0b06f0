"""How often is a unit active on both of two examples: 1/4 when units stay balanced?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from gradscope.instruments.listen import Heard, on_output
from gradscope.instruments.readings import Readings
from gradscope.instruments.sites import sites
from gradscope.measures.activation import co_active_fraction


@contextmanager
def co_activation(model: nn.Module, at: str | Sequence[str] | None = None) -> Iterator[Readings]:
    """Read the share of co-active (pair of examples, unit) at the output of each site.

    Args:
        model: Network whose sites' outputs have shape [N, ...], one row per example.
        at: Sites whose outputs are compared with zero, as in `instruments.sites`: rectifiers, or the
            layers that feed them.

    Yields:
        Readings of `co_activation`, unit 1, in [0, 1]: one per site and forward pass.

    Example:
        >>> with co_activation(net, at="blocks.*") as readings:
        ...     net(x)
        >>> readings.frame()
    """
    readings = Readings("co_activation", unit="1")

    def listen(heard: Heard, output: Tensor) -> None:
        readings.add(co_active_fraction((output.detach() > 0).flatten(start_dim=1)), heard)

    with on_output(sites(model, at), listen):
        yield readings
