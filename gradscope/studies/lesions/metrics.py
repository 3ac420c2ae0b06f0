"""What is read off a lesioned network's output: one value per example."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradscope.measures.refinement import divergence
from gradscope.problem import Problem, examples_in
from gradscope.studies.refinement.logit_lens import token_weights

PerExample = Callable[..., Tensor]
# So many logits are held in double precision at a time: 32 MB, where a vocabulary is large.
_HELD = 2**22
_NEVER_NEGATIVE = (
    "a divergence from the intact output is never negative, so there is nothing to test; read its size"
)


@dataclass(frozen=True)
class Metric:
    """One value per example, read off outputs.

    Attributes:
        name: The quantity its rows carry.
        unit: Of the values.
        of: f(output, target, output of the intact network) -> [N]; with `over_tokens`, and weights of tokens.
        needs_target: Whether a batch without targets is refused.
        needs_intact: Whether the intact network's output is looked at.
        larger_is_worse: Which way harm points.
        counts: Whether a value is 1 for a wrong class and else 0.
        over_tokens: Whether a value is a mean over an example's tokens, of which padding is left out.
        untested: Why its difference from the intact network has no p-value; "" where it has one.
    """

    name: str
    unit: str
    of: PerExample
    needs_target: bool = True
    needs_intact: bool = False
    larger_is_worse: bool = True
    counts: bool = False
    over_tokens: bool = False
    untested: str = ""

    def values(self, output: Tensor, target: Any, intact: Tensor, inputs: Any) -> Tensor:
        """The values of one batch, [N], float64, on the CPU.

        Raises:
            ValueError: The function returned anything else than one value per example.
        """
        weights = [token_weights(inputs, output.shape[:2])] if self.over_tokens else []
        values = self.of(output, target, intact, *weights)
        expected = examples_in(inputs)
        if not isinstance(values, Tensor) or values.shape != (expected,):
            told = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"metric {self.name} must return one value per example, a tensor of shape [{expected}], got {told}. "
                "Use reduction='none', or average over everything but the examples."
            )
        return values.detach().double().cpu()


def metrics_of(metric: Any, problem: Problem, targets: Sequence[Any]) -> tuple[Metric, ...]:
    """The metrics that `metric` names, checked against the targets.

    Args:
        metric: `error`, `loss`, `margin`, `kl`, a function f(output, target, intact output) -> [N], or several.
        problem: Whose loss `loss` is.
        targets: Of each batch, None where there are none.

    Raises:
        ValueError: An unknown name, two of the same name, or data that the metric cannot be read on.
    """
    asked = list(metric) if isinstance(metric, Sequence) and not isinstance(metric, str) else [metric]
    known = {
        "error": Metric("error", "share of images", _error, counts=True),
        "loss": Metric(
            "loss",
            "nat" if problem.loss_name in ("cross_entropy", "CrossEntropyLoss") else "loss",
            partial(_loss, problem),
        ),
        "margin": Metric("margin", "logit", _margin, larger_is_worse=False),
        "kl": Metric(
            "kl",
            "nat",
            _divergence,
            needs_target=False,
            needs_intact=True,
            over_tokens=True,
            untested=_NEVER_NEGATIVE,
        ),
    }
    chosen = []
    for one in asked:
        if isinstance(one, str) and one in known:
            chosen.append(known[one])
        elif callable(one):
            name = getattr(one, "__name__", "")
            name = name if name.isidentifier() else "metric"
            chosen.append(Metric(name, "as returned", one, needs_target=False, needs_intact=True))
        else:
            raise ValueError(
                f"metric is one of {', '.join(known)}, a function f(output, target, intact_output) that returns one "
                f"value per example, or several of these, got {one!r}."
            )
    names = [one.name for one in chosen]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"A lesion study needs one metric or more, each of its own name, got {names}.")
    _check_targets(chosen, targets)
    return tuple(chosen)


def _check_targets(chosen: Sequence[Metric], targets: Sequence[Any]) -> None:
    needing = [one.name for one in chosen if one.needs_target]
    classes = [name for name in needing if name in ("error", "margin")]
    for target in targets if needing else ():
        if target is None:
            raise ValueError(
                f"metric {needing[0]} compares outputs with targets, but the data has no targets. Pass data=(x, y), "
                "or metric='kl', which compares with the intact network only."
            )
        whole = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
        if classes and not (target.ndim == 1 and whole):
            raise ValueError(
                f"metric {classes[0]} looks at classes: targets are class numbers [N], got {target.dtype} "
                f"{list(target.shape)}. Pass class numbers, such as one_hot.argmax(dim=1), or metric='loss' or 'kl'."
            )


def _loss(problem: Problem, output: Tensor, target: Any, intact: Tensor) -> Tensor:
    named = problem.loss_name in ("cross_entropy", "CrossEntropyLoss")
    if named and isinstance(target, Tensor) and output.ndim > 1 and not target.is_floating_point():
        # What cross entropy is told to leave out is no class.
        _check_classes("loss", output, target[target != -100])
    return problem.loss(output, target)


def _error(output: Tensor, target: Tensor, intact: Tensor) -> Tensor:
    """1 where the largest logit is not the target's; NaN where a logit is NaN, for then none is the largest."""
    _check_logits("error", output, 1)
    _check_classes("error", output, target)
    wrong = (output.argmax(dim=1) != target).double()
    return wrong.masked_fill(output.isnan().any(dim=1), torch.nan)


def _margin(output: Tensor, target: Tensor, intact: Tensor) -> Tensor:
    """The target's logit minus the largest other: above 0 where the example is classified rightly."""
    _check_logits("margin", output, 2)
    _check_classes("margin", output, target)
    right = output.gather(1, target[:, None])[:, 0]
    return right - output.scatter(1, target[:, None], -torch.inf).amax(dim=1)


def _divergence(output: Tensor, target: Any, intact: Tensor, weights: Tensor | None = None) -> Tensor:
    """KL(intact || lesioned) of the softmax over the last axis; of a sequence, the mean over tokens that count."""
    if output.ndim not in (2, 3) or output.shape != intact.shape:
        raise ValueError(
            f"metric kl takes logits [N, classes] or [N, tokens, vocabulary], the model returned "
            f"{list(output.shape)}. Pass a function f(output, target, intact_output) instead."
        )
    divergences = []
    step = max(1, _HELD // output[0].numel())
    for start in range(0, len(output), step):
        some = slice(start, start + step)
        counted = None if weights is None else weights[some]
        divergences.append(divergence(intact[some], output[some], counted))
    return torch.cat(divergences)


def _check_logits(name: str, output: Tensor, least: int) -> None:
    if output.ndim != 2 or output.shape[1] < least:
        raise ValueError(
            f"metric {name} takes logits [N, classes] with {least} classes or more, the model returned "
            f"{list(output.shape)}. Use metric='loss' with a loss of your own, or 'kl'."
        )


def _check_classes(name: str, output: Tensor, target: Tensor) -> None:
    classes = output.shape[1]
    if target.numel() and (int(target.min()) < 0 or int(target.max()) >= classes):
        raise ValueError(
            f"metric {name} takes class numbers from 0 to {classes - 1}, for the model has {classes} outputs, but the "
            f"targets run from {int(target.min())} to {int(target.max())}. Number the classes from 0."
        )
