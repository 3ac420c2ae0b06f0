"""Condition numbers of closed-form spectra: those that dense Hessians are measured by."""

import math

import numpy as np
import pytest

import gradscope as gs
from gradscope.theory import (
    conditioning_overlay,
    higher_shortcut_spectrum,
    percentile_condition_number,
    residual_correlation_matrix,
    two_shortcut_condition_number,
    two_shortcut_spectrum,
)
from tests.theory.at_zero import inputs, problem, shortcut_net, targets


def test_values_are_those_of_the_measured_condition_numbers():
    x = inputs(4)
    y = targets(x)
    G = residual_correlation_matrix(x, y)
    predicted = two_shortcut_spectrum(G, 3, 2)
    with gs.hessian(problem(shortcut_net(4, 2, 3), x, y), check="none") as operator:
        for definition, percentile in (("extreme_ratio", 0), ("percentile_10", 10)):
            measured = gs.condition_number(operator, definition)["value"].item()
            assert percentile_condition_number(predicted, percentile) == pytest.approx(measured, rel=1e-11)
    assert percentile_condition_number(predicted, 0) == pytest.approx(two_shortcut_condition_number(G))


def test_percentile_is_linear_between_order_statistics():
    assert percentile_condition_number([-1, 2, -3, 4], 0) == 4
    # Position 0.1 * 3 = 0.3 between 1 and 2.
    assert percentile_condition_number([-1, 2, -3, 4]) == pytest.approx(4 / 1.3)
    assert percentile_condition_number([5, -5, 5], 100) == 1
    assert percentile_condition_number([0, 1, 2], 0) == math.inf
    assert percentile_condition_number([1e-17, 1, 2], 0) == math.inf


def test_overlay_is_the_frame_that_the_figure_draws():
    x = inputs(3)
    G = residual_correlation_matrix(x, targets(x))
    spectra = {layers: two_shortcut_spectrum(G, layers // 2, 3) for layers in (2, 6)}
    frame = conditioning_overlay(spectra, "singular values of G")
    assert list(frame.columns) == [
        "layers", "quantity", "definition", "unit", "value", "law", "status", "reason",
    ]  # fmt: skip
    known = frame.set_index(["layers", "quantity"])["value"]
    assert known[2, "lambda_max"] == known[6, "lambda_max"] == -known[2, "lambda_min"]
    assert known[6, "share_negative"] == 0.5
    ratios = frame[frame["definition"] == "percentile_10"]
    assert ratios["value"].tolist() == [percentile_condition_number(spectra[2])] * 2
    extreme = conditioning_overlay(spectra, "singular values of G", definition="extreme_ratio")
    assert extreme["value"].iloc[0] == percentile_condition_number(spectra[2], 0)
    figure = gs.figures.condition_against_depth(
        frame.assign(network="2-shortcut", seed=0), frame.assign(network="2-shortcut")
    )
    drawn = [
        line
        for axis in figure.axes
        for line in axis.get_lines()
        if "singular values" in str(line.get_label())
    ]
    assert drawn[0].get_ydata().tolist() == ratios["value"].tolist()


def test_a_flat_start_has_no_condition_number():
    frame = conditioning_overlay({3: higher_shortcut_spectrum(2, 1, 3)}, "zero")
    ratios = frame[frame["quantity"] == "condition_number"]
    assert ratios["value"].isna().all()
    assert set(ratios["status"]) == {"undefined"}
    assert set(ratios["reason"]) == {"all eigenvalues are zero"}
    assert set(frame["value"].dropna()) == {0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: percentile_condition_number(np.zeros(3)), "All eigenvalues are zero"),
        (lambda: percentile_condition_number(np.eye(2)), r"\[P\], got shape \[2, 2\]"),
        (lambda: percentile_condition_number([1, np.nan]), "finite vector"),
        (lambda: percentile_condition_number([1, 2], 101), r"percentile must be in \[0, 100\]"),
        (lambda: conditioning_overlay({}, "none"), "one number of layers or more"),
        (lambda: conditioning_overlay({1: [1.0]}, "", definition="ratio"), "percentile_10, extreme_ratio"),
        (lambda: conditioning_overlay({0: [1.0]}, "none"), "whole numbers of at least 1"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
