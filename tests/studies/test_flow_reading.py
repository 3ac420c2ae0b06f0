"""What is said of a frame of gradient flow, sentence by sentence."""

import math

import pandas as pd
import pytest
import torch
from cases import CASES

from gradscope.nets import build
from gradscope.problem import Problem
from gradscope.studies.flow_reading import flow_reading
from gradscope.studies.frames import where
from gradscope.studies.gradient_flow import gradient_flow


def row(quantity: str, value: float, half: float = 0.0, n: int = 20, **more) -> dict:
    return {
        **{"quantity": quantity, "value": value, "low": value - half, "high": value + half, "n": n},
        **{"site": "a", "depth": 0, "call": 0, "status": "ok", "reason": "fitted"},
        **more,
    }


def fit(rate: float, half: float, span: int = 19) -> list[dict]:
    """Rows of a fit over 20 layers."""
    low, high = math.exp((rate - half) * span), math.exp((rate + half) * span)
    over = row("gradient_growth_over_fit", math.exp(rate * span)) | {"low": low, "high": high}
    return [row("gradient_growth_rate", rate, half), over]


@pytest.mark.parametrize(
    ("rate", "half", "word", "over"),
    [
        (-0.5, 0.1, "Vanishes", "x 1e-4"),
        (0.5, 0.1, "Explodes", "x 1e4"),
        (0.0, 0.1, "Healthy", "x 1,"),
        (-0.1, 0.05, "Healthy", "x 0.15"),
        (0.1, 0.5, "Undecided", "for one of x 1e5"),
        (-0.1, 0.5, "Undecided", "for one of x 1e-5"),
    ],
)
def test_the_reading_gives_its_reason_and_says_nothing_beyond_the_fit(rate, half, word, over):
    frame = pd.DataFrame(fit(rate, half))
    told = flow_reading(frame)
    assert told.startswith(word) and f"x {math.exp(rate):.3g} a layer" in told and over in told
    ends = [row("output_gradient_log10_norm", log, site=f"s{log}") for log in (2.0, 9.0, 1.0)]
    assert "at s2.0, the first output, it is x 10 that at s1.0" in flow_reading(
        pd.DataFrame([*frame.to_dict("records"), *ends])
    )
    stuck = [row("dead_fraction", 0.4), row("always_on_fraction", 0.3), row("dead_fraction", 0.1, site="b")]
    told = flow_reading(pd.DataFrame([*frame.to_dict("records"), *stuck]))
    assert "At 1 of 2 rectifiers more than half of the units do not switch" in told
    assert "at most 70%, at a" in told


def test_a_fit_to_part_of_the_network_is_told_as_that_and_the_measured_ratio_beside_it():
    net = build("resnet", depth=14, width=2, classes=3, seed=0)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    frame = gradient_flow(Problem(net, (x, torch.tensor([0, 1, 2, 0]))))
    rate = where(frame, quantity="gradient_growth_rate").iloc[0]
    assert len(where(frame, quantity="fitted_gradient_log10_norm")) == rate["n"] == 6
    over = where(frame, quantity="gradient_growth_over_fit")["value"].item()
    assert over == pytest.approx(math.exp(3 * rate["value"])), "two blocks in each of three stages"
    norms = where(frame, quantity="output_gradient_log10_norm")["value"]
    assert f"it is x {10 ** (norms.iloc[0] - norms.iloc[-1]):.3g} that at" in flow_reading(frame)


def test_a_reading_needs_one_flow():
    frame = gradient_flow(CASES["plain"]())
    assert flow_reading(frame).startswith("No trend")
    with pytest.raises(ValueError, match="with one row of gradient_growth_rate; this one has 2"):
        flow_reading(pd.concat([frame, frame]))
    with pytest.raises(ValueError, match="lacks the columns"):
        flow_reading(pd.DataFrame({"value": [1.0]}))
