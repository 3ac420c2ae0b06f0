"""The house keeps its own rules: which way imports go, how light the front door is, how long a file is.

The table of rooms is read from docs/architecture.md, so the picture and the code cannot part.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gradscope"
ANALYSES = ROOT / "analyses"
LONGEST = 300
HEAVY = {"scipy", "pandas", "matplotlib", "seaborn", "sklearn", "pyarrow", "jinja2"}

MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(ANALYSES.rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def rooms_of_the_picture() -> dict[str, set[str] | None]:
    """Room to the rooms it may import, from the table in docs/architecture.md; None for everything."""
    lines = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| room "))
    allowed: dict[str, set[str] | None] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        room, _, arrows = (cell.strip() for cell in line.strip("|").split("|"))
        allowed[room.strip("`")] = None if arrows == "everything" else set(re.findall(r"`(\w+)`", arrows))
    return allowed


ALLOWED = rooms_of_the_picture()


def room_of(path: Path) -> str:
    """`measures` of gradscope/measures/gram.py, `problem` of gradscope/problem.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Dotted paths of everything imported anywhere in a module that lies in `package`.

    `from a import b` gives (a, b), for b may be a module; a relative import is made absolute.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                stem = package[: len(package) - node.level + 1] + stem
            yield from ((*stem, alias.name) for alias in node.names)


def imports_of(path: Path) -> list[tuple[str, ...]]:
    package = path.relative_to(ROOT).parts[:-1]
    return list(imported(ast.parse(path.read_text(encoding="utf-8")), package))


def wrong_arrows(room: str, imports: list[tuple[str, ...]]) -> list[str]:
    """The imports of ours that `room` may not make, dotted. The bare package counts as everything."""
    allowed = ALLOWED[room]
    if allowed is None:
        return []
    ours = [path for path in imports if path[0] in ("gradscope", "analyses")]
    return [".".join(p) for p in ours if p[0] == "analyses" or len(p) == 1 or p[1] not in allowed | {room}]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_arrows_run_one_way(path: Path):
    room = room_of(path)
    assert room in ALLOWED, f"{name(path)}: give the room {room} a row in docs/architecture.md"
    assert wrong_arrows(room, imports_of(path)) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("measures", "import gradscope.nets"),
        ("measures", "from gradscope import nets"),
        ("measures", "from ..nets import build"),
        ("figures", "import gradscope"),
        ("instruments", "def f():\n    from gradscope.problem import Problem"),
        ("report", "import analyses.shattering"),
        ("studies", "from gradscope.report import keep"),
    ],
)
def test_a_wrong_arrow_is_seen(room: str, source: str):
    assert wrong_arrows(room, list(imported(ast.parse(source), ("gradscope", room)))) != []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("measures", "from . import gram\nfrom .gram import rank\nimport torch"),
        ("probes", "from gradscope.measures.gram import rank\nfrom gradscope.instruments import listen"),
        ("cli", "import gradscope"),
    ],
)
def test_a_right_arrow_is_let_through(room: str, source: str):
    assert wrong_arrows(room, list(imported(ast.parse(source), ("gradscope", room)))) == []


def test_the_picture_has_no_circle():
    """Taking away rooms that import nothing that is left must in the end take away all of them."""
    left = {room: arrows for room, arrows in ALLOWED.items() if arrows is not None}
    for arrows in left.values():
        assert arrows <= ALLOWED.keys()
    while left:
        free = [room for room, arrows in left.items() if not arrows & left.keys()]
        assert free, f"these rooms import each other in a circle: {sorted(left)}"
        for room in free:
            del left[room]


@pytest.mark.parametrize("path", [p for p in MODULES if room_of(p) == "measures"], ids=name)
def test_measures_import_torch_and_the_standard_library(path: Path):
    others = {p[0] for p in imports_of(path)} - sys.stdlib_module_names
    assert others <= {"torch", "gradscope"}


@pytest.mark.parametrize("path", [p for p in MODULES if room_of(p) == "figures"], ids=name)
def test_figures_never_import_torch(path: Path):
    assert "torch" not in {p[0] for p in imports_of(path)}


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_analyses_use_public_names(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    ours = [p for p in imported(tree, path.relative_to(ROOT).parts[:-1]) if p[0] == "gradscope"]
    assert [".".join(p) for p in ours if any(part.startswith("_") for part in p)] == []
    reached = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    assert [a for a in reached if a.startswith("_") and not a.startswith("__")] == []


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_analyses_import_each_other_relatively(path: Path):
    """In the wheel the folder is gradscope.analyses, where `import analyses` finds nothing."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert all(alias.name.split(".")[0] != "analyses" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert (node.module or "").split(".")[0] != "analyses"


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=name)
def test_no_file_grows_past_its_limit(path: Path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=name)
def test_nothing_is_left_undone(path: Path):
    undone = re.compile(r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError|\bxfail\b")
    assert undone.findall(path.read_text(encoding="utf-8")) == []


def loaded_by(code: str) -> set[str]:
    """Top-level packages in sys.modules after `code` ran in a fresh interpreter, however it exits."""
    tell = f"import atexit, sys\natexit.register(lambda: print('\\n@', *sys.modules))\n{code}"
    command = [sys.executable, "-c", tell]
    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert run.returncode == 0, run.stderr
    return {module.split(".")[0] for module in run.stdout.rsplit("\n@ ", 1)[1].split()}


def test_import_gradscope_is_light():
    assert loaded_by("import gradscope") & HEAVY == set()


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_command_answers_without_torch(option: str):
    run_module = "import runpy; runpy.run_module('gradscope', run_name='__main__')"
    assert loaded_by(f"sys.argv = ['gradscope', '{option}']\n{run_module}") & (HEAVY | {"torch"}) == set()
