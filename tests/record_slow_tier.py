"""Run both tiers of the tests and write down what came of it, with the date, in docs/slow-tier.md.

python tests/record_slow_tier.py [arguments of pytest]      (this is `make test-all`)

The page is written whether the tests pass or fail, and the exit status is pytest's. A run that was
interrupted or found no tests leaves the page as it was.
"""

import os
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "slow-tier.md"
FINISHED = (0, 1)  # pytest's statuses of a run that came to its end: all passed, some failed
SLOWEST = 10


def table(rows: Sequence[tuple[str, str]], head: tuple[str, str]) -> str:
    """A Markdown table of two columns; vertical bars of test names are escaped."""
    cells = [head, ("---", "---"), *((left.replace("|", "\\|"), right) for left, right in rows)]
    return "\n".join(f"| {left} | {right} |" for left, right in cells)


def page(junit: Path, date: datetime) -> str:
    """The page, from the JUnit file that pytest wrote."""
    cases = list(ElementTree.parse(junit).getroot().iter("testcase"))

    def name(case: ElementTree.Element) -> str:
        return f"`{case.get('classname', '').removeprefix('tests.')}::{case.get('name')}`"

    def having(*tags: str) -> list[ElementTree.Element]:
        return [case for case in cases if any(case.find(tag) is not None for tag in tags)]

    failed, skipped = having("failure", "error"), having("skipped")
    seconds = {name(case): float(case.get("time", "nan")) for case in cases}
    facts = [
        ("date (UTC)", date.strftime("%Y-%m-%d %H:%M")),
        ("outcome", "failed" if failed else "passed"),
        ("passed", str(len(cases) - len(failed) - len(skipped))),
        ("failed", str(len(failed))),
        ("skipped", str(len(skipped))),
        ("sum of the tests' times", f"{sum(seconds.values()) / 60:.1f} min"),
        ("Python", platform.python_version()),
        ("torch", version("torch")),
        ("machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"),
    ]
    slowest = sorted(seconds.items(), key=lambda item: item[1], reverse=True)[:SLOWEST]
    parts = [
        "# The slow tier, when it last ran",
        "Written by `make test-all`, which runs every test, the slow ones too. Do not edit.",
        table(facts, ("what", "value")),
        "## The slowest",
        table([(test, f"{time:.1f}") for test, time in slowest], ("test", "seconds")),
    ]
    if failed:
        parts += ["## Failed", "\n".join(f"- {name(case)}" for case in failed)]
    if skipped:
        reasons = [f"- {name(case)}: {case.find('skipped').get('message')}" for case in skipped]
        parts += ["## Skipped", "\n".join(reasons)]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "tests.xml"
        both_tiers = ["-m", "slow or not slow", f"--junitxml={junit}"]
        status = subprocess.run(
            [sys.executable, "-m", "pytest", *both_tiers, *arguments], cwd=ROOT, check=False
        ).returncode
        if status in FINISHED:
            PAGE.parent.mkdir(exist_ok=True)
            PAGE.write_text(page(junit, datetime.now(UTC)), encoding="utf-8")
            print(f"recorded in {PAGE.relative_to(ROOT)}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
