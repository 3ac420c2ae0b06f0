"""Whatever a user gets wrong ends in one clear line, a non-zero exit, and nothing half-written."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_reports import ANALYSES, few_digits, tiny_analyses

from gradscope.cli import main
from gradscope.data import DataSet
from gradscope.studies import settings as settings_module

DATA = few_digits()
SMALL = "resnet:depth=8,width=4"
BAD_NETWORKS = """
import torch
from torch import nn

def nothing():
    return None

def demanding(width):
    return nn.Linear(width, 1)

def breaking():
    return {}["layers"]

def three_outputs():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def not_a_number():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.constant_(network[1].weight, float("nan"))
    return network

a_number = 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(settings_module, "digits", lambda: DATA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "bad_networks.py").write_text(BAD_NETWORKS)
    (tmp_path / "a_file").write_text("a file")
    save_file({"x": torch.zeros(1)}, tmp_path / "others.safetensors")
    (tmp_path / "corrupt.safetensors").write_bytes(b"\xff" * 64)
    for name, size in {"cut": 5000, "empty": 0, "whole": 3073}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "data_batch_1.bin").write_bytes(bytes(size))
        (tmp_path / name / "test_batch.bin").write_bytes(bytes(3073))
    (tmp_path / "whole" / "test_batch.bin").unlink()


def files() -> set[str]:
    return {p.as_posix() for p in Path().rglob("*") if "__pycache__" not in p.as_posix()}


def on(model: str, *options: str, verb: str = "shattering") -> list[str]:
    return [verb, "--model", model, "--examples", "4", "--out", "out", *options]


def report(*options: str) -> list[str]:
    return ["report", "--out", "out", "--workers", "1", *options]


def own(name: str, *options: str, verb: str = "shattering") -> list[str]:
    return on(f"bad_networks:{name}", *options, verb=verb)


WRONG = {
    "unknown network": (on("resnett"), "no network called 'resnett'. Known are linear_shortcut,"),
    "unknown network with options": (on("alexnet:depth=8"), "no network called 'alexnet:depth=8'"),
    "unknown option": (on("resnet:dept=8"), "resnet has no option 'dept'.*Did you mean 'depth'"),
    "option without value": (on("resnet:depth"), "written name=value, separated by commas, got 'depth'"),
    "option of a wrong kind": (on("resnet:depth=deep"), "depth is a whole number.*got 'deep'"),
    "missing option": (on("plain_mlp"), "plain_mlp needs the option 'depth'"),
    "seed among the options": (on("resnet:seed=1"), "write --seed"),
    "depth that is not 6n+2": (on("resnet:depth=21"), r"6n \+ 2 .*got 21. Take 20 or 26"),
    "network that does not fit": (on("resnet:channels=3"), r"does not take images \[1, 8, 8\] of digits"),
    "module that is not there": (on("no_such_module:f"), "cannot be imported.*package.module:factory"),
    "factory that is not there": (own("nowhere"), "cannot be imported.*has no attribute 'nowhere'"),
    "factory that is no function": (own("a_number"), "raised TypeError"),
    "factory that wants arguments": (own("demanding"), "raised TypeError: demanding.. missing 1"),
    "factory that breaks": (own("breaking"), "raised KeyError: 'layers'"),
    "factory that gives no module": (own("nothing"), "returned NoneType, but an nn.Module is needed"),
    "too few outputs": (own("three_outputs", verb="curvature"), r"gives \[3\] numbers.*10 classes"),
    "NaN weights": (own("not_a_number", verb="curvature"), "finite loss and gradient; the loss is nan"),
    "NaN loss": (own("not_a_number", "--epochs", "1"), "The loss is nan at step 0"),
    "loss that explodes": (on("residual_mlp:depth=24,width=32", "--epochs", "1"), "The loss is .* at step"),
    "no skips": (on("vgg:depth=4", verb="paths"), "No residual addition"),
    "sets that are no numbers": (on(SMALL, "--sets", "1,x", verb="lesions"), "separated by commas.*'1,x'"),
    "sets too large": (on(SMALL, "--sets", "9", verb="lesions"), r"numbers from 1 to 3 .*got sets \[9\]"),
    "sets of a plain network": (
        on("plain:depth=8", "--sets", "1", verb="lesions"),
        "Leave one of the two out",
    ),
    "greedy removal of a plain network": (
        on("plain:depth=8", "--greedy", "1", verb="lesions"),
        "Leave one of the two out",
    ),
    "more branches than there are": (on(SMALL, "--greedy", "4", verb="lesions"), r"from 0 to 3 .* got 4"),
    "unknown metric": (
        on(SMALL, "--metric", "accuracy", verb="lesions"),
        "error, loss, margin, kl.*'accuracy'",
    ),
    "unknown source": (
        on(SMALL, "--source", "weights"),
        "--source is one of output, logit, loss, got 'weights'",
    ),
    "no example": (
        on(SMALL, "--examples", "0"),
        "Invalid value for '--examples'.*greater than or equal to 2",
    ),
    "no weights": (on(SMALL, "--weights", "nowhere.safetensors"), "nowhere.safetensors"),
    "corrupt weights": (on(SMALL, "--weights", "corrupt.safetensors"), "does not hold this model's weights"),
    "weights of another network": (
        on(SMALL, "--weights", "others.safetensors"),
        "does not hold.*Missing key",
    ),
    "unknown data": (on(SMALL, "--data", "mnist"), "data is one of digits, cifar10, got 'mnist'"),
    "no data folder named": (report("--data", "cifar10"), "say where.*--data-root DIR"),
    "data folder missing": (
        report("--data", "cifar10", "--data-root", "gone"),
        "reads a folder, and gone is none",
    ),
    "test file missing": (
        report("--data", "cifar10", "--data-root", "whole"),
        "There is no test_batch.bin in whole",
    ),
    "cut data file": (
        report("--data", "cifar10", "--data-root", "cut"),
        "not a whole number.*1927 left over",
    ),
    "empty data file": (
        report("--data", "cifar10", "--data-root", "empty"),
        "not a whole number.*it has 0 bytes",
    ),
    "unknown preset": (report("--preset", "huge"), "preset is one of quick, standard, got 'huge'"),
    "example in a folder in use": (
        report("--example", "cut"),
        "replaces the whole folder cut, and data_batch_1.bin",
    ),
    "no seeds": (report("--seeds", "0"), "Invalid value for '--seeds'"),
    "output below a file": (report("--out", "a_file/out"), r"Cannot write to a_file/out \(Not a directory\)"),
    "measurement below a file": (on(SMALL, "--out", "a_file/out"), r"Cannot write to a_file/out .*--out"),
    "output that is a file": (report("--out", "a_file"), r"Cannot write to a_file \(File exists\)"),
    "unknown verb": (["shatter"], "No such command 'shatter'.*See gradscope --help"),
    "unknown flag": (on(SMALL, "--modle", "x"), "No such option: --modle.*See gradscope shattering --help"),
    "no model": (["paths"], "Missing option '--model'. See gradscope paths --help"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_leaves_nothing(case, capsys):
    arguments, sentence = WRONG[case]
    before = files()
    assert main(arguments) == 2
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if not line.startswith(("importing ", "training"))]
    assert len(lines) == 1 and lines[0].startswith("error: ") and not told.out
    assert re.search(sentence, lines[0]), lines[0]
    assert files() == before


def test_debugging_shows_where_it_happened(monkeypatch):
    monkeypatch.setenv("GRADSCOPE_DEBUG", "1")
    with pytest.raises(ValueError, match="no network called"):
        main(on("resnett"))


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch):
    def defect(*_: object, **__: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("gradscope.cli.shattering.gradient_correlation", defect)
    with pytest.raises(KeyError, match="ours"):
        main(on(SMALL))


def test_an_interruption_is_130(monkeypatch, capsys):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gradscope.cli.shattering.gradient_correlation", interrupted)
    before = files()
    assert main(on(SMALL)) == 130 and files() == before
    assert capsys.readouterr().err == "interrupted: nothing was written.\n"


def test_an_analysis_that_fails_leaves_the_old_report(tmp_path, monkeypatch, capsys):
    out = tmp_path / "report"
    out.mkdir()
    (out / "index.html").write_text("the old report")
    asked = ["report", "--preset", "tiny", "--seeds", "1", "--workers", "1", "--out", str(out)]
    nan = DATA.train[0].clone()
    nan[7] = float("nan")
    spoilt = DataSet("digits", (nan, DATA.train[1]), DATA.test, DATA.classes)
    with tiny_analyses():
        monkeypatch.setattr(settings_module, "digits", lambda: spoilt)
        monkeypatch.setattr("gradscope.cli.reporting.ANALYSES", ("lesions", "paths"))
        assert main(asked) == 2
    assert "error: The loss is nan at step" in capsys.readouterr().err.splitlines()[-1]
    kept = {path.name for path in out.iterdir()}
    assert kept == {"index.html", ".cache"} and (out / "index.html").read_text() == "the old report"


def test_a_run_that_fails_late_keeps_its_cells(tmp_path, monkeypatch, capsys):
    asked = ["report", "--preset", "tiny", "--seeds", "1", "--workers", "1", "--out", str(tmp_path / "out")]

    def full(_: object) -> None:
        raise OSError(28, "No space left on device", "figures")

    with tiny_analyses():
        monkeypatch.setattr(settings_module, "digits", lambda: DATA)
        monkeypatch.setattr("gradscope.cli.reporting.ANALYSES", ("paths", "conditioning"))
        monkeypatch.setattr(ANALYSES["conditioning"], "main", full)
        assert main(asked) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: figures: No space left on device."
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".cache"]
    assert len(list((tmp_path / "out" / ".cache" / "cells").glob("*.parquet"))) == 5
