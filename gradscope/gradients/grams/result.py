"""The Grams of one layer, and of all of them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

# Why there is no Gram, where gradients are zero.
PARAMETERS_NOT_REACHED = "the source does not depend on its parameters"
OUTPUT_NOT_REACHED = "the source does not depend on its output, or this was changed in place"
NOT_CALLED = "it is never called, or gives out no gradient: no output"


@dataclass(frozen=True, eq=False, repr=False)
class LayerGram:
    """Gram matrices of one layer's per-example gradients, B examples.

    Attributes:
        parameter: Inner products of the examples' gradients at the layer's own parameters together, [B, B], float64;
            None where there are none (`reason`).
        output: Inner products of the gradients at the layer's output, [B, B], float64; several calls of the layer count
            as one longer output. None where the output's gradient could not be had.
        parameter_log_norms: Natural logarithm of the examples' gradient norms, [B], float64: -inf for a zero gradient,
            exact where the Gram itself is out of float64's range. NaN where `parameter` is None.
        output_log_norms: The same at the output.
        forward: Inner products of the layer's inputs, [B, B], where it has a weight that is used for one row of each
            example: the weight's Gram is then `forward * backward`. Else None.
        backward: Inner products of the gradients behind that weight, [B, B].
        engine: "products", "per-example gradients" (formed layer by layer and dropped) or "fallback" (backward passes
            of single examples); "" where there is no Gram.
        reason: Why the fallback was taken, or why something is None.
        parameters: Names of the parameters counted here; a tied tensor counts at its first owner only.
    """

    parameter: Tensor | None
    output: Tensor | None
    parameter_log_norms: Tensor
    output_log_norms: Tensor
    forward: Tensor | None
    backward: Tensor | None
    engine: str
    reason: str
    parameters: tuple[str, ...]

    def __repr__(self) -> str:
        names = ("parameter", "output", "forward", "backward")
        examples = len(self.parameter_log_norms)
        given = ", ".join(name for name in names if vars(self).get(name, True) is not None) or "nothing"
        parts = [f"{given} [{examples}, {examples}]"]
        for name, norms in (("parameter", self.parameter_log_norms), ("output", self.output_log_norms)):
            if examples and not bool(norms.isnan().all()):
                parts.append(f"{name} log norms {float(norms.min()):.3g} to {float(norms.max()):.3g}")
        return f"LayerGram({'; '.join([*parts, *filter(None, (self.engine, self.reason))])})"


@dataclass(frozen=True, eq=False, repr=False)
class DenseLayerGram(LayerGram):
    """A layer whose weight is used once for each example: `parameter` is made of its factors when it is asked for.

    Attributes:
        bias: There is one, whose Gram is `backward` itself.
    """

    # Not kept, since it would be a third of all that is handed back, and costs one product.
    parameter: Tensor = field(init=False)
    forward: Tensor
    backward: Tensor
    bias: bool

    def __getattr__(self, name: str) -> Tensor:
        if name != "parameter":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if self.bias:
            return torch.addcmul(self.backward, self.forward, self.backward)
        return self.forward * self.backward


class LayerGrams(dict[str, LayerGram]):
    """Grams by the layer's name, in the order of `named_modules`.

    Attributes:
        source: What was differentiated: "loss", "output", "logit", the number of an output, or a function's name.
        batch_norm: The meaning of batch normalisation in force.
        examples: Their number B.
    """

    def __init__(self, grams: dict[str, LayerGram], source: str, batch_norm: str, examples: int) -> None:
        super().__init__(grams)
        self.source = source
        self.batch_norm = batch_norm
        self.examples = examples

    def __repr__(self) -> str:
        """One line for each layer."""
        title = f"LayerGrams of {self.examples} examples, source {self.source}, batch_norm {self.batch_norm}"
        return "\n".join([title, *(f"  {name or '(model)'}: {gram!r}" for name, gram in self.items())])
