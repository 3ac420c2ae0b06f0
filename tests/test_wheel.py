"""The wheel, made from the source distribution, installs and runs far from the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str, cwd: Path, path: Path | None = None) -> str:
    """The standard output of a command that sees `path` alone on PYTHONPATH and no standard input."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT), cwd=out)
    assert len(list(out.glob("*.tar.gz"))) == 1
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    command = ("-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    run(sys.executable, *command, cwd=target)
    return target


def test_the_wheel_carries_the_analyses_and_the_data(wheel: Path):
    files = zipfile.ZipFile(wheel).namelist()
    inside = {file for file in files if not file.startswith("gradscope_toolkit-")}
    assert {file.split("/")[0] for file in inside} == {"gradscope"}
    # every file that is not made by running, except caches, and nothing else
    for folder, prefix in ((ROOT / "gradscope", "gradscope"), (ROOT / "analyses", "gradscope/analyses")):
        sources = {p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
        assert sources
        assert {f"{prefix}/{p.relative_to(folder).as_posix()}" for p in sources} <= inside
    assert "gradscope/py.typed" in inside
    assert [file for file in inside if file.endswith("claims.toml")]
    assert [file for file in inside if "/templates/" in file]
    assert not [file for file in inside if file.endswith(".pyc")]
    assert [file for file in files if file.endswith("/licenses/LICENSE")]


def test_the_installed_package_is_the_one_that_answers(site: Path, tmp_path: Path):
    code = "import gradscope, gradscope.analyses as a; print(gradscope.__file__); print(a.__file__)"
    for line in run(sys.executable, "-c", code, cwd=tmp_path, path=site).split():
        assert Path(line).is_relative_to(site)


def test_every_installed_module_imports(site: Path, tmp_path: Path):
    """A module that only the checkout has, or a data file read on import, shows here."""
    code = (
        "import pkgutil, importlib, gradscope\n"
        "names = [m.name for m in pkgutil.walk_packages(gradscope.__path__, 'gradscope.')]\n"
        "[importlib.import_module(name) for name in names if not name.endswith('__main__')]\n"
        "print(*names)"
    )
    names = run(sys.executable, "-c", code, cwd=tmp_path, path=site).split()
    assert "gradscope.analyses" in names
    assert any(name.startswith("gradscope.analyses.") for name in names)


def test_the_installed_command_runs(site: Path, tmp_path: Path):
    assert "resnet" in run(sys.executable, "-m", "gradscope", "nets", cwd=tmp_path, path=site)
