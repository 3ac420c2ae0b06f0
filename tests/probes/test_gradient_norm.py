"""The probe against norms of gradients taken by autograd."""

import pytest
import torch
from networks import NETWORKS

from gradscope.probes import gradient_norm


@pytest.mark.parametrize("name", ["plain", "out-of-place", "pre-norm transformer"])
def test_readings_are_norms_of_the_outputs_gradients(name):
    specimen = NETWORKS[name]
    model, x, outputs = specimen.build(), specimen.inputs(), {}
    with gradient_norm(model) as readings:
        for site, module in model.named_modules():
            module.register_forward_hook(lambda m, a, output, site=site: outputs.update({site: output}))
        loss = model(x).square().sum()
        loss.backward(retain_graph=True)
    frame = readings.frame()
    for site, value in zip(frame["site"], frame["value"], strict=True):
        gradient = torch.autograd.grad(loss, outputs[site], retain_graph=True)[0]
        assert value == pytest.approx(float(sum(g**2 for g in gradient.flatten().tolist()) ** 0.5), rel=1e-12)
    assert set(frame["unit"]) == {"loss per output"}


def test_no_underflow_where_squares_of_float32_have_one():
    specimen = NETWORKS["plain"]
    model = specimen.build().float()
    with gradient_norm(model, at="4") as readings:
        (model(specimen.inputs().float()) * 1e-30).sum().backward()
    assert readings.frame()["value"][0] == pytest.approx(1e-30 * 12**0.5, rel=1e-5)


def test_one_reading_for_each_backward_pass():
    specimen = NETWORKS["plain"]
    model = specimen.build()
    with gradient_norm(model, at="4") as readings:
        for factor in (1, 3):
            (model(specimen.inputs()) * factor).sum().backward()
    frame = readings.frame()
    assert list(frame["call"]) == [0, 1]
    assert frame["value"][1] == pytest.approx(3 * frame["value"][0], rel=1e-12)
