"""The verb `paths`: through how many branches, and which, the gradient of a network flows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradscope import figures
from gradscope.cli.measure import Asked, kept, prepared
from gradscope.problem import Problem
from gradscope.studies.block_participation import block_participation
from gradscope.studies.graded_path_spectrum import graded_path_spectrum
from gradscope.studies.path_moments import path_moments
from gradscope.studies.path_spectrum import path_spectrum

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


HEADLINE = ("path_count", "signed_share", "coherent_norm", "rms_path_norm", "mean_path_norm", "coherence")


@dataclass(frozen=True)
class Splitting:
    """What `gradscope paths` is asked besides: options of the studies, as typed."""

    draws: int
    sampled: int
    lengths: str
    source: str
    norms: str
    by: str
    junctions: str

    def longest(self) -> int | str:
        """The longest length, or `all`."""
        if self.lengths == "all":
            return "all"
        try:
            return int(self.lengths)
        except ValueError:
            raise ValueError(
                f"--lengths takes a whole number or the word all, got {self.lengths!r}."
            ) from None


def paths(asked: Asked, splitting: Splitting) -> None:
    """`gradscope paths`: mean length, spectrum, participation of blocks, and a split by groups if asked for."""
    import pandas as pd

    lengths = splitting.longest()
    model, data = prepared(asked)
    problem = Problem(model, asked.some(data.test))
    shared: dict[str, Any] = {"source": splitting.source, "norms": splitting.norms}
    if splitting.junctions:
        shared["junctions"] = splitting.junctions
    spectrum = path_spectrum(
        problem,
        lengths=lengths,
        draws=splitting.draws,
        sampled=splitting.sampled,
        seed=asked.seed,
        **shared,
    )
    moments, participation = path_moments(problem, **shared), block_participation(problem, **shared)
    frames = {"path_moments": moments, "path_spectrum": spectrum, "block_participation": participation}
    state = "trained" if asked.epochs or asked.weights else "as built"
    pictures: dict[str, Figure] = {
        "spectrum": figures.path_lengths(spectrum.assign(state=state)),
        "participation": figures.block_participation(participation),
    }
    if splitting.sampled:
        pictures["triptych"] = figures.path_triptych(spectrum.assign(state=state))
    if splitting.by:
        groups = frames["graded_path_spectrum"] = graded_path_spectrum(problem, by=splitting.by, **shared)
        if len(_groups(groups)) > 1:
            pictures["groups"] = figures.bigraded_spectrum(groups, kinds=_groups(groups)[:2])
        print(_by_group(groups, splitting.by))
    # One file, in which the study tells apart rows of one quantity.
    frame = pd.concat([part.assign(study=name) for name, part in frames.items()], ignore_index=True)
    frame = frame[["study", *(name for name in frame.columns if name != "study")]]
    options = {
        **{"draws": splitting.draws, "sampled": splitting.sampled, "lengths": splitting.lengths},
        **{"source": splitting.source, "norms": splitting.norms, "by": splitting.by},
        "junctions": splitting.junctions,
    }
    mean = moments.set_index("quantity")["value"]["mean_path_length"]
    print(f"mean path length {mean:.3g} of at most {moments['junctions'].iloc[0]} branches")
    kept(asked, frame, data, options, _by_length(spectrum), **pictures)


def _groups(groups: "pd.DataFrame") -> list[str]:
    return [name.removeprefix("length_") for name in groups.columns if name.startswith("length_")]


def _by_group(groups: "pd.DataFrame", by: str) -> str:
    """The mean number of branches crossed in each group, as a line."""
    shares = groups[groups["quantity"] == "signed_share"]
    names = _groups(groups)
    if len(names) == 1:
        return f"by {by}: all branches are of one group, {names[0]}"
    means = {name: float((shares["value"] * shares[f"length_{name}"]).sum(skipna=False)) for name in names}
    return f"by {by}, mean number of branches crossed: " + ", ".join(f"{k} {v:.3g}" for k, v in means.items())


def _by_length(spectrum: "pd.DataFrame") -> "pd.DataFrame":
    """The headline quantities, one row a path length."""
    wide = spectrum.pivot(index="path_length", columns="quantity", values="value")
    return wide[[name for name in HEADLINE if name in wide]].reset_index()
