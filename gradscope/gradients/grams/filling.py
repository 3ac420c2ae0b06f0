"""The Gram of all examples, filled in from those of pairs of blocks."""

import math

import torch
from torch import Tensor

from gradscope.gradients.grams.result import (
    NOT_CALLED,
    OUTPUT_NOT_REACHED,
    PARAMETERS_NOT_REACHED,
    DenseLayerGram,
    LayerGram,
)
from gradscope.gradients.grams.terms import FALLBACK, PER_EXAMPLE, PRODUCTS

# From what costs least to what is taken when nothing else can be.
_ENGINES = ("", PRODUCTS, PER_EXAMPLE, FALLBACK)
# Why a layer has no Gram of a block, if its gradients are zero there: routed layers see some examples only.
_ZERO = {"parameter": (PARAMETERS_NOT_REACHED,), "output": (OUTPUT_NOT_REACHED, NOT_CALLED)}


def filled(whole: LayerGram | None, part: LayerGram, places: Tensor, total: int) -> LayerGram:
    """What is known of all `total` examples with the Gram of those at `places` put in. Every pair is put in at last.

    A Gram that one block lacks is lacking in all, unless the block's gradients are zero.
    """
    matrices = {name: _matrix(name, whole, part, places, total) for name in ("parameter", "output")}
    factors = {name: _factor(name, whole, part, places, total) for name in ("forward", "backward")}
    own = _norms("parameter", matrices["parameter"], whole, part, places, total)
    outputs = _norms("output", matrices["output"], whole, part, places, total)
    forward, backward = factors["forward"], factors["backward"]
    engine = part.engine if whole is None else max(part.engine, whole.engine, key=_ENGINES.index)
    reason = _reason(matrices, whole, part)
    if _stays_dense(whole, part) and forward is not None and backward is not None:
        bias = isinstance(part, DenseLayerGram) and part.bias
        return DenseLayerGram(
            matrices["output"], own, outputs, forward, backward, engine, reason, part.parameters, bias
        )
    return LayerGram(
        matrices["parameter"],
        matrices["output"],
        own,
        outputs,
        forward,
        backward,
        engine,
        reason,
        part.parameters,
    )


def _stays_dense(whole: LayerGram | None, part: LayerGram) -> bool:
    if not isinstance(part, DenseLayerGram):
        return False
    return whole is None or (isinstance(whole, DenseLayerGram) and whole.bias == part.bias)


def _matrix(name: str, whole: LayerGram | None, part: LayerGram, places: Tensor, total: int) -> Tensor | None:
    if name == "parameter" and _stays_dense(whole, part):
        return None
    new, old = getattr(part, name), None if whole is None else getattr(whole, name)
    if new is None:
        if old is None or not _is_zero(part, name):
            return None
        new = old.new_zeros(len(places), len(places))
    if old is None:
        if whole is not None and not _is_zero(whole, name):
            return None
        # Blocks that came before were zero.
        old = new.new_full((total, total), math.nan if whole is None else 0.0)
    return _put(old, new, places)


def _factor(name: str, whole: LayerGram | None, part: LayerGram, places: Tensor, total: int) -> Tensor | None:
    new, old = getattr(part, name), None if whole is None else getattr(whole, name)
    if new is None or (whole is not None and old is None):
        return None
    return _put(new.new_full((total, total), math.nan) if old is None else old, new, places)


def _put(old: Tensor, new: Tensor, places: Tensor) -> Tensor:
    there = places.to(old.device)
    old[there[:, None], there] = new.to(old.device)
    return old


def _norms(
    name: str, matrix: Tensor | None, whole: LayerGram | None, part: LayerGram, places: Tensor, total: int
) -> Tensor:
    """-inf where the gradients are zero."""
    what = f"{name}_log_norms"
    new, old = getattr(part, what), None if whole is None else getattr(whole, what)
    dense = name == "parameter" and _stays_dense(whole, part)
    if matrix is None and not dense:
        return new.new_full((total,), math.nan)
    if not dense and getattr(part, name) is None:
        new = torch.full_like(new, -math.inf)
    if old is None or getattr(whole, name) is None:
        old = new.new_full((total,), math.nan if whole is None else -math.inf)
    old[places.to(old.device)] = new.to(old.device)
    return old


def _is_zero(gram: LayerGram, name: str) -> bool:
    return bool(gram.parameters or name == "output") and any(why in gram.reason for why in _ZERO[name])


def _reason(matrices: dict[str, Tensor | None], whole: LayerGram | None, part: LayerGram) -> str:
    """The first one given; that gradients are zero in a block is none where they are not zero in another."""
    for gram in (part, whole):
        reasons = [] if gram is None else gram.reason.split("; ")
        for name, matrix in matrices.items():
            if matrix is not None:
                reasons = [reason for reason in reasons if reason not in _ZERO[name]]
        if any(reasons):
            return "; ".join(reasons)
    return ""
