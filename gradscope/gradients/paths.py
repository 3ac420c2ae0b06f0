"""The gradient of any residual network, split exactly by the number of residual branches crossed."""

from typing import Any

import torch

from gradscope.gradients.branches import Chosen
from gradscope.gradients.live import open_paths
from gradscope.gradients.sources import Source


def path_gradients(
    problem: Any,
    lengths: int | str = "all",
    *,
    at: str = "input",
    longest: bool = False,
    source: Source = "loss",
    junctions: Chosen = None,
    precision: torch.dtype | None = None,
    engine: str = "auto",
) -> Any:
    """The gradient through exactly k residual branches, for k = 0..K.

    The chain rule makes of n blocks x + F(x) a sum over 2^n paths, each of which crosses a block by its branch or
    its skip. Back-propagating polynomials in one variable t that marks each crossing gives, without enumerating
    anything, the sum over all paths of each length: exact for any network whose junctions are found, in any
    batch-normalisation mode; no sampling, no cancellation.

    Args:
        problem: Problem or (model, data); its first batch is used.
        lengths: The longest path K, or `all`, so that the sum over k is the gradient.
        at: Where the gradient is taken: `input` (for integer inputs: the first embedding's output), `parameters`, or
            the dotted path of a module, for the gradient at its output. A block's own branch counts as crossed for
            what lies inside it.
        longest: Give the K+1 longest lengths n-K..n instead, where every path passes every junction.
        source: What is differentiated: `loss`, `logit`, `margin`, or f(outputs, targets) giving [N].
        junctions: Which are counted. None: the outermost that have a skip.
        precision: torch.float64 (on a CPU about twice the time) or torch.float32, in which a copy is measured. float32
            is kept clear of underflow by powers of two, which change no digit (but by engine="vmap").
        engine: `passes`, one ordinary backward pass for each length; other names as `gradients.engines.choice` lists
            them; `auto` takes the fastest that can.

    Returns:
        [K+1, *shape], float64; at the parameters, a dict of these by name. In units of what is differentiated over
        units of what it is differentiated by.

    Raises:
        ValueError: The network has no residual junction with a skip and a branch; `lengths` is out of range; the source
            does not depend on the place; a site that is none; another precision.
        RuntimeError: The lengths do not add up, for the network changes between backward passes, or its backward pass
            is not linear (a hook that clips gradients).
        MemoryError: With what it would have taken.

    Source:
        Veit et al. (2016), arXiv:1605.06431, section 3, for the unravelled view. That the gradient, not the forward
        function, splits into 2^n terms: see docs/path-spectrum.md.
    """
    with open_paths(problem, precision=precision, source=source, at=at, junctions=junctions) as paths:
        return paths.graded(lengths, longest=longest, engine=engine).gradients
