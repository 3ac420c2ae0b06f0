"""The Grams of one layer, and of all of them."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
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
