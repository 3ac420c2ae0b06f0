"""Reading what a document promises: its code blocks by language, its links, its headings."""

import re
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Block(NamedTuple):
    """One fenced block: the number of its first line, and its text."""

    line: int
    text: str


def blocks(path: Path, language: str) -> list[Block]:
    """The fenced blocks of a language, in order."""
    found, start, lines = [], 0, path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if start and line == "```":
            found.append(Block(start, "\n".join(lines[start - 1 : number - 1]) + "\n"))
            start = 0
        elif not start and line == f"```{language}":
            start = number + 1
    assert not start, f"{path.name}: the block at line {start} has no end"
    return found


def execute(path: Path, block: Block, namespace: dict[str, Any]) -> None:
    """Run a Python block as part of its document: a traceback names the document's own line."""
    code = compile("\n" * (block.line - 1) + block.text, str(path), "exec", dont_inherit=True)
    exec(code, namespace)


def shell_lines(path: Path) -> list[str]:
    """The commands in the shell blocks, without comments and with continued lines joined."""
    joined = "".join(block.text for block in blocks(path, "sh")).replace("\\\n", " ")
    commands = (re.sub(r"\s+#.*", "", f" {line}").strip() for line in joined.splitlines())
    return [command for command in commands if command]


def prose(path: Path) -> str:
    """The text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def dead_links(path: Path) -> list[str]:
    """Relative links and pictures whose file, or whose heading, does not exist."""
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = path.parent / file if file else path
        if not place.exists() or (anchor and anchor not in anchors(place)):
            dead.append(target)
    return dead


def anchors(path: Path) -> set[str]:
    """What the headings of a document are linked by: lower case, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
