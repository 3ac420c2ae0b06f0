"""Rows of docs/limitations.md on scale and machines."""

import tomllib

import pytest
import torch
from documents import ROOT

import gradscope as gs
from limits.register import row


@row("the report's claims")
def _():
    from analyses import lesions, paths, shattering

    for analysis in (lesions, paths, shattering):
        assert {name: preset.layers for name, preset in analysis.PRESETS.items()}["standard"] == 110
        assert analysis.PRESETS["quick"].layers <= 56
    assert lesions.PRESETS["quick"].layers == 56


@row("data")
def _():
    from gradscope.studies.settings import DATA

    assert DATA == ("digits", "cifar10")
    with pytest.raises(FileNotFoundError, match="folder"):
        gs.data.cifar10("there-is-none")


@row("thread count")
def _():
    kept = gs.report.provenance({}, seeds=[0], data=gs.data.digits())
    assert kept["threads"] == torch.get_num_threads()


@row("versions")
def _():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "torch>=2.10" in project["dependencies"] and project["requires-python"] == ">=3.11"
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
