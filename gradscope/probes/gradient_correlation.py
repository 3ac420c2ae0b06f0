"""How alike are the gradients of different examples at each layer?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from gradscope.instruments.listen import Heard, on_gradient
from gradscope.instruments.readings import Readings
from gradscope.instruments.sites import sites
from gradscope.measures.correlation import correlation_R


@contextmanager
def gradient_correlation(model: nn.Module, at: str | Sequence[str] | None = None) -> Iterator[Readings]:
    """Read the gradient correlation R between examples at the output of each site.

    Args:
        model: Network whose sites' outputs have shape [N, ...], one row per example. Rows are
            per-example gradients only if examples do not mix: under train-mode batch normalisation a
            row is the gradient of *all* losses with respect to one example.
        at: Sites, as in `instruments.sites`.

    Yields:
        Readings of `correlation_R`, unit 1, in [-1/(N-1), 1]: one per site and backward pass. NaN where
        all gradients are zero.

    Example:
        >>> with gradient_correlation(net) as readings:
        ...     loss(net(x), y).backward()
        >>> readings.frame()
    """
    readings = Readings("correlation_R", unit="1")

    def listen(heard: Heard, gradient: Tensor) -> None:
        readings.add(correlation_R(gradient.flatten(start_dim=1)), heard)

    with on_gradient(sites(model, at), listen):
        yield readings
