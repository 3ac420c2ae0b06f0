"""The blocks of docs/how-ill-conditioned.md on networks of torchvision and transformers run as they stand there."""

import pytest
import torch
from documents import ROOT, blocks, execute

PAGE = ROOT / "docs" / "how-ill-conditioned.md"


@pytest.mark.parametrize("library", ["torchvision", "transformers"])
def test_its_blocks_on_other_libraries_run(library, request, tmp_path, monkeypatch, capsys):
    request.getfixturevalue(library)
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(PAGE, f"python {library}")
    with torch.random.fork_rng(devices=[]):
        execute(PAGE, block, {"__name__": "__document__"})
    assert "The largest eigenvalue is" in capsys.readouterr().out
