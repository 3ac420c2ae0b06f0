"""The probe against gradients taken of one example at a time."""

import pytest
import torch
from networks import NETWORKS

from gradscope.probes import gradient_correlation


def slow_R(rows: torch.Tensor) -> float:
    gram = rows @ rows.T
    n = len(rows)
    return float((gram.sum() - gram.trace()) / (n - 1) / gram.trace())


@pytest.mark.parametrize("name", ["plain", "post-activation", "pre-norm transformer"])
def test_readings_are_those_of_examples_looked_at_alone(name):
    """In eval mode examples do not mix, so a batch of one gives the same gradient."""
    specimen = NETWORKS[name]
    model, x = specimen.build(), specimen.inputs(5)
    with gradient_correlation(model) as readings:
        model(x).square().sum().backward()
    rows: dict[str, list[torch.Tensor]] = {}

    def keep(site):
        def hook(module, arguments, output):
            copy = output.clone()
            copy.register_hook(lambda gradient: rows.setdefault(site, []).append(gradient.flatten()))
            return copy

        return hook

    for site, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_hook(keep(site))
    for example in x:
        model(example[None]).square().sum().backward()
    frame = readings.frame().set_index("site")
    assert set(frame.index) == set(rows)
    for site, gradients in rows.items():
        assert frame.loc[site, "value"] == pytest.approx(slow_R(torch.stack(gradients)), abs=1e-10)
    assert set(frame["quantity"]) == {"correlation_R"} and set(frame["unit"]) == {"1"}


def test_zero_gradients_are_undefined_not_shattered():
    specimen = NETWORKS["plain"]
    model = specimen.build()
    with gradient_correlation(model, at="0") as readings:
        (model(specimen.inputs()) * 0).sum().backward()
    row = readings.frame().iloc[0]
    assert row["status"] == "undefined" and row["reason"] == "correlation_R is not defined for what was read"


def test_vanishing_gradients_are_not_called_shattered():
    specimen = NETWORKS["plain"]
    values = []
    for scale in (1.0, 1e-30):
        model = specimen.build().float()
        with gradient_correlation(model, at="0") as readings:
            (model(specimen.inputs().float()) * scale).sum().backward()
        values.append(readings.frame()["value"][0])
    assert values[1] == pytest.approx(values[0], abs=1e-5)
