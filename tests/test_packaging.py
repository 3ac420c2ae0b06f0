"""What a stranger installs: pins that exist on other machines, install lines that use them, one version."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gradscope.version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
TEXTS = [
    *sorted(ROOT.glob("*.md")),
    *(ROOT / file for file in ("Makefile", "constraints.txt", "CITATION.cff", "pyproject.toml", ".ci/run")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
    *(p for folder in ("gradscope", "analyses", "tests") for p in sorted((ROOT / folder).rglob("*.py"))),
]


def pins() -> dict[str, str]:
    """Package to exact version; a line that is neither a pin nor a comment fails."""
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text:
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)( ?; ?.+)?", text)
            assert match, f"not an exact public version: {line}"
            assert canonicalize_name(match[1]) not in found or match[3], f"pinned twice: {line}"
            found[canonicalize_name(match[1])] = match[2]
    return found


REQUIREMENTS = [Requirement(line) for line in sum(EXTRAS.values(), PROJECT["dependencies"])]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_is_pinned_within_its_bounds(requirement: Requirement):
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_the_metadata_never_pins():
    """An exact torch in the metadata would replace the build a user already has."""
    assert [str(r) for r in REQUIREMENTS if any(s.operator in ("==", "===") for s in r.specifier)] == []


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_has_its_reason(requirement: Requirement):
    rows = [
        line
        for line in (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|") and re.search(rf"[ |]{re.escape(requirement.name)}\b", line)
    ]
    assert rows
    assert any(pins()[canonicalize_name(requirement.name)] in row for row in rows), "not the pinned version"


def install_lines(text: str) -> list[str]:
    """Lines that install something; a continued line counts as one, an abbreviation in prose does not."""
    joined = text.replace("\\\n", " ")
    return [line for line in joined.splitlines() if re.search(r"pip3? install +[^`\s]", line)]


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_install_lines_are_constrained(path: Path):
    if path == Path(__file__):
        return
    for line in install_lines(path.read_text(encoding="utf-8")):
        # --no-index: a wheel of our own, from a file
        assert re.search(r"-c (own-)?constraints\.txt|--no-index", line), line


def test_an_unconstrained_line_is_seen():
    assert install_lines("pip install -e . \\\n  -c constraints.txt\nuse pip\npip install gradscope") == [
        "pip install -e .    -c constraints.txt",
        "pip install gradscope",
    ]


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_nothing_names_this_machine_or_a_package_index(path: Path):
    text = path.read_text(encoding="utf-8")
    # written in two halves, so that this file does not name them either
    hosts = ["pypi" + ".org", "python" + "hosted.org", "download.pytorch" + ".org"]
    homes = [str(place) for place in (ROOT, Path.home()) if len(place.parts) > 2]
    assert [word for word in hosts + homes if word in text] == []


def test_there_is_one_version():
    version = gradscope.version.__version__
    assert "version" in PROJECT["dynamic"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [{version}]\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_changelog_has_a_place_for_changed_numbers():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for release in text.split("\n## ")[1:]:
        assert "\n### Numbers\n" in release, release.partition("\n")[0]


def test_python_floor_is_the_same_everywhere():
    assert PROJECT["requires-python"] == ">=3.11"
    assert "sys.version_info < (3, 11)" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_readme_gives_the_right_distribution_name():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "gradscope-toolkit" in text
    assert not re.search(r"pip install gradscope(?!-toolkit)", text)
