"""A network, its per-example loss, and the data on which they are looked at."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradscope.instruments.batch_norm import MODES, batch_norm, described
from gradscope.instruments.quiet import left_as_found, random_state_kept
from gradscope.instruments.single_precision import SinglePrecision, is_half

Batch = tuple[Any, Tensor | None]


def half_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared distance of each example, summed over its outputs: [N].

    Raises:
        ValueError: Outputs and targets of different shapes, which subtraction would broadcast.
    """
    if output.shape != target.shape:
        raise ValueError(
            f"loss='half_squared_error' wants targets of the outputs' shape {list(output.shape)}, got "
            f"{list(target.shape)}. Reshape the targets, for example y[:, None]."
        )
    return (output - target).square().reshape(len(output), -1).sum(dim=1) / 2


def _cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    if output.ndim != 2:
        raise ValueError(
            f"loss='cross_entropy' wants logits of shape [N, classes], the model returned {list(output.shape)}. "
            "Pass loss=f(output, target) that returns one loss per example, [N] (for a language model: the "
            "sum over an example's unmasked tokens)."
        )
    return functional.cross_entropy(output, target, reduction="none")


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "half_squared_error": half_squared_error,
}


class Problem:
    """What every study is asked about: network + data + per-example loss.

    Args:
        model: Any eager `nn.Module`. Of one in half precision a float32 copy is measured, which follows the model as
            far as version counters tell of changes.
        data: `(x, y)` (`x` a tensor or a dict), `x` alone (where no loss is needed), a dict batch with
            its targets under `labels`, or a re-iterable of any of these. A `DataSet` stands for its training pair.
            A tuple of two tensors is always `(x, y)`, so write `list(x.split(64))` for batches of inputs: a list of
            two tensors that are alike (both floating-point or both not, of one shape but for the first axis) is two
            batches; `[x, y]` stands for `(x, y)` only where they differ.
        loss: `"cross_entropy"`, `"half_squared_error"`, a loss module (rebuilt with
            `reduction="none"`), or `f(output, target)` returning one loss per example, [N].
        reduction: `"mean"` or `"sum"` over all examples of all batches.
        batch_norm: One of `auto`, `frozen`, `running`, `train`, `own`; see `instruments.batch_norm`.
        forward: `f(model, inputs) -> output tensor` where `model(inputs)` (or `model(**inputs)`
            for a dict) is not right.

    Attributes:
        examples: Number of examples in all batches, counted once when the problem is made.

    Raises:
        ValueError: Data that is empty or can be read once only, an unknown loss, reduction or mode.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
        *,
        reduction: str = "mean",
        batch_norm: str = "auto",
        forward: Callable[[nn.Module, Any], Any] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"Problem(model, data, loss): model is an nn.Module, got {type(model).__name__}."
            )
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction is 'mean' or 'sum', got {reduction!r}.")
        if batch_norm not in MODES:
            raise ValueError(f"batch_norm is one of {', '.join(MODES)}, got {batch_norm!r}.")
        self._model = SinglePrecision(model) if is_half(model) else model
        with random_state_kept():
            self.data, lengths = _checked(data)
        self.examples, self._batches = sum(lengths), len(lengths)
        self.loss, self.loss_name = _per_example(loss)
        self.reduction = reduction
        self.batch_norm = batch_norm
        self.forward = forward

    def __repr__(self) -> str:
        return (
            f"Problem({type(self.model).__name__}, examples={self.examples}, batches={self._batches}, "
            f"loss={self.loss_name!r}, reduction={self.reduction!r}, batch_norm={self.batch_norm!r})"
        )

    @property
    def model(self) -> nn.Module:
        """The model that is measured: the one given, or the float32 copy, brought up to date."""
        return self._model.up_to_date() if isinstance(self._model, SinglePrecision) else self._model

    @model.setter
    def model(self, model: nn.Module) -> None:
        self._model = model

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name, each tensor once."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def batch_norm_name(self) -> str:
        """The meaning of batch normalisation in force, as result rows name it."""
        return described(self.model, self.batch_norm)

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        real = (p.dtype for p in self.model.parameters() if p.dtype.is_floating_point)
        return next(real, torch.get_default_dtype())

    def batches(self) -> Iterator[Batch]:
        """Every batch as (inputs, targets or None), on the model's device, floating-point ones in its dtype."""
        for batch in self.data:
            inputs, targets = _split(batch)
            yield self._placed(inputs), None if targets is None else self._placed(targets)

    def first_batch(self) -> Batch:
        return next(self.batches())

    @contextmanager
    def prepared(self) -> Iterator[nn.Module]:
        """The model, ready to be measured: eval mode, batch normalisation as asked, left as found."""
        with left_as_found(self.model), batch_norm(self.model, self.batch_norm):
            self.model.eval()
            yield self.model

    def outputs(self, inputs: Any) -> Tensor:
        """The model's output tensor for one batch of inputs (`.logits` of a structured output)."""
        if self.forward is not None:
            output = self.forward(self.model, inputs)
        elif isinstance(inputs, Mapping):
            output = self.model(**inputs)
        else:
            output = self.model(inputs)
        output = getattr(output, "logits", output)
        if not isinstance(output, Tensor):
            raise ValueError(
                f"The model returned {type(output).__name__}, but one tensor is needed. Pass "
                "forward=lambda model, inputs: ... that picks it."
            )
        return output

    def losses(self, inputs: Any, targets: Tensor | None) -> Tensor:
        """One loss per example of a batch, [N].

        Raises:
            ValueError: No targets, or a loss that is not [N].
        """
        if targets is None:
            raise ValueError(
                "This measurement needs a loss, but the data has no targets. Pass data=(x, y), a tuple: two tensors "
                "alike in a list are two batches of inputs."
            )
        output = self.outputs(inputs)
        losses = self.loss(output, targets)
        if losses.ndim != 1 or len(losses) != examples_in(inputs):
            raise ValueError(
                f"The loss must return one value per example, shape [{examples_in(inputs)}], got "
                f"{list(losses.shape)}. Use reduction='none', or sum over everything but the examples."
            )
        return losses

    def value(self, inputs: Any, targets: Tensor | None) -> Tensor:
        """This batch's share of the whole loss: batches' shares add up to it, whatever their sizes."""
        total = self.losses(inputs, targets).sum()
        return total / self.examples if self.reduction == "mean" else total

    def _placed(self, inputs: Any) -> Any:
        if isinstance(inputs, Mapping):
            return {key: self._placed(value) for key, value in inputs.items()}
        if isinstance(inputs, Tensor):
            return inputs.to(self.device, self.dtype if inputs.is_floating_point() else inputs.dtype)
        return inputs


def as_problem(problem: Any, **options: Any) -> Problem:
    """A `Problem`, from one or from a bare `(model, data)` pair.

    Raises:
        ValueError: Anything else, with what to pass.
    """
    if isinstance(problem, Problem):
        return problem
    if isinstance(problem, tuple) and len(problem) == 2 and isinstance(problem[0], nn.Module):
        return Problem(*problem, **options)
    raise ValueError(
        f"A Problem or a pair (model, data) is needed, got {type(problem).__name__}. "
        "Write Problem(model, (x, y))."
    )


def _checked(data: Any) -> tuple[Iterable[Any], list[int]]:
    """The data as a re-iterable of batches, and the number of examples in each of them."""
    training = getattr(data, "train", None)
    if training is not None and _is_pair(training):
        data = tuple(training)
    if isinstance(data, Tensor | Mapping) or (_is_pair(data) and not _is_two_batches(data)):
        data = [data]
    elif not hasattr(data, "__iter__"):
        raise ValueError(
            f"data is (x, y), x, a dict batch or a re-iterable of these, got {type(data).__name__}. "
            "Write Problem(model, (x, y))."
        )
    elif iter(data) is data:
        raise ValueError(
            "data is an iterator, which can be read only once, but measurements read it several times. "
            "Pass list(data), or an object whose __iter__ starts anew, such as a DataLoader."
        )
    lengths = []
    for batch in data:
        inputs, targets = _split(batch)
        lengths.append(examples_in(inputs))
        if targets is not None and len(targets) != lengths[-1]:
            raise ValueError(f"A batch has {lengths[-1]} inputs but {len(targets)} targets.")
    if not lengths or 0 in lengths:
        raise ValueError(f"data has batches of {lengths} examples; each needs at least one.")
    return data, lengths


def _is_pair(data: Any) -> bool:
    if not isinstance(data, tuple | list) or len(data) != 2:
        return False
    return isinstance(data[0], Tensor | Mapping) and isinstance(data[1], Tensor)


def _is_two_batches(pair: Any) -> bool:
    """Whether a pair is a list of two tensors alike, which read as (x, y) would hide half of the inputs."""
    first, second = pair
    if not isinstance(pair, list) or not isinstance(first, Tensor):
        return False
    return first.shape[1:] == second.shape[1:] and first.is_floating_point() == second.is_floating_point()


def _split(batch: Any) -> Batch:
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key != "labels"}, batch.get("labels")
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    raise ValueError(f"A batch is (x, y), x, or a dict with 'labels', got {type(batch).__name__}.")


def examples_in(inputs: Any) -> int:
    """Number of examples in a batch of inputs: rows of the tensor, or of the first tensor of a dict."""
    if isinstance(inputs, Mapping):
        return next((len(value) for value in inputs.values() if isinstance(value, Tensor)), 0)
    return len(inputs)


def _per_example(loss: Any) -> tuple[Callable[[Tensor, Tensor], Tensor], str]:
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"loss is one of {', '.join(LOSSES)} or a function, got {loss!r}.")
        return LOSSES[loss], loss
    if isinstance(loss, nn.Module) and hasattr(loss, "reduction"):
        averaged = loss.reduction == "mean"
        rebuilt = copy.copy(loss)
        setattr(rebuilt, "reduction", "none")  # noqa: B010 - an attribute that not every module declares

        def per_example(output: Tensor, target: Tensor) -> Tensor:
            losses = rebuilt(output, target)
            if losses.ndim == 1:
                return losses
            return (
                losses.flatten(start_dim=1).mean(dim=1)
                if averaged
                else losses.flatten(start_dim=1).sum(dim=1)
            )

        return per_example, type(loss).__name__
    if callable(loss):
        return loss, getattr(loss, "__name__", type(loss).__name__)
    raise ValueError(f"loss is a name, a module or f(output, target) -> [N], got {type(loss).__name__}.")
