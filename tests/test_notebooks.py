"""The notebooks run from top to bottom, show their figures, and are committed without outputs."""

import nbformat
import pytest
from documents import ROOT
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def name(path):
    return path.stem


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_it_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.id for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []


# What Jupyter's own client warns of is not ours to mend.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_it_runs_and_shows_its_figures(path, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        streams = [
            output for output in cell.outputs if output.output_type == "stream" and output.name == "stderr"
        ]
        assert streams == [], cell.source
        shown = [output.data for output in cell.outputs if output.output_type == "execute_result"]
        assert shown, f"the cell shows nothing: {cell.source}"
        if cell.source.splitlines()[-1].startswith("gs.figures."):
            assert "image/png" in shown[-1], cell.source
    assert sum("gs.figures." in cell.source for cell in notebook.cells if cell.cell_type == "code") >= 5
    assert list(tmp_path.iterdir()) == []


def test_the_first_look_is_there():
    assert "first_look" in [path.stem for path in NOTEBOOKS]
