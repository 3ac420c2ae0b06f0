"""What does backpropagating a batch's summed output through train-mode batch normalisation show?"""

from __future__ import annotations

from gradscope.theory._arguments import whole_number


def train_batch_norm_correlation(examples: int) -> float:
    """R = -1 / (B - 1), exactly, of input gradients of a summed output through train-mode batch normalisation.

    A sum over examples cannot tell a shift of all of them, for batch normalisation subtracts it again: the gradients'
    sum over examples is 0, so that sum_{i != j} g_i . g_j = -sum_i |g_i|^2. It says nothing of the network. The same
    number comes out where the mean gradient over the batch is subtracted before correlating.

    Condition: the inputs reach the output only through linear maps followed by batch normalisation with statistics of
    the batch. A skip around it breaks it, as do frozen or running statistics. Depth, width, weights and
    activations do not matter.

    Args:
        examples: B >= 2.

    Returns:
        In [-1, 0).

    Raises:
        ValueError: fewer than two examples.

    Source:
        Derived.
    """
    return -1 / (whole_number(examples, "examples", 2) - 1)
