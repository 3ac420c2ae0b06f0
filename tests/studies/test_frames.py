"""What claims are made of: an undefined value is never left out unsaid, and a share of a rise needs a rise."""

import math

import numpy as np
import pandas as pd

from gradscope.studies.frames import largest_step, means_over_draws, per_seed, trend


def test_a_trend_is_spearmans_and_undefined_as_soon_as_one_value_is():
    across, values = pd.Series([1, 2, 3, 4]), pd.Series([1.0, 4.0, 9.0, 8.0])
    assert abs(trend(across, values) - (1 - 6 * 2 / (4 * 15))) < 1e-12
    assert math.isnan(trend(across, values.where(values != 9.0)))


def test_the_largest_step_is_a_share_of_the_rise():
    means = pd.DataFrame([[0.1, 0.2, 0.5], [0.3, 0.9, 0.2], [0.3, 0.3, 0.3], [0.1, np.nan, 0.5]])
    steps = largest_step(means)
    assert abs(steps[0] - 0.75) < 1e-12
    # It falls in the end, does not move, or is undefined somewhere: there is no share.
    assert steps[1:].isna().all()


def test_one_undefined_draw_makes_its_mean_undefined():
    rows = pd.DataFrame(
        {"seed": [0, 0, 1, 1], "swaps": [1, 1, 1, 1], "value": [0.1, 0.3, 0.2, np.nan], "quantity": "error"}
    )
    means = means_over_draws(rows, "swaps")
    assert abs(means.loc[0, 1] - 0.2) < 1e-12 and math.isnan(means.loc[1, 1])
    assert math.isnan(per_seed(rows, quantity="error")[1])
