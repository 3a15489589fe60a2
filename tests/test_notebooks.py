"""The notebooks in examples/notebooks, run as a page runs them, and kept without what they show."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from kernel import run

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def read(name):
    return nbformat.read(FOLDER / name, as_version=4)


def test_there_are_notebooks():
    assert {"first_steps.ipynb", "own_functions.ipynb"} <= set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_valid_and_kept_without_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in code] == [[]] * len(code)
    assert {cell.execution_count for cell in code} == {None}
    assert "widgets" not in notebook.metadata
    assert notebook.cells[0].source.startswith("# ")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_links_of_a_notebook_lead_somewhere(name):
    text = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    files = re.findall(r"`((?:examples|docs)/[\w/.]+)`", text)
    assert [link for link in links if not (FOLDER / link).exists()] == []
    assert [file for file in files if not (FOLDER.parents[1] / file).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom_and_says_nothing_on_the_side(name, tmp_path, monkeypatch):
    notebook = read(name)
    strict = nbformat.v4.new_code_cell("import warnings; warnings.simplefilter('error', UserWarning)")
    notebook.cells.insert(0, strict)
    client = run(notebook, tmp_path, monkeypatch)
    assert [content["text"] for content in client.kinds("stream") if content["name"] == "stderr"] == []
    assert any(client.shown("text/html"))
    assert any(client.shown("image/png"))
    assert [path.name for path in tmp_path.iterdir()] == [".kernel"]
