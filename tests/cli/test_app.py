"""What the command says of itself, and what it says before a long run."""

import dataclasses
import re

import pytest
from tiny_reports import few_digits, tiny_analyses

from analyses import (
    conditioning,
    effective_paths,
    ensemble_depth,
    lesions,
    looks_linear,
    paths,
    refinement,
    reordering,
    smoothness,
)
from gradscope.cli import main
from gradscope.cli.cost import estimated_minutes
from gradscope.data import DataSet
from gradscope.nets import names
from gradscope.studies import settings as settings_module
from gradscope.studies.settings import Settings
from gradscope.version import __version__

VERBS = ["report", "shattering", "lesions", "paths", "curvature", "nets"]


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gradscope {__version__}\n"


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(re.search(rf"\b{verb}\b", told) for verb in VERBS)


def test_no_verb_is_help_and_a_wrong_command(capsys):
    assert main([]) == 2
    assert "Usage: gradscope" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    assert main([verb, "--help"]) == 0
    told = capsys.readouterr().out
    assert f"gradscope {verb}" in told and len(told.splitlines()) > 5


def test_nets_lists_every_network_with_its_options(capsys):
    assert main(["nets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("(")[0] for line in lines[::2]] == names()
    assert "depth: int = 20" in lines[2 * names().index("resnet")]
    assert all(line.startswith("    ") and line.endswith(".") for line in lines[1::2])


def test_a_larger_data_set_says_its_cost_first(tmp_path, monkeypatch, capsys):
    few = few_digits()
    folder = tmp_path / "cifar"
    larger = DataSet("cifar10", (few.train[0].expand(-1, 3, 8, 8), few.train[1]), few.test, 10)
    asked = ["report", "--preset", "tiny", "--data", "cifar10", "--data-root", str(folder), "--seeds", "2"]
    with tiny_analyses():
        monkeypatch.setattr(settings_module, "cifar10", lambda root: larger)
        monkeypatch.setattr("gradscope.cli.reporting.ANALYSES", ())
        monkeypatch.setattr("gradscope.cli.reporting.render", lambda *_, **__: tmp_path / "index.html")
        assert main([*asked, "--out", str(tmp_path)]) == 0
        first = capsys.readouterr().err.splitlines()[0]
        assert re.match(r"estimated cost: about \d+ min .* for preset tiny on cifar10 with 2 seeds", first)


def test_the_estimate_grows_with_the_work(monkeypatch):
    monkeypatch.setattr("gradscope.cli.cost._seconds_a_step", lambda layers, data: 0.64)
    few, settings = few_digits(), Settings(seeds=(0, 1), workers=1)
    sizes = {
        "looks_linear": looks_linear.Preset(layers=(8,), epochs=1),
        "lesions": lesions.Preset(layers=8, epochs=2, sets=(1,), subsets=1, calibration=64, images=64),
        "reordering": reordering.Preset(layers=8, swaps=(1,), draws=1, calibration=64, images=64),
        "refinement": refinement.Preset(layers=8, blocks=(3,), images=32),
        "paths": paths.Preset(layers=8, images=8, draws=1, sampled=0),
        "effective_paths": effective_paths.Preset(layers=8, images=32, shallow=8, deep=8, multi_epochs=1),
        "ensemble_depth": ensemble_depth.Preset(layers=8, epochs=1),
        "conditioning": conditioning.Preset(trained_layers=8, images=10, steps=1),
        "smoothness": smoothness.Preset(layers=8, epochs=1, images=10, steps=1),
    }

    def more(name, **changed):
        larger = sizes | {name: dataclasses.replace(sizes[name], **changed)}
        return 60 * (estimated_minutes(settings, larger, few) - estimated_minutes(settings, sizes, few))

    # 0.01 s an image: two epochs more of 4.5 networks, for two seeds.
    assert more("lesions", epochs=4) == pytest.approx(2 * 4.5 * 0.01 * len(few.train[0]) * 2)
    # One epoch more of six kinds of networks.
    assert more("looks_linear", epochs=2) == pytest.approx(6 * 0.01 * len(few.train[0]) * 2)
    # One epoch more of one and of two branches a block, at two depths: three networks' price each.
    assert more("effective_paths", multi_epochs=2) == pytest.approx(6 * 0.01 * len(few.train[0]) * 2)
    # Two draws more of all lengths, half a pass a block, of two networks; a backward is two forwards.
    assert more("paths", draws=3) == pytest.approx(2 * 2 * 3 / 2 * 2 * 8 * 0.01 / 3 * 2)
    # ResNet-14 besides, 14 / 8 of the price.
    assert more("refinement", blocks=(3, 6)) == pytest.approx(2 * 14 / 8 * 0.01 * len(few.train[0]) * 2)
    # Two draws more of one number of swaps and of random orders: 64 images judged twice and calibrated once.
    assert more("reordering", draws=3) == pytest.approx(2 * 2 * 2 * 3 * 64 * 0.01 / 3)
    # Twelve products of two and a half gradients on ten images more.
    assert more("conditioning", images=20) == pytest.approx(12 * 2.5 * 10 * 0.01)
    # Six products of eight networks in each of two seeds; one epoch more of four.
    assert more("smoothness", images=20) == pytest.approx(8 * 6 * 2.5 * 10 * 0.01 * 2)
    assert more("smoothness", epochs=2) == pytest.approx(4 * 0.01 * len(few.train[0]) * 2)


def test_the_embedded_digits_need_no_warning(tmp_path, monkeypatch, capsys):
    with tiny_analyses():
        monkeypatch.setattr("gradscope.cli.reporting.ANALYSES", ())
        monkeypatch.setattr("gradscope.cli.reporting.render", lambda *_, **__: tmp_path / "index.html")
        assert main(["report", "--preset", "tiny", "--out", str(tmp_path)]) == 0
    assert "cost" not in capsys.readouterr().err
