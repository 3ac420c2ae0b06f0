"""How large is the gradient at each layer: does it vanish or explode?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gradscope.instruments.listen import Heard, on_gradient
from gradscope.instruments.readings import Readings
from gradscope.instruments.sites import sites


@contextmanager
def gradient_norm(model: nn.Module, at: str | Sequence[str] | None = None) -> Iterator[Readings]:
    """Read the Euclidean norm of the gradient of the whole batch at the output of each site.

    Args:
        model: Any network.
        at: Sites, as in `instruments.sites`.

    Yields:
        Readings of `gradient_norm`, in units of loss over units of the output: one per site and
        backward pass. Summed in float64, so it does not underflow where float32 squares would.

    Example:
        >>> with gradient_norm(net) as readings:
        ...     loss(net(x), y).backward()
        >>> readings.frame()
    """
    readings = Readings("gradient_norm", unit="loss per output")

    def listen(heard: Heard, gradient: Tensor) -> None:
        readings.add(torch.linalg.vector_norm(gradient.double()), heard)

    with on_gradient(sites(model, at), listen):
        yield readings
