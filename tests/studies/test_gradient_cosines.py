"""The frame of cosines against loops over single examples."""

import numpy as np
import pytest
import torch
from as_found import assert_as_found, snapshot, used
from cases import CASES

from gradscope.problem import Problem
from gradscope.studies.gradient_cosines import gradient_cosines


def per_example(problem: Problem, layer: str) -> np.ndarray:
    """Gradients of one layer's parameters, one example at a time."""
    x, y = next(problem.batches())
    own = list(problem.model.get_submodule(layer).parameters())
    rows = []
    for i in range(len(x)):
        gradients = torch.autograd.grad(problem.losses(x[i : i + 1], y[i : i + 1]).sum(), own)
        rows.append(torch.cat([g.flatten() for g in gradients]).numpy())
    return np.stack(rows)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_cosines_as_a_frame():
    problem = CASES["plain"]()
    frame = gradient_cosines(problem, "2")
    g, labels = per_example(problem, "2"), next(problem.batches())[1].tolist()
    assert len(frame) == 49 and set(frame["quantity"]) == {"gradient_cosine"}
    for row in frame.itertuples():
        assert row.value == pytest.approx(cosine(g[row.i], g[row.j]), abs=1e-12)
        assert (row[frame.columns.get_loc("class") + 1], row.other_class) == (labels[row.i], labels[row.j])
    with pytest.raises(ValueError, match=r"matches 0, 1, 2, 3, 4\. Name one"):
        gradient_cosines(problem, "*")
    with pytest.raises(ValueError, match="gradient is one of parameter"):
        gradient_cosines(problem, "2", gradient="weight")
    with pytest.raises(ValueError, match="forward Gram of '0' is not there"):
        gradient_cosines(CASES["convolution"](), "0", gradient="forward")


def test_a_zero_gradient_has_no_cosine_and_says_so():
    problem = CASES["in-place ReLU"]()
    with torch.no_grad():
        problem.model[0].bias.fill_(-100.0)
    frame = gradient_cosines(problem, "0")
    assert set(frame["status"]) == {"undefined"} and frame["value"].isna().all()
    assert set(frame["reason"]) == {"a gradient is zero or not finite"}


def test_the_model_is_as_found():
    problem = CASES["batch norm frozen"]()
    used(problem.model)
    before = snapshot(problem.model)
    gradient_cosines(problem, "0")
    assert_as_found(problem.model, before)
