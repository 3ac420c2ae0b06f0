"""`gradscope shattering`: do the gradients of different examples agree, and do they arrive at all?"""

from typing import TYPE_CHECKING

from gradscope import figures
from gradscope.cli.measure import Asked, kept, prepared
from gradscope.problem import Problem
from gradscope.studies.flow_reading import flow_reading
from gradscope.studies.frames import where
from gradscope.studies.gradient_agreement import gradient_agreement
from gradscope.studies.gradient_correlation import THEORY, gradient_correlation
from gradscope.studies.gradient_flow import gradient_flow
from gradscope.studies.shattering.twin import TWIN
from gradscope.studies.shattering_reading import shattering_reading

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

DRAWN = {"correlation_R": "as given", f"{TWIN}correlation_R": "skips cut", THEORY: "theory"}


SOURCES = ("output", "logit", "loss")


def shattering(asked: Asked, source: str, grams: bool) -> None:
    """Gradient correlation with twin and theory, gradient flow, and what the layers' Gram matrices say if asked for."""
    import pandas as pd

    if source not in SOURCES:
        raise ValueError(f"--source is one of {', '.join(SOURCES)}, got {source!r}.")
    model, data = prepared(asked, labels=source != "output" or grams)
    problem = Problem(model, asked.some(data.test))
    correlation = gradient_correlation(problem, source=source)
    flow = gradient_flow(problem, source=source)
    frames = {"gradient_correlation": correlation, "gradient_flow": flow}
    pictures: dict[str, Figure] = {"correlation": _correlation(correlation)}
    pictures["flow"] = figures.gradient_flow(flow.assign(family=asked.model))
    if grams:
        agreement = frames["gradient_agreement"] = gradient_agreement(problem, source=source, seed=asked.seed)
        parameters = where(agreement, gradient="parameter")
        pictures["agreement"] = figures.agreement(parameters.assign(family=asked.model))
    # One file, in which the study tells apart rows of one quantity.
    frame = pd.concat([part.assign(study=name) for name, part in frames.items()], ignore_index=True)
    frame = frame[["study", *(name for name in frame.columns if name != "study")]]
    print(shattering_reading(correlation))
    print(flow_reading(flow))
    if grams and source != "loss":
        print(
            f"The noise scale and its like are of the {source}'s gradients: --source loss asks about training."
        )
    kept(asked, frame, data, {"source": source, "grams": grams}, _by_site(correlation), **pictures)


def _correlation(frame: "pd.DataFrame") -> "Figure":
    drawn = where(frame, quantity=list(DRAWN))
    return figures.correlation_against_depth(
        drawn.assign(family=drawn["quantity"].map(DRAWN), quantity="correlation_R"),
        x_scale="linear",
        y_scale="linear",
        x_label="layer (order of running; 0 is the input)",
    )


def _by_site(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The correlations, one row a site."""
    first = frame[frame["call"] == 0]
    wide = first.pivot_table(
        index=["depth", "site"], columns="quantity", values="value", dropna=False, sort=False
    )
    wide = wide[[name for name in (*DRAWN, "mean_cosine") if name in wide]]
    return wide.dropna(how="all").reset_index().sort_values("depth")
