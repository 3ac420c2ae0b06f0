"""What the figures of lesion studies show of a whole study's frame."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from gradscope import figures


def lines(figure) -> dict:
    """Drawn lines by label, the first of each."""
    found: dict = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return found


@pytest.fixture
def study(examples):
    return examples["greedy_removal"]()[0]


def test_rings_mark_what_survives_holm(study):
    ring = lines(figures.lesions(study))["differs from intact (Holm, 5 %)"]
    assert list(ring.get_xdata()) == [3, 7] and list(ring.get_ydata()) == [0.36, 0.36]
    assert ring.get_markerfacecolor() == "none"
    none = study.assign(p_holm=0.2)
    for frame in (none, study.drop(columns="p_holm")):
        assert "differs from intact (Holm, 5 %)" not in lines(figures.lesions(frame))


def test_a_ring_asks_for_every_seed(study):
    other = study.assign(p_holm=study["p_holm"].where(study["index"] != 7, 0.2), seed=1)
    both = figures.lesions(pd.concat([study.assign(seed=0), other]))
    assert list(lines(both)["differs from intact (Holm, 5 %)"].get_xdata()) == [3]


def test_differences_are_drawn_with_their_own_tests(study):
    figure = figures.lesions(study, quantity="error_difference")
    assert list(lines(figure)["differs from intact (Holm, 5 %)"].get_xdata()) == [3, 7]
    assert figure.axes[0].get_ylabel() == "error difference (share of images)"


def test_single_lesions_alone_are_drawn_of_a_whole_study(study):
    axis = figures.lesions(study).axes[0]
    assert sorted(x for line in axis.containers for x in line.lines[0].get_xdata()) == sorted(
        [*range(10)] * 2
    )


def test_sets_alone_are_drawn_of_a_whole_study(study):
    axis = figures.lesion_sets(study).axes[0]
    scattered = [drawn for drawn in axis.collections if isinstance(drawn, PathCollection)]
    places = np.concatenate([drawn.get_offsets()[:, 0] for drawn in scattered])
    assert set(np.round(places)) == {1, 4, 7, 10}
    assert {"intact network", "chance level"} <= set(lines(figures.lesion_sets(study)))


def test_greedy_points_and_the_median_of_sets(study):
    drawn = lines(figures.greedy_removal(study))
    points, *_ = drawn["stale: greedy"].lines
    assert list(points.get_xdata()) == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(
        points.get_ydata().astype(float), [0.05 + 0.01 * step**2 for step in range(1, 6)]
    )
    sets = study[(study["kind"] == "set") & (study["statistics"] == "stale")]
    median = drawn["stale: random sets, median and 95 %"]
    np.testing.assert_allclose(median.get_ydata(), sets.groupby("deleted")["value"].median())
    alone = figures.greedy_removal(study[study["kind"] != "set"])
    assert "stale: greedy" in lines(alone)


def test_groups_stand_side_by_side_with_their_sizes(study):
    axis = figures.lesion_groups(study).axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["identity (8)", "projection (2)"]
    stale, renewed = (bars.lines[0] for bars in axis.containers)
    np.testing.assert_allclose(stale.get_ydata().astype(float), [0.7, 0.5])
    np.testing.assert_allclose((renewed.get_xdata() - stale.get_xdata()).astype(float), 0.16)


def test_values_below_zero_stay_in_the_picture(study):
    lower = study.assign(value=study["value"] - 0.5, low=study["low"] - 0.5, high=study["high"] - 0.5)
    for draw in (figures.lesions, figures.lesion_sets, figures.lesion_groups, figures.greedy_removal):
        assert draw(lower).axes[0].get_ylim()[0] < -0.4
        assert draw(study).axes[0].get_ylim()[0] == 0


@pytest.mark.parametrize("figure", [figures.greedy_removal, figures.lesion_groups])
def test_a_frame_without_such_rows_is_refused(figure, study):
    with pytest.raises(ValueError, match=r"Measure them with lesion_study\(\.\.\., g"):
        figure(study[study["kind"] == "set"])


@pytest.mark.parametrize("name", ["lesions", "lesion_sets", "lesion_groups", "greedy_removal"])
def test_without_an_error_the_only_metric_is_drawn(name, study):
    figure = getattr(figures, name)
    other = study.assign(quantity=study["quantity"].str.replace("error", "kl"), unit="nat")
    assert figure(other).axes[0].get_ylabel() == "kl (nat)"
    assert "error" in figure(pd.concat([other, study])).axes[0].get_ylabel()
    third = study.assign(quantity=study["quantity"].str.replace("error", "loss"))
    with pytest.raises(ValueError, match=r"draws one metric, but the frame has \['kl', 'loss'\]"):
        figure(pd.concat([other, third]))
