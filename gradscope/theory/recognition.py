"""Which law, if any, does a network follow that is described in a few words?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from difflib import get_close_matches

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import correlation, depths, real_number, whole_number
from gradscope.theory._quadrature import NAMED
from gradscope.theory.activation_correlation import activation_correlation, residual_activation_correlation
from gradscope.theory.batch_norm_branches import residual_batch_norm_branches
from gradscope.theory.batch_norm_residual import residual_batch_norm
from gradscope.theory.highway_uncentred import highway_uncentred
from gradscope.theory.law import Curve, Law, ratios
from gradscope.theory.leaky_relu import leaky_relu_correlation
from gradscope.theory.mean_field import MeanField, plain_correlation, residual_correlation
from gradscope.theory.shattering import highway, plain_centred, residual_centred
from gradscope.theory.train_batch_norm import train_batch_norm_correlation

FAMILIES = ("plain", "residual", "highway")
NORMALISATIONS = ("none", "mean", "batch")
INITIALISATIONS = ("he", "looks_linear")
_BALDUZZI = "Balduzzi et al. (2017), arXiv:1702.08591"
_ALWAYS = (
    "at initialisation, independent weights",
    "width well above depth",
    "gradients of outputs, not of losses",
)
_ALIKE = "inputs that are all alike to each other (no classes, no grid)"
_WIDE = "inputs of high dimension (scalars: derivative_process)"
_CENTRED = "statistics of the very batch, frozen (not differentiated through)"
_WHOLE = "depth is that of the whole net, whose gammas change with it"


def law_for(
    family: str,
    *,
    normalisation: str = "none",
    activation: str = "relu",
    alpha: float = 1.0,
    beta: float = 1.0,
    branch_layers: int = 1,
    initialisation: str = "he",
    statistics: str = "frozen",
    rho: float = 0.0,
    examples: int | None = None,
    negative_slope: float = 0.01,
    weight_variance: float = 1.0,
    bias_variance: float = 0.0,
    input_variance: float = 1.0,
) -> Law:
    """The law that a network of this description follows at initialisation.

    An unknown word is no error: a stranger's network may have any normalisation, and then no law is known.

    Args:
        family: "plain", "residual" (x <- alpha x + beta F(x)) or "highway" (Corollary 1's gammas).
        normalisation: In front of every activation: "none", "mean" (the batch's mean is subtracted) or "batch".
        activation: "relu", "leaky_relu", "prelu", "crelu", or one of "tanh", "erf", "gelu", "silu".
        alpha, beta: Factors of skip and branch of a residual net. He-scaled weights in front of the ReLU as well as
            behind it multiply beta by sqrt(2).
        branch_layers: Activations, each with its weights, in a branch, >= 1.
        initialisation: "he" (variance-preserving) or "looks_linear"; tanh and its like read `weight_variance`.
        statistics: Of batch normalisation: "frozen", or "train" where the backward pass goes through them.
        rho: Correlation of two inputs as they enter the first activation of a plain net, the first block of others.
            Matters only without normalisation.
        examples: B; needed for "train". Where inputs are centred, other than in residual nets with batch
            normalisation, it counts the -1/(B-1) that this leaves between them.
        negative_slope: Of "leaky_relu"; "prelu" too, at its initial value.
        weight_variance, bias_variance: For tanh and its like: fan-in times the variance of a weight, of a bias.
        input_variance: Mean square of what enters there; for residual nets with batch normalisation its variance
            over the batch, mean over units. It does not matter in other nets of ReLUs.

    Returns:
        The law; `known` is False where none is.

    Raises:
        ValueError: a number is outside its range.

    Source:
        The laws' own.
    """
    whole_number(branch_layers, "branch_layers", 1)
    rho = correlation(rho, "rho")
    real_number(alpha, "alpha")
    real_number(beta, "beta", least=0)
    size = real_number(input_variance, "input_variance", above=0)
    batch = None if examples is None else whole_number(examples, "examples", 2)
    for option, word, known in (
        ("family", family, FAMILIES),
        ("normalisation", normalisation, NORMALISATIONS),
        ("initialisation", initialisation, INITIALISATIONS),
    ):
        if word not in known:
            return _unknown(f"{option} {word!r} is none of {', '.join(known)}{_near(word, known)}")
    if initialisation == "looks_linear":
        return _looks_linear(family, activation)
    if normalisation == "batch" and statistics == "train":
        return _train(family, batch)
    if activation in NAMED:
        if normalisation != "none" or family == "highway" or branch_layers != 1 or alpha != 1:
            return _unknown(
                f"{activation} has laws only without normalisation, for plain nets and x + beta F(x)"
            )
        options = {
            "rho": rho,
            "weight_variance": weight_variance,
            "bias_variance": bias_variance,
            "variance": size,
        }
        return _smooth(family, activation, beta, options)
    if activation in ("leaky_relu", "prelu"):
        if family != "plain":
            return _unknown(f"{activation} has a law only in plain nets")
        return _leaky(normalisation, negative_slope, rho, batch)
    if activation != "relu":
        near = _near(activation, ("relu", "leaky_relu", "prelu", "crelu", *NAMED))
        return _unknown(f"activation {activation!r} has none with He-scaled weights{near}")
    if normalisation == "none":
        return _uncentred(family, alpha, beta, branch_layers, rho)
    return _centred(family, normalisation, alpha, beta, branch_layers, batch, size)


def _unknown(reason: str) -> Law:
    return Law("", None, reason=f"no law known for this network: {reason}")


def _near(word: str, known: Sequence[str]) -> str:
    # The first letters are enough: resnet for residual.
    near = [name for name in get_close_matches(str(word).lower(), known, n=1, cutoff=0.4) if name != word]
    return f". Did you mean {near[0]!r}?" if near else ""


def _along(recursion: Callable[[int], MeanField]) -> Curve:
    """R at any depths, from the recursion followed once to the deepest."""

    def curve(depth: ArrayLike) -> NDArray[np.float64]:
        layers = depths(depth)
        return np.asarray(recursion(int(layers.max())).gradient_correlation[layers - 1], dtype=np.float64)

    return curve


def _gammas(depth: int) -> tuple[float, float]:
    return math.sqrt(1 - 1 / depth), math.sqrt(1 / depth)


def _constant(value: float) -> Curve:
    return lambda depth: np.full(depths(depth).shape, value)


def _looks_linear(family: str, activation: str) -> Law:
    if family != "plain" or activation not in ("crelu", "prelu", "relu"):
        return _unknown(
            "looks-linear weights make plain nets of CReLU, PReLU or paired ReLU linear, not this one"
        )
    held = ("at initialisation", "no pre-activation exactly 0", "no max-pooling or dropout")
    return Law(
        "looks_linear_singular_values", _constant(1.0), held, f"{_BALDUZZI}, looks-linear", within=np.ones
    )


def _train(family: str, batch: int | None) -> Law:
    if family != "plain":
        return _unknown(
            "gradients through train-mode statistics have a law only where no skip leads around them"
        )
    if batch is None:
        return _unknown("-1/(B-1) needs the number of examples")
    pinned = train_batch_norm_correlation(batch)
    held = ("inputs reach the output only through linear maps followed by batch normalisation",)
    return Law(
        "train_batch_norm_correlation",
        _constant(pinned),
        held,
        "derived",
        within=lambda depth: np.full(depth, pinned),
    )


def _smooth(family: str, activation: str, beta: float, options: dict[str, float]) -> Law:
    held = (*_ALWAYS, _WIDE)
    if family == "plain":
        return Law(
            "activation_correlation",
            _along(lambda n: activation_correlation(n, activation, None, **options)),
            held,
            "Schoenholz et al. (2017), arXiv:1611.01232",
        )
    return Law(
        "residual_activation_correlation",
        _along(
            lambda n: residual_activation_correlation(
                n, activation, None, output_weight_variance=beta**2, **options
            )
        ),
        (*held, "branch V phi(W x + b), V of variance 1/N"),
        "Yang & Schoenholz (2017), arXiv:1712.08969",
    )


def _leaky(normalisation: str, slope: float, rho: float, batch: int | None) -> Law:
    if normalisation == "none":
        curve = _along(lambda n: leaky_relu_correlation(n, slope, rho))
        return Law("leaky_relu_correlation", curve, (*_ALWAYS, _WIDE), "derived")
    leaky_relu_correlation(1, slope)
    return Law(
        "residual_centred",
        lambda depth: residual_centred(depth, math.sqrt(2 * slope), 1 - slope, batch),
        (*_ALWAYS, _WIDE, _ALIKE, _CENTRED),
        "derived",
    )


def _uncentred(family: str, alpha: float, beta: float, branch_layers: int, rho: float) -> Law:
    held = (*_ALWAYS, _WIDE, "no biases")
    if family == "plain":
        return Law("plain_correlation", _along(lambda n: plain_correlation(n, rho)), held, "derived")
    if family == "highway":
        if branch_layers != 1:
            return _unknown("the highway law is for one ReLU a branch")
        return Law(
            "highway_uncentred",
            lambda depth: highway_uncentred(depth, rho),
            (*held, _WHOLE),
            "derived",
            within=lambda depth: ratios(
                residual_correlation(depth, *_gammas(depth), rho).gradient_correlation
            ),
        )
    curve = _along(lambda n: residual_correlation(n, alpha, beta, rho, branch_layers=branch_layers))
    return Law("residual_correlation", curve, held, "derived")


def _centred(
    family: str,
    normalisation: str,
    alpha: float,
    beta: float,
    branch_layers: int,
    batch: int | None,
    size: float,
) -> Law:
    held: tuple[str, ...] = (*_ALWAYS, _WIDE, _ALIKE, _CENTRED)
    if family == "plain":
        return Law(
            "plain_centred", lambda depth: plain_centred(depth, batch), held, f"{_BALDUZZI}, Theorem 1"
        )
    if normalisation == "mean" and family == "residual":
        return Law(
            "residual_centred",
            lambda depth: residual_centred(depth, alpha, beta, batch, branch_layers=branch_layers),
            held,
            f"{_BALDUZZI}, Theorem 2",
        )
    if family == "highway":
        if branch_layers != 1 or normalisation == "batch":
            return _unknown("the highway law is for one mean-centred ReLU a branch")
        return Law(
            "highway",
            lambda depth: highway(depth, batch=batch),
            (*held, _WHOLE),
            f"{_BALDUZZI}, Corollary 1",
            within=lambda depth: ratios(residual_centred(np.arange(1, depth + 1), *_gammas(depth), batch)),
        )
    if alpha != 1:
        return _unknown("residual nets with batch normalisation have a law for the skip factor 1")
    if branch_layers == 1:
        return Law(
            "residual_batch_norm",
            lambda depth: residual_batch_norm(depth, beta, input_variance=size),
            held,
            "derived",
        )
    return Law(
        "residual_batch_norm_branches",
        lambda depth: residual_batch_norm_branches(depth, beta, branch_layers, input_variance=size),
        held,
        "derived",
    )
