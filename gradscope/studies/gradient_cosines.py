"""Which examples' gradients agree with which, in one layer?"""

from typing import TYPE_CHECKING, Any

import torch

from gradscope.gradients.example_values import ExampleSource
from gradscope.gradients.gathered import gathered
from gradscope.gradients.layer_grams import layer_grams
from gradscope.measures.gram_cosines import cosines
from gradscope.problem import as_problem
from gradscope.studies.agreement.layers import class_numbers
from gradscope.studies.agreement.readings import IGNORED, READ

if TYPE_CHECKING:
    import pandas as pd


def gradient_cosines(
    problem: Any, site: str, *, gradient: str = "parameter", source: ExampleSource = "loss"
) -> "pd.DataFrame":
    """Cosines of every two examples' gradients in one layer, as a frame for `figures.cosine_matrix`.

    Args:
        problem: Problem or (model, data); examples of all batches are compared.
        site: The layer.
        gradient: `parameter`, `output`, `forward` or `backward`.
        source: As in `gradient_agreement`.

    Returns:
        Frame with a row for each ordered pair, B^2 in all. Columns `source`, `batch_norm`, `gradient`, `quantity`
        (`gradient_cosine`), `unit`, `site`, `i`, `j` (positions in the data) and, where the targets are class numbers,
        `class`, `other_class` (missing for -100, which losses leave
        out); `value`, `status`, `reason`. A zero gradient has no cosines.

    Raises:
        ValueError: No such layer, or several; or it has no such Gram, with the reason.
    """
    import pandas as pd

    problem = as_problem(problem)
    if gradient not in READ:
        raise ValueError(f"gradient is one of {', '.join(READ)}, got {gradient!r}.")
    problem, block_size = gathered(problem)
    grams = layer_grams(problem, at=site, source=source, block_size=block_size)
    if len(grams) > 1:
        raise ValueError(
            f"gradient_cosines reads one layer, and {site!r} matches {', '.join(grams)}. Name one."
        )
    ((name, gram),) = grams.items()
    products = getattr(gram, gradient)
    if products is None:
        raise ValueError(
            f"The {gradient} Gram of {name!r} is not there: {gram.reason or 'it has no factors'}."
        )
    matrix = cosines(products).cpu()
    pairs = torch.cartesian_prod(torch.arange(len(matrix)), torch.arange(len(matrix)))
    labels = class_numbers(problem.first_batch()[1], len(matrix))
    classes = {}
    if labels is not None:
        for column, numbers in zip(("class", "other_class"), labels[pairs].T, strict=True):
            classes[column] = pd.Series(numbers.numpy(), dtype="Int64").mask((numbers == IGNORED).numpy())
    undefined = matrix.isnan().flatten().tolist()
    return pd.DataFrame(
        {
            "source": grams.source,
            "batch_norm": grams.batch_norm,
            "gradient": gradient,
            "quantity": "gradient_cosine",
            "unit": "1",
            "site": name,
            "i": pairs[:, 0].numpy(),
            "j": pairs[:, 1].numpy(),
            **classes,
            "value": matrix.flatten().numpy(),
            "status": ["undefined" if missing else "ok" for missing in undefined],
            "reason": ["a gradient is zero or not finite" if missing else "" for missing in undefined],
        }
    )
