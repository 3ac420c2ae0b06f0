"""The README keeps its word: every block runs, every link leads somewhere, every measurement is in the table."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from documents import ROOT, blocks, dead_links, execute, shell_lines
from stand_in import provide_torchvision
from torch import nn
from typer.testing import CliRunner

import gradscope as gs
from gradscope import nets
from gradscope.cli.app import app

README = ROOT / "README.md"
PYTHON = blocks(README, "python")
SHELL = shell_lines(README)
# Appended to a line, where the later option wins, so that what is shown large is run small.
SMALL = {
    "nets": [],
    "shattering": ["--examples", "8"],
    "lesions": ["--examples", "16", "--epochs", "1", "--sets", "2", "--subsets", "1"],
    "paths": ["--examples", "2", "--draws", "1"],
    "curvature": ["--examples", "4", "--k", "1", "--steps", "2"],
    "report": ["--help"],
}


def block_of(name: str) -> str:
    """The block that is the file `name`, as its first line says."""
    (found,) = [block.text for block in PYTHON if block.text.startswith(f"# {name}\n")]
    return found


def test_ten_lines_probe_a_torchvision_model(tmp_path, monkeypatch, capsys):
    provide_torchvision(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in PYTHON if "torchvision" in block.text]
    (further,) = [block for block in PYTHON if "gs.shattering_reading" in block.text]
    told: dict = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        execute(README, block, told)
        execute(README, further, told)
    assert [junction.kind for junction in told["found"]].count("identity") == 5
    assert [junction.kind for junction in told["found"]].count("projection") == 3
    assert told["found"][3].name == "layer2.1:0"
    assert set(told["correlation"]["status"]) == {"ok"}
    shares = told["spectrum"].query("quantity == 'signed_share'")["value"]
    assert shares.sum() == pytest.approx(1, abs=1e-4)
    with torch.no_grad():
        assert not torch.allclose(told["lesioned"], told["model"](told["images"]))
    assert (tmp_path / "paths.svg").read_text(encoding="utf-8").startswith("<?xml")
    printed = capsys.readouterr().out
    assert "layer4.1:0" in printed and "R at the input is" in printed
    assert {gram.parameter.shape for gram in told["grams"].values()} == {(8, 8)}
    assert set(told["agreement"]["site"]) == {*told["grams"], "all parameters"}
    assert "update_to_weight_ratio" in set(told["flow"]["quantity"])
    lines = [line for line in block.text.splitlines() if line and "import" not in line]
    assert len(lines) <= 11


def test_a_probe_is_one_file_and_one_test(tmp_path):
    """In a copy of the house, the two files of the README pass their test and the contract."""
    shutil.copytree(ROOT / "gradscope", tmp_path / "gradscope", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests" / "probes").mkdir(parents=True)
    for file in ("probes/test_contract.py", "as_found.py", "networks.py", "conftest.py"):
        shutil.copy(ROOT / "tests" / file, tmp_path / "tests" / file)
    for file in ("gradscope/probes/zero_share.py", "tests/probes/test_zero_share.py"):
        (tmp_path / file).write_text(block_of(file), encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "zero_share"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed and int(passed[1]) > 10, run.stdout


def test_every_python_block_is_run_somewhere():
    files = ["mymodels.py", "gradscope/probes/zero_share.py", "tests/probes/test_zero_share.py"]
    assert len(PYTHON) == 2 + len([block_of(file) for file in files])


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("gradscope ")])
def test_the_command_runs(line, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mymodels", raising=False)
    (tmp_path / "mymodels.py").write_text(block_of("mymodels.py"), encoding="utf-8")
    save_file(nets.build("resnet", depth=8, channels=1, seed=1).state_dict(), "small.safetensors")
    words = shlex.split(line)[1:]
    answer = CliRunner().invoke(app, [*words, *SMALL[words[0]]])
    assert answer.exit_code == 0, answer.output
    if "--dry-run" in words:
        assert "seconds" in answer.output and not (tmp_path / "reports").exists()
    elif words[0] not in ("nets", "report"):
        assert list((tmp_path / "reports").rglob("readings.csv"))
        assert list((tmp_path / "reports").rglob("*.svg"))


def test_an_analysis_answers_with_its_options():
    (line,) = [line for line in SHELL if line.startswith("python -m analyses.")]
    words = shlex.split(line)
    run = subprocess.run(
        [sys.executable, *words[1:], "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert run.returncode == 0, run.stderr
    assert all(word in run.stdout for word in words if word.startswith("--"))


def test_the_two_commands_are_targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [line.split()[1] for line in SHELL if line.startswith("make ")]
    assert targets == ["report", "test"]
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_no_shell_line_is_left_out():
    assert [
        line for line in SHELL if not line.startswith(("make ", "gradscope ", "python -m analyses."))
    ] == []


def test_links_lead_somewhere():
    made = (ROOT / "reports" / "example").exists()
    assert [target for target in dead_links(README) if made or not target.startswith("reports/")] == []


def table() -> list[str]:
    lines = README.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| quantity "))
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    return lines[start + 2 : end]


def test_every_quantity_of_the_package_is_in_the_table():
    named = re.compile(r'(?:"quantity": |_row\(|Readings\(|_exact\(|_banded\()"(\w+)"')
    files = [
        file
        for room in ("probes", "studies", "curvature")
        for file in (ROOT / "gradscope" / room).rglob("*.py")
    ]
    quantities = {name for file in files for name in named.findall(file.read_text(encoding="utf-8"))}
    assert len(quantities) > 25
    told = set(re.findall(r"`(\w+)`", "\n".join(table())))
    assert quantities - told - {"condition_number"} == set()


def studied() -> dict[str, Callable[[gs.Problem], Any]]:
    """Studies whose quantities are named by variables, so that reading their source does not find them."""
    few = {"resamples": 10, "show": False}
    metrics = ["error", "loss", "margin", "kl"]
    return {
        "lesion_study": lambda problem: gs.lesion_study(problem, metric=metrics, sets=[], **few),
        "reordering_study": lambda problem: gs.reordering_study(problem, swaps=[1], draws=1, **few),
        "refinement_study": lambda problem: gs.refinement_study(problem, show=False),
        "effective_ensemble": lambda problem: gs.effective_ensemble(problem, show=False),
        "path_spectrum": lambda problem: gs.path_spectrum(problem, sampled=2),
        "path_moments": gs.path_moments,
        "block_participation": gs.block_participation,
        "graded_path_spectrum": lambda problem: gs.graded_path_spectrum(problem, by="kind"),
        "path_counts": gs.path_counts,
        "gradient_correlation": gs.gradient_correlation,
        "gradient_flow": lambda problem: gs.gradient_flow(problem, learning_rate=0.1),
        "jacobian_spectrum": gs.jacobian_spectrum,
        "gradient_predictiveness": gs.gradient_predictiveness,
        "gradient_agreement": lambda problem: gs.gradient_agreement(
            problem, by=["class", "distance"], bins=2
        ),
        "gradient_signal_to_noise": gs.gradient_signal_to_noise,
        "tangent_kernel_spectrum": gs.tangent_kernel_spectrum,
        "input_trace": lambda problem: gs.input_trace(
            problem, between=(0, 1), points=32, refine=True, max_points=64
        ),
        "depth_traces": lambda _: gs.depth_traces(
            "plain_mlp", [2], seeds=[0], width=4, points=32, traces=True
        ),
        "initialisation_study": lambda problem: gs.initialisation_study(
            problem.model, problem.data, ["he"], draws=1
        ),
        "PathObserver": lambda problem: observed(
            gs.PathObserver(problem.first_batch(), draws=2, variance=True), problem
        ),
        "curvature_study": lambda problem: gs.curvature_study(
            problem, k=2, learning_rate=0.1, by="layer", coupling=True, sizes=[2], steps=4, progress=False
        ),
        "curvature_study by products": lambda problem: gs.curvature_study(
            problem, k=2, dense_limit=0, steps=4, max_products=40, progress=False
        ),
        "top_subspace": lambda problem: gs.top_subspace(problem, 2),
        "eigenvalue_convergence": observed_run,
        "CurvatureObserver": lambda problem: observed(
            gs.CurvatureObserver(problem.first_batch(), learning_rate=0.1, dense=True, blocks="layer"),
            problem,
        ),
    }


def observed(observer: Any, problem: gs.Problem) -> Any:
    """One step of an observer."""
    observer(problem.model, 0)
    return observer.frame()


def observed_run(problem: gs.Problem) -> Any:
    with gs.hessian(problem) as operator:
        return gs.eigenvalue_convergence(operator, 1, max_products=8, progress=False)


@pytest.mark.parametrize("name", studied())
def test_every_quantity_that_a_study_returns_is_in_its_rows_of_the_table(name):
    net = nets.build("residual_mlp", depth=3, width=4, outputs=3, seed=0)
    problem = gs.Problem(net, (torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])), nn.CrossEntropyLoss())
    returned = set(studied()[name](problem)["quantity"])
    assert returned
    told = set(re.findall(r"`(\w+)`", "\n".join(table())))
    # Condition numbers have a row for each definition.
    said_once = {f"intact_{m}" for m in told} | {f"{m}_difference" for m in told} | {"condition_number"}
    assert returned - told - said_once == set()


def test_every_condition_number_is_in_the_table():
    from gradscope.curvature.condition import DEFINITIONS

    rows = [row for row in table() if row.startswith("| condition number ")]
    assert [re.findall(r"`(\w+)`", row)[0] for row in rows] == list(DEFINITIONS)


@pytest.mark.parametrize("row", table(), ids=lambda row: row.split("|")[1].strip())
def test_a_row_names_public_names_and_a_file(row):
    import gradscope

    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == 6 and all(cells)
    for name in re.findall(r"`gs\.([\w.]+)`", cells[3]):
        place = gradscope
        for part in name.split("."):
            place = getattr(place, part)
    for name in re.findall(r"`analyses\.(\w+)`", cells[3]):
        assert (ROOT / "analyses" / f"{name}.py").is_file()
    label, target = re.fullmatch(r"\[(.+)\]\((.+)\)", cells[5]).groups()
    assert Path(target).name == label
