"""A small report: one claim, one picture, one table."""

import pandas as pd
import pytest
from matplotlib.figure import Figure

from gradscope.report import Claim, Criterion, Picture, Section, verdict, verdict_table


def make_claim(kind="between", **bounds):
    return Claim(
        id="S1",
        part="plain",
        source="Balduzzi et al. 2017, arXiv:1702.08591",
        claim="gradient correlation halves per layer",
        prediction="log2 R falls by 1 per layer",
        statistic="slope of log2 R against depth",
        criterion=Criterion(kind, **bounds),
    )


def make_figure(words="layers"):
    figure = Figure(figsize=(3, 2))
    axis = figure.subplots()
    axis.plot([1, 2, 3], [3, 1, 2], "o-", label=words)
    axis.set_xlabel(words)
    axis.set_title(words)
    return figure


def make_section(name="shattering", words="plain words", **more):
    row = verdict(make_claim(low=-1.1, high=-0.9), [-1.0, -1.01, -0.99, -1.02, -0.98], settings=words)
    row |= {"claim": words, "part": words, "source": words, "prediction": words, "reason": words}
    return Section(
        **{
            "name": name,
            "title": words,
            "question": words,
            "reading": f"{words}\n\n{words}",
            "verdicts": verdict_table([row]),
            "pictures": (
                Picture("first", make_figure(words), words, words),
                Picture("second", make_figure(words), words, words),
            ),
            "tables": {"readings": pd.DataFrame({words: [words, words], "value": [1 / 3, float("nan")]})},
            **more,
        }
    )


@pytest.fixture
def section():
    return make_section


@pytest.fixture
def claim_of():
    return make_claim


@pytest.fixture
def figure_of():
    return make_figure
