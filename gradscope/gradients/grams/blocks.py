"""The Grams of all examples from passes over blocks of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gradscope.gradients.example_values import ExampleSource
from gradscope.gradients.grams.examples import chosen, joined, mapped
from gradscope.gradients.grams.filling import filled
from gradscope.gradients.grams.layers import Layer, layers
from gradscope.gradients.grams.passes import grams_of_examples
from gradscope.gradients.grams.result import LayerGram, LayerGrams
from gradscope.instruments.batch_norm import Statistics, batch_norm
from gradscope.instruments.quiet import left_as_found
from gradscope.problem import Batch, Problem, examples_in


def grams_of(
    problem: Problem, at: str | Sequence[str] | None, source: ExampleSource, block_size: int | None
) -> LayerGrams:
    """See `layer_grams`."""
    if block_size is not None and (
        isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 1
    ):
        raise ValueError(f"block_size is a whole number of examples, at least 1, got {block_size!r}.")
    if problem.examples < 2:
        raise ValueError(
            f"layer_grams compares examples, so it needs at least 2, got {problem.examples}. Pass more data."
        )
    name = problem.batch_norm_name
    if "train" in name.split("+"):
        raise ValueError(
            "batch_norm='train' differentiates through statistics of the batch, so that the gradient of a sum belongs "
            "to no single example. Use batch_norm='frozen', or batch_norm='own', which runs one backward pass for "
            "each example."
        )
    wanted = layers(problem.model, at)
    batch, sizes = joined(problem)
    examples = sum(sizes)
    step = block_size or (max(sizes) if len(sizes) > 1 else examples)
    if name == "own" or _counts_the_batch(problem.model):
        step = examples
    with _prepared(problem, batch, fixed=step < examples) as statistics:
        if step >= examples:
            found = grams_of_examples(
                problem, batch, wanted, source, own=name == "own", statistics=statistics
            )
        else:
            found = _by_blocks(problem, batch, wanted, source, step, statistics)
    if all(gram.parameter is None for gram in found.values()) and any(layer.parameters for layer in wanted):
        raise ValueError(
            f"source={source!r} depends on no parameter of these layers: "
            f"{next(gram.reason for gram in found.values())}. Choose other layers with at=, or another source."
        )
    described = source if isinstance(source, str) else getattr(source, "__name__", str(source))
    return LayerGrams(found, described, name, examples)


@contextmanager
def _prepared(problem: Problem, batch: Batch, fixed: bool) -> Iterator[Statistics | None]:
    """As `problem.prepared()`, with all parameters needing gradients and batch statistics those of all examples."""
    model, statistics = problem.model, Statistics() if fixed else None
    with left_as_found(model), _tables_kept(model):
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
        with batch_norm(model, problem.batch_norm, statistics):
            model.eval()
            if fixed:
                with torch.no_grad():
                    problem.outputs(mapped(batch[0], Tensor.clone))
            yield statistics


def _counts_the_batch(model: nn.Module) -> bool:
    """Whether gradients of a table are divided by how often the whole batch looks a row up."""
    return any(
        isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.scale_grad_by_freq for m in model.modules()
    )


@contextmanager
def _tables_kept(model: nn.Module) -> Iterator[None]:
    """Tables whose rows are shortened as they are looked up (`max_norm`) are put back on leaving."""
    tables = [
        m.weight for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.max_norm
    ]
    kept = [(table, table.detach().clone()) for table in tables]
    try:
        yield
    finally:
        with torch.no_grad():
            for table, values in kept:
                if not torch.equal(table, values):
                    table.copy_(values)


def _by_blocks(
    problem: Problem,
    batch: Batch,
    wanted: Sequence[Layer],
    source: ExampleSource,
    step: int,
    statistics: Statistics | None,
) -> dict[str, LayerGram]:
    """Every pair of blocks is one batch, whose Gram fills its places in the whole."""
    total = examples_in(batch[0])
    blocks = list(torch.arange(total).split(step))
    whole: dict[str, LayerGram] = {}
    for place, one in enumerate(blocks):
        for other in blocks[place + 1 :]:
            both = torch.cat([one, other])
            part = grams_of_examples(
                problem, chosen(batch, both, total), wanted, source, own=False, statistics=statistics
            )
            whole = {name: filled(whole.get(name), gram, both, total) for name, gram in part.items()}
    return whole
