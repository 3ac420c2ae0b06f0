"""A container asked for by name is told from a layer, in one sentence wherever parameters are wanted."""

import pytest
import torch
from torch import nn

from gradscope.gradients.own_parameters import without_own_parameters
from gradscope.gradients.signal_to_noise import signal_to_noise
from gradscope.gradients.tangent_kernels import tangent_kernels
from gradscope.problem import Problem
from gradscope.studies.frames import where
from gradscope.studies.gradient_agreement import gradient_agreement


def nested() -> Problem:
    inner = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 3)))
    net = nn.Sequential(inner, nn.Sequential(nn.Sequential(nn.Linear(3, 2))))
    return Problem(net, (torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 2))


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ("0", "'0' is a container, it has no parameters of its own: write at='0.*' for"),
        ("1", "write at='1.**' for"),
        ("", "The network itself is a container, it has no parameters of its own: write at='**' for"),
        ("0.1", "'0.1' has no parameters, nor has anything inside it."),
    ],
)
def test_a_container_is_named_with_what_to_write(at, told):
    problem = nested()
    assert told in without_own_parameters(problem, at)
    for read in (signal_to_noise, tangent_kernels):
        with pytest.raises(ValueError) as refused:
            read(problem, at=at)
        assert told in str(refused.value)


@pytest.mark.parametrize("at", [None, "0.*", "**", ["0", "0.0"]])
def test_where_a_site_has_parameters_nothing_is_said(at):
    assert without_own_parameters(nested(), at) == ""


def test_what_is_suggested_works():
    assert set(signal_to_noise(nested(), at="0.*")) == {"0.0"}
    assert set(signal_to_noise(nested(), at="1.**")) == {"1.0.0"}


def test_agreement_has_rows_of_all_parameters_that_say_why():
    rows = where(gradient_agreement(nested(), at="0"), site="all parameters")
    assert len(rows) and set(rows["status"]) == {"skipped"} and set(rows["batches"]) == {"all"}
    assert rows["reason"].str.contains("write at='0.*'", regex=False).all()


def test_frozen_parameters_have_kernels_and_are_not_blamed():
    problem = nested()
    problem.model.requires_grad_(False)
    kernel = tangent_kernels(problem, at="0.0")["0.0"]
    assert float(kernel.trace()) > 0
