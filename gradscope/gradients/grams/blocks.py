"""The Grams of all examples from passes over blocks of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from gradscope.gradients.example_values import ExampleSource
from gradscope.gradients.grams.examples import chosen, joined
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
    if block_size is not None and (isinstance(block_size, bool) or block_size < 1):
        raise ValueError(f"block_size is a number of examples, at least 1, got {block_size!r}.")
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
    if name == "own":
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
    with left_as_found(model):
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
        with batch_norm(model, problem.batch_norm, statistics):
            model.eval()
            if fixed:
                with torch.no_grad():
                    problem.outputs(batch[0])
            yield statistics


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
            whole = _filled(whole, part, both, total)
    return whole


def _filled(
    whole: dict[str, LayerGram], part: dict[str, LayerGram], places: Tensor, total: int
) -> dict[str, LayerGram]:
    return {name: _layer_filled(whole.get(name), gram, places, total) for name, gram in part.items()}


def _layer_filled(whole: LayerGram | None, part: LayerGram, places: Tensor, total: int) -> LayerGram:
    def matrix(name: str) -> Tensor | None:
        new, old = getattr(part, name), None if whole is None else getattr(whole, name)
        if new is None or (whole is not None and old is None):
            return None
        old = new.new_full((total, total), torch.nan) if old is None else old
        places_there = places.to(new.device)
        old[places_there[:, None], places_there] = new
        return old

    def vector(name: str) -> Tensor:
        new = getattr(part, name)
        old = new.new_full((total,), torch.nan) if whole is None else getattr(whole, name)
        old[places.to(new.device)] = new
        return old

    reasons = [part.reason, *([] if whole is None else [whole.reason])]
    return LayerGram(
        matrix("parameter"),
        matrix("output"),
        vector("parameter_log_norms"),
        vector("output_log_norms"),
        matrix("forward"),
        matrix("backward"),
        part.engine if whole is None else max(part.engine, whole.engine, key=ENGINES.index),
        next((reason for reason in reasons if reason), ""),
        part.parameters,
    )


# From what costs least to what is taken when nothing else can be.
ENGINES = ("", "products", "per-example gradients", "fallback")
