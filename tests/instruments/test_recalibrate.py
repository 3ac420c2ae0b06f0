"""Recalibrated statistics against means and variances over the calibration batches."""

import torch
from as_found import assert_as_found, snapshot
from torch import nn

from gradscope.instruments.recalibrate import recalibrated


def test_statistics_are_those_of_the_batches_with_equal_weight():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).double()
    model(torch.randn(9, 3, dtype=torch.float64))
    model.eval()
    batches = [torch.randn(n, 3, dtype=torch.float64) * n for n in (4, 7)]
    before = snapshot(model)
    with recalibrated(model, batches):
        assert not model[0].training
        torch.testing.assert_close(model[0].running_mean, sum(b.mean(0) for b in batches) / 2)
        torch.testing.assert_close(model[0].running_var, sum(b.var(0) for b in batches) / 2)
    assert_as_found(model, before)


def test_the_model_is_called_as_asked():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, *, x):
            return self.norm(x)

    model, x = Named(), torch.randn(8, 3) + 5
    with recalibrated(model, [{"x": x}], forward=lambda batch: model(**batch)):
        torch.testing.assert_close(model.norm.running_mean, x.mean(0))


def test_without_batch_norm_nothing_runs():
    with recalibrated(nn.Linear(2, 2), [torch.ones(1, 7)]):
        pass
