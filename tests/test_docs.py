"""The documents keep their word: every Python block runs, in order, and every link leads somewhere."""

import pytest
import torch
from documents import ROOT, blocks, dead_links, execute
from stand_in import provide_torchvision

DOCS = sorted((ROOT / "docs").glob("*.md"))


def name(path):
    return path.name


@pytest.mark.parametrize("path", [path for path in DOCS if blocks(path, "python")], ids=name)
def test_its_blocks_run(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    provide_torchvision(monkeypatch)
    namespace = {"__name__": "__document__"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for block in blocks(path, "python"):
            execute(path, block, namespace)


@pytest.mark.parametrize("path", DOCS, ids=name)
def test_its_links_lead_somewhere(path):
    assert dead_links(path) == []
