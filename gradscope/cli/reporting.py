"""Running analyses and writing what they found: one page for each, or all on one."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gradscope.cli.cost import announce_cost
from gradscope.cli.modules import analysis_module
from gradscope.report import Section, provenance, render
from gradscope.report.verdicts import VERDICTS
from gradscope.report.wording import measured
from gradscope.studies.settings import Settings

ANALYSES = (
    *("shattering", "traces", "effective_rank", "looks_linear"),
    *("lesions", "reordering", "refinement"),
    *("paths", "effective_paths", "ensemble_depth"),
    *("conditioning", "stability", "smoothness"),
)


def run_one(name: str, main: Callable[[Settings], Section], settings: Settings) -> Path:
    """Run one analysis, write `<out>/<name>/index.html`, print its verdicts; returns the page's path."""
    check_writable(settings.out)
    announce_cost(settings)
    began = time.perf_counter()
    section = main(settings)
    facts = provenance_of(settings, {name: time.perf_counter() - began})
    page = render(settings.out / name, section.title, [section], facts)
    print(verdict_lines(section))
    print(page)
    return page


def run_all(settings: Settings) -> Path:
    """The main job: all analyses, one report `<out>/index.html`; returns its path."""
    modules = {name: analysis_module(name) for name in ANALYSES}
    for module in modules.values():
        if settings.preset not in module.PRESETS:
            raise ValueError(f"preset is one of {', '.join(module.PRESETS)}, got {settings.preset!r}.")
    check_writable(settings.out)
    announce_cost(settings)
    sections, durations = [], {}
    for name, module in modules.items():
        print(f"== {name}", file=sys.stderr, flush=True)
        began = time.perf_counter()
        sections.append(module.main(settings))
        durations[name] = time.perf_counter() - began
    facts = provenance_of(settings, durations)
    page = render(settings.out, "gradscope report", sections, facts, summary=summary_of(sections, settings))
    for section in sections:
        print(verdict_lines(section))
    print(page)
    return page


def check_writable(folder: Path) -> None:
    """Try the folder now, so that hours of work do not end in a refusal; leaves nothing behind.

    Raises:
        OSError: It cannot be made or written to.
    """
    try:
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
        for one in missing:
            one.rmdir()
    except OSError as error:
        raise OSError(
            f"Cannot write to {folder} ({error.strerror}). Pass another folder with --out."
        ) from error


def provenance_of(settings: Settings, durations: dict[str, float]) -> dict[str, Any]:
    """What the report was made with; folders of this machine are left out."""
    configuration = {k: v for k, v in asdict(settings).items() if k in ("preset", "data", "workers")}
    configuration |= {"threads_per_cell": 1, "torch_threads": torch.get_num_threads()}
    return provenance(configuration, seeds=settings.seeds, data=settings.data_set(), durations=durations)


def summary_of(sections: list[Section], settings: Settings) -> str:
    """One sentence over all verdicts."""
    verdicts = [verdict for section in sections for verdict in section.verdicts["verdict"]]
    spelled = {"holds": "hold", "fails": "fail"}
    counts = {spelled.get(name, name): verdicts.count(name) for name in VERDICTS if name in verdicts}
    return (
        f"{len(verdicts)} published or derived statements re-tested at small scale with {len(settings.seeds)} seeds "
        f"(preset {settings.preset}; networks trained on {settings.data}): "
        + ", ".join(f"{number} {name}" for name, number in counts.items())
        + ". A claim that fails is a finding, not a defect."
    )


def verdict_lines(section: Section) -> str:
    """The verdicts of a section as a few aligned lines for a terminal."""
    lines = [section.title]
    for row in section.verdicts.to_dict("records"):
        label = f"{row['claim_id']} {row['part']}".strip()
        lines.append(f"  {row['verdict']:<22} {label:<38} {measured(row)}   wanted {row['criterion']}")
    return "\n".join(lines)
