"""Running a network as it would be deployed: eval mode, stored batch-norm statistics."""

from collections.abc import Iterator
from contextlib import contextmanager

from gradscope.instruments.batch_norm import batch_norm_layers
from gradscope.instruments.quiet import left_as_found
from gradscope.problem import Problem


@contextmanager
def deployed(problem: Problem, study: str) -> Iterator[None]:
    """Eval mode with stored statistics; the model is left as found.

    Raises:
        ValueError: The problem asks for another meaning of batch normalisation; or the stored statistics
            were never updated, so that they normalise nothing.
    """
    if problem.batch_norm not in ("auto", "running"):
        raise ValueError(
            f"{study} runs the network as deployed, with stored statistics, so batch_norm={problem.batch_norm!r} "
            "has no meaning here. Leave it out."
        )
    layers = [layer for layer in batch_norm_layers(problem.model) if layer.track_running_stats]
    if any(layer.num_batches_tracked == 0 for layer in layers):
        raise ValueError(
            f"{study} uses the stored batch-norm statistics, but they were never updated (mean 0, variance 1 "
            "normalise nothing). Train the network, or run it in train mode on some data first."
        )
    with left_as_found(problem.model):
        problem.model.eval()
        yield
