"""Every row of docs/limitations.md is true: a function for each, under the name in its first column."""

import re

import pytest
import torch
from documents import ROOT

pytest.register_assert_rewrite("limits")

from limits import curvature, junctions, machines, measured, paths, seen, single  # noqa: E402, F401
from limits.register import CHECKS  # noqa: E402

UNTRIED = ["GPUs, `torchrun`, Windows"]


def rows() -> list[str]:
    lines = (ROOT / "docs" / "limitations.md").read_text(encoding="utf-8").splitlines()
    told = [re.split(r"(?<!\\)\|", line)[1].strip() for line in lines if line.startswith("| ")]
    return [context for context in told if context != "context"]


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.filterwarnings("ignore")  # torch warns of tracing, scripting and quantising at length
@pytest.mark.parametrize("context", [context for context in rows() if context not in UNTRIED])
def test_the_row_is_true(context):
    CHECKS[context]()


def test_no_check_is_without_its_row():
    assert sorted([*CHECKS, *UNTRIED]) == sorted(rows())
