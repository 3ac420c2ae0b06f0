"""Gram matrices of per-example gradients for every layer, in about one forward and one backward pass."""

from collections.abc import Sequence
from typing import Any

from gradscope.gradients.example_values import ExampleSource
from gradscope.gradients.grams.blocks import grams_of
from gradscope.gradients.grams.result import LayerGram, LayerGrams
from gradscope.problem import Problem, as_problem

__all__ = ["LayerGram", "LayerGrams", "layer_grams"]


def layer_grams(
    problem: Problem | Any,
    *,
    at: str | Sequence[str] | None = None,
    source: ExampleSource = "loss",
    block_size: int | None = None,
) -> LayerGrams:
    """The B x B Grams of per-example gradients, at the parameters and at the output of every layer.

    One backward pass of the summed values gives each layer's cotangents, whose rows are the examples' own where no
    layer mixes examples; with what the layer took in they make its Gram at once and are dropped, so the gradients
    of all examples, [B, P], are never held. Works on the autograd graph: functional uses of a weight, tied and
    re-used parameters are seen, and where examples stand in a tensor is proven node by node. What cannot be followed
    is left to backward passes of single examples, and `engine` and `reason` say so. Frozen parameters count too.

    Args:
        problem: Network, loss and data, or a pair `(model, data)`. Examples of all batches are compared, in order.
        at: Pattern of modules, as in `instruments.sites`; None: every module with parameters of its own.
        source: The number of each example that is differentiated; see `example_values`. It is not divided by B.
        block_size: Examples held at once, at least 1: pairs of blocks are run, so that memory is that of 2 block_size
            examples and time grows by about the number of blocks. None: the largest batch where there are several,
            else everything at once. 'frozen' batch normalisation has the statistics of all examples in any case.
            Under batch_norm='own', and with `scale_grad_by_freq`, examples are not independent: blocks do not apply.

    Returns:
        By the module's name, in the order of `named_modules`.

    Raises:
        ValueError: Fewer than two examples; no module with parameters, or none that matches; a source that reaches
            none of the parameters; batch_norm='train', whose summed gradient mixes examples; batches that cannot be
            joined; block_size that is no whole number from 1 on.

    Source:
        Goodfellow (2015), arXiv:1510.01799, for products instead of per-example gradients.

    Example:
        >>> layer_grams(Problem(model, (x, y)))["0"].parameter    # doctest: +SKIP
    """
    return grams_of(as_problem(problem), at, source, block_size)
