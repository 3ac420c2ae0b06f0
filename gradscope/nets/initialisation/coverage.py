"""What an initialisation reaches: layers in either layout, no embeddings, and no matrix left over in silence."""

import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradscope.nets.initialisation.weights import Layer, weighted_layers
from gradscope.nets.options import closest

NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
TOLD = 6


def drawable_layers(model: nn.Module, *, transposed: bool) -> tuple[dict[str, Layer], dict[str, nn.Module]]:
    """The layers to draw by name, and those among them that keep their weight as [in, out].

    A layer of the latter kind is stood for by an `nn.Linear` of its size that holds no numbers.

    Args:
        model: The network.
        transposed: Whether layers of the layout [in, out] can be drawn.

    Raises:
        ValueError: No layer to draw; as `weighted_layers`.

    Warns:
        UserWarning: A layer shares its weight with an embedding, and so stays as it is.
    """
    turned = {name: m for name, m in model.named_modules() if transposed and is_transposed(m)}
    found = weighted_layers(model, needed=not turned)
    embedded = {id(m.weight): name for name, m in model.named_modules() if isinstance(m, EMBEDDINGS)}
    layers: dict[str, Layer] = {}
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if id(weight) in embedded and (name in found or name in turned):
            warnings.warn(
                f"{name!r} shares its weight with the embedding {embedded[id(weight)]!r}. It is no layer to draw anew "
                "and stays as it is.",
                stacklevel=3,
            )
            turned.pop(name, None)
        elif name in turned and weight is not None:
            rows, columns = weight.shape
            layers[name] = nn.Linear(rows, columns, bias=False, device="meta")
        elif name in found:
            layers[name] = found[name]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no linear and no convolutional layer to initialise beside those whose weight "
            "is an embedding's."
        )
    return layers, turned


def is_transposed(module: nn.Module) -> bool:
    """Whether it is a linear layer that keeps its weight as [in, out], as the `Conv1D` of transformers does.

    These compute x W + b, and tell the number of outputs as `nf`.
    """
    weight = module._parameters.get("weight")
    if type(module).__name__ != "Conv1D" or weight is None or weight.ndim != 2:
        return False
    return getattr(module, "nf", None) == weight.shape[1]


def refuse_uncovered(
    model: nn.Module, scheme: str, reached: Sequence[nn.Module], untouched: str | Sequence[str]
) -> None:
    """Raise ValueError if matrices are neither drawn nor an embedding's nor said to stay as they are.

    Args:
        model: The network.
        scheme: For the message.
        reached: The modules whose weights are drawn.
        untouched: Names of parameters, or patterns, that may stay as they are.
    """
    covered = {id(m.weight) for m in reached} | {
        id(p) for m in model.modules() if isinstance(m, (*NORMS, *EMBEDDINGS)) for p in m.parameters()
    }
    left = [name for name, p in model.named_parameters() if p.ndim > 1 and id(p) not in covered]
    patterns = [untouched] if isinstance(untouched, str) else list(untouched)
    for pattern in patterns:
        if pattern != "*" and not any(fnmatchcase(name, pattern) for name in left):
            raise ValueError(
                f"untouched names {pattern!r}, but what {scheme!r} has no rule for is {_listed(left) or 'nothing'}."
                f"{closest(pattern.replace('*', ''), left)}"
            )
    left = [name for name in left if not any(fnmatchcase(name, pattern) for pattern in patterns)]
    if left:
        raise ValueError(
            f"{scheme!r} draws linear and convolutional layers and has no rule for {_listed(left)}, which would stay "
            f"as {'it is' if len(left) == 1 else 'they are'}. If that is meant, say untouched=[{left[0]!r}, ...] "
            "(names or patterns)."
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return ", ".join(names[:TOLD]) + more
