"""Which routes does one block of the literature offer, counted by the residual functions they cross?

Coefficient k of a block's polynomial P(t) is its number of routes that cross k residual functions. Blocks in
series multiply (`path_counts`), so that a network's paths are counted by multiplying its blocks.

Equal polynomials do not mean equal weights: two networks with the same number of paths of every length may send
their gradients along quite different ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradscope.theory._arguments import whole_number
from gradscope.theory._polynomials import plus, power, product

Polynomial = list[int]


class Block(NamedTuple):
    """One kind of block: its equation, its polynomial in words, where it comes from, and how to count it."""

    equation: str
    polynomial: str
    source: str
    routes: Callable[..., Polynomial]


def block_polynomial(name: str, **sizes: int) -> Polynomial:
    """Number of routes through one block that cross k = 0, 1, ... residual functions.

    Args:
        name: One of `block_names()`; `BLOCKS[name]` tells the equation, the polynomial and the source.
        sizes: Those of the block, whole numbers, such as `branches` of "multi_residual", `layers` of "dense",
            `heads` of a transformer, `steps` of "weight_shared".

    Returns:
        Coefficients from t^0 upwards, as exact Python ints.

    Raises:
        ValueError: An unknown name, a size the block lacks or needs, or one below its least.

    Example:
        >>> gs.theory.block_polynomial("multi_residual", branches=3)
        [1, 3]
        >>> gs.theory.path_counts([gs.theory.block_polynomial("transformer_parallel")] * 2)
        [1, 4, 4]

    Source:
        Derived from the equations of the papers in `BLOCKS`; the unravelled view is Veit et al. (2016),
        arXiv:1605.06431.
    """
    if name not in BLOCKS:
        raise ValueError(f"No block is called {name!r}. There are: {', '.join(block_names())}.")
    routes = BLOCKS[name].routes
    try:
        inspect.signature(routes).bind(**sizes)
    except TypeError as error:
        takes = ", ".join(inspect.signature(routes).parameters) or "no size"
        raise ValueError(f"The block {name!r} takes {takes}; got {sorted(sizes)} ({error}).") from None
    return routes(**sizes)


def block_names() -> list[str]:
    """The blocks that `block_polynomial` knows, in alphabetical order."""
    return sorted(BLOCKS)


def bigraded_block_polynomial(name: str, *, heads: int = 1) -> NDArray[np.object_]:
    """Routes through one transformer layer, by attention branches and MLP branches crossed.

    Args:
        name: "transformer_sequential", (1 + H a)(1 + m), or "transformer_parallel", 1 + H a + m.
        heads: Number H of attention heads counted as branches of their own, >= 1; 1 for attention as a whole.

    Returns:
        Exact Python ints, shape [2, 2]: entry [i, j] is the number of routes that cross attention i times and
        the MLP j times. For `graded_path_counts`.

    Raises:
        ValueError: Another name, or fewer than one head.

    Source:
        Derived; parallel layers: GPT-J, GPT-NeoX, Phi, Cohere, Falcon.
    """
    count = whole_number(heads, "heads", 1)
    both = {"transformer_sequential": count, "transformer_parallel": 0}
    if name not in both:
        raise ValueError(f"{name!r} has no attention and MLP to tell apart. There are: {', '.join(both)}.")
    return np.array([[1, 1], [count, both[name]]], dtype=object)


def _one_branch() -> Polynomial:
    return [1, 1]


def _plain() -> Polynomial:
    return [0, 1]


def _multi_residual(branches: int) -> Polynomial:
    return [1, whole_number(branches, "branches", 1)]


def _resnext(cardinality: int = 1) -> Polynomial:
    return [1, whole_number(cardinality, "cardinality", 1)]


def _stochastic_depth(kept: int = 1) -> Polynomial:
    if whole_number(kept, "kept", 0) > 1:
        raise ValueError(f"kept is 1 for a block that is run and 0 for one left out, got {kept}.")
    return [1, int(kept)]


def _dense(layers: int) -> Polynomial:
    return power([1, 1], whole_number(layers, "layers", 1))


def _sequential(heads: int = 1) -> Polynomial:
    return product([1, whole_number(heads, "heads", 1)], [1, 1])


def _parallel(heads: int = 1) -> Polynomial:
    return [1, whole_number(heads, "heads", 1) + 1]


def _decoder_layer(heads: int = 1) -> Polynomial:
    return product(power([1, whole_number(heads, "heads", 1)], 2), [1, 1])


def _weight_shared(steps: int) -> Polynomial:
    return power([1, 1], whole_number(steps, "steps", 1))


def _residual_of_residual(groups: int, blocks: int) -> Polynomial:
    inside = power([1, 1], whole_number(blocks, "blocks", 1))
    return plus([1], power(plus([1], inside), whole_number(groups, "groups", 1)))


def _fractal(columns: int) -> Polynomial:
    counts = [0, 1]
    for _ in range(whole_number(columns, "columns", 1) - 1):
        counts = plus([0, 1], product(counts, counts))
    return counts


def _u_net(levels: int) -> Polynomial:
    return [1] * (whole_number(levels, "levels", 1) + 1)


_PRE = "He et al. (2016), arXiv:1603.05027"
BLOCKS: dict[str, Block] = {
    "plain": Block("F(h)", "t", "one path; deleting the layer removes it", _plain),
    "pre_activation": Block("h + F(h)", "1 + t", _PRE, _one_branch),
    "post_activation": Block(
        "relu(S h + F(h))",
        "1 + t",
        "He et al. (2015), arXiv:1512.03385; the relu is in both routes",
        _one_branch,
    ),
    "projection": Block("W h + F(h)", "1 + t", f"{_PRE}; W belongs to the skip", _one_branch),
    "scaled": Block(
        "h + s F(h)", "1 + t; weight (s t)^k", "Szegedy et al. (2016), arXiv:1602.07261", _one_branch
    ),
    "wide": Block("h + F(h)", "1 + t", "Zagoruyko & Komodakis (2016), arXiv:1605.07146", _one_branch),
    "squeeze_excitation": Block(
        "h + s(F(h)) * F(h)",
        "1 + t",
        "Hu et al. (2018), arXiv:1709.01507; the gate is in the branch",
        _one_branch,
    ),
    "multi_residual": Block(
        "h + F_1(h) + ... + F_k(h)", "1 + k t", "Abdi & Nahavandi (2016), arXiv:1609.05672", _multi_residual
    ),
    "resnext": Block(
        "h + T_1(h) + ... + T_C(h)",
        "1 + C t; 1 + t for the branch as a whole",
        "Xie et al. (2017), arXiv:1611.05431; routes split only with frozen statistics, for the last "
        "batch normalisation is shared",
        _resnext,
    ),
    "highway": Block(
        "T(h) * H(h) + (1 - T(h)) * h",
        "1 + t",
        "Srivastava et al. (2015), arXiv:1505.00387; the routes through H and through T both count 1",
        _one_branch,
    ),
    "coupled_gate": Block(
        "T * H(h) + C * h", "1 + t", "Srivastava et al. (2015), arXiv:1507.06228", _one_branch
    ),
    "stochastic_depth": Block(
        "h + b F(h), b = 1 with probability p",
        "1 + b t; on average 1 + p t",
        "Huang et al. (2016), arXiv:1603.09382",
        _stochastic_depth,
    ),
    "dense": Block(
        "h_l = H_l([h_0, ..., h_(l-1)])", "(1 + t)^L", "Huang et al. (2017), arXiv:1608.06993", _dense
    ),
    "transformer_sequential": Block(
        "x + A(LN x), then x + M(LN x)",
        "(1 + H a)(1 + m)",
        "Vaswani et al. (2017), arXiv:1706.03762",
        _sequential,
    ),
    "transformer_parallel": Block(
        "x + A(LN x) + M(LN x)", "1 + H a + m", "GPT-J, GPT-NeoX, Falcon", _parallel
    ),
    "transformer_post_norm": Block(
        "LN(x + F(x))", "1 + t", "Vaswani et al. (2017), arXiv:1706.03762; LN is in both routes", _one_branch
    ),
    "transformer_decoder": Block(
        "x + A(x), then x + A(x, encoder), then x + M(x)",
        "(1 + H t)^2 (1 + t) to the decoder's input; encoder_path_counts for routes into the encoder",
        "Vaswani et al. (2017), arXiv:1706.03762",
        _decoder_layer,
    ),
    "weight_shared": Block(
        "h + F(h), the same F for T steps",
        "(1 + t)^T",
        "Liao & Poggio (2016), arXiv:1604.03640",
        _weight_shared,
    ),
    "residual_of_residual": Block(
        "shortcuts around blocks, around groups of m blocks, and around all groups",
        "1 + (1 + (1 + t)^m)^groups",
        "Zhang et al. (2016), arXiv:1608.02908",
        _residual_of_residual,
    ),
    "fractal": Block(
        "f_1 = conv, f_(c+1) = join(conv, f_c o f_c)",
        "P_1 = t, P_(c+1) = t + P_c^2; a mean join also divides by its number of inputs",
        "Larsson et al. (2017), arXiv:1605.07648",
        _fractal,
    ),
    "u_net": Block(
        "cat(encoder, up(level below)), level in level",
        "P_0 = 1, P_(d+1) = 1 + t P_d: one way into the level below and back counts 1",
        "Ronneberger et al. (2015), arXiv:1505.04597",
        _u_net,
    ),
    "ode_step": Block(
        "h + step F(h)", "1 + t; weight step^k", "Chang et al. (2017), arXiv:1710.10348", _one_branch
    ),
}


def encoder_path_counts(encoder_layers: int, decoder_layers: int) -> Polynomial:
    """Paths from the loss to the ENCODER's input of a transformer, by residual functions crossed.

    A path enters the encoder through the cross-attention of one decoder layer, having come down through the MLP
    junction of that layer and all junctions of the layers above it:
    t (1 + t) [1 + (1 + t)^3 + ... + (1 + t)^(3 (D - 1))] (1 + t)^(2 E).

    Args:
        encoder_layers: Number E, >= 1, of layers x + A(x), then x + M(x).
        decoder_layers: Number D, >= 1, of layers as "transformer_decoder".

    Returns:
        Exact coefficients from t^0 upwards, Python ints; entry 0 is 0. Paths to the decoder's own input are
        (1 + t)^(3 D).

    Raises:
        ValueError: An argument is no whole number of at least 1.

    Source:
        Derived from Vaswani et al. (2017), arXiv:1706.03762.
    """
    inside = power([1, 1], 2 * whole_number(encoder_layers, "encoder_layers", 1))
    routes: Polynomial = [0]
    for above in range(whole_number(decoder_layers, "decoder_layers", 1)):
        routes = plus(routes, power([1, 1], 3 * above))
    return product(product([0, 1, 1], routes), inside)
