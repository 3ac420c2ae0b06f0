"""The Hessian of a problem's loss."""

from typing import Any

from gradscope.curvature.hessian_operator import HessianOperator
from gradscope.curvature.preconditioning import Diagonal
from gradscope.curvature.request import checked, requested
from gradscope.curvature.selection import Selection

ENGINES = ("auto", "rules", "double backward")


def hessian(
    problem: Any,
    *,
    parameters: Selection = None,
    weight_decay: float = 0.0,
    precondition: Diagonal = None,
    budget_bytes: int = 2**30,
    engine: str = "auto",
    check: str = "cheap",
) -> HessianOperator:
    """The Hessian of the whole loss (all batches) with respect to the trainable parameters.

    Args:
        problem: A `Problem`, or a pair `(model, data)`. Its `batch_norm` decides which Hessian this is.
        parameters: Which of the trainable parameters: a name, glob or module path (`"blocks.*"`,
            `"head"`), a type of module (`nn.Conv2d`), several of these, or `f(name, parameter) -> bool`.
            Default: all.
        weight_decay: Added to the diagonal: the optimiser's L2 term w, which is not part of the loss.
        precondition: Positive diagonal D, for D^(-1/2) (H + w I) D^(-1/2), whose eigenvalues are those of
            D^(-1) (H + w I): a vector [P], or tensors or numbers by parameter's name. For Adam and its kin
            `adam_diagonal(optimiser, problem)`. Decoupled decay (AdamW) is not divided by D: leave
            `weight_decay` at 0 and add it to the eigenvalues.
        budget_bytes: Memory that gradient graphs may keep between products. Where all batches fit,
            a product costs 1 to 2 gradients by rules and about 2.4 by double backward; where not, each call
            builds them anew, about one gradient a call more, shared by all columns of a `matmat`.
        engine: `rules` differentiate the two passes of a gradient layer by layer; `double backward` lets
            autograd differentiate the gradient. `auto` takes rules where every operation has one and a
            product of a few examples agrees with double backward's.
        check: `cheap`: the data and the network give the same loss and gradient twice, and the operator is
            symmetric. Two gradients and two products, and five vectors of P entries, beside the graphs that are kept.
            `auto` and `rules` add their comparison, a product by double backward and one by rules of 4 to 8 examples
            (an eighth of a batch): next to nothing where examples cost most, a gradient or two where parameters do.
            A network with custom autograd functions is asked as by `full`. `full`: also a product against
            central differences, on a float64 copy and the first batch (some ten gradients). `none`: only the
            comparison, with the first product.

    Returns:
        Operator of shape [P, P]; P counts each tied weight once. Close it, or use it in a `with`
        block, to free the graphs. The model is left as found after every call.

    Raises:
        ValueError: Nothing is selected; parameters differ in dtype or device; an operation without
            a second derivative; a check that fails, naming the culprit.
        FloatingPointError: The loss or its gradient is not finite, with where that begins.

    Source:
        Pearlmutter (1994), Fast exact multiplication by the Hessian, Neural Computation 6(1), 147-160.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is one of {', '.join(ENGINES)}, got {engine!r}.")
    problem, chosen = requested(problem, parameters, check, HessianOperator.title)
    operator = HessianOperator(
        problem,
        chosen,
        weight_decay=weight_decay,
        precondition=precondition,
        budget_bytes=budget_bytes,
        engine=engine,
    )
    return checked(operator, check)
