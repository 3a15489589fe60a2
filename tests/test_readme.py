"""The README: its code runs, its outputs are what the code prints, its table has every public name.

And the list of modules in the design: it has all that the library imports, in the order of the imports.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from pages import FENCE, ROOT, blocks, run_in_order
from torch import nn

import ignition

README = ROOT / "README.md"

FOREIGN = "foreign: not run"
FOREIGN_BLOCKS = 1


def test_every_block_is_read() -> None:
    text = README.read_text(encoding="utf-8")
    found = blocks(README)
    assert text.count("```") == 2 * len(found)
    assert text.count("<!--") == sum(block.mark is not None for block in found)
    assert {block.language for block in found} == {"python", "text", "sh"}
    assert {(block.language, block.mark) for block in found if block.mark} == {("python", FOREIGN), ("text", "output")}


def test_the_python_blocks_run_in_order_and_print_what_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run_in_order(README, lambda: capsys.readouterr().out)
    assert ran == sum(block.language == "python" for block in blocks(README)) - FOREIGN_BLOCKS
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_it_takes_five_minutes_to_read() -> None:
    prose = FENCE.sub("", README.read_text(encoding="utf-8").partition("\n## What each piece does\n")[0])
    assert len(prose.split()) < 5 * 200  # up to the table, which one looks things up in


def test_only_the_blocks_marked_as_foreign_are_left_out_and_those_are_python_too() -> None:
    foreign = [block for block in blocks(README) if block.mark == FOREIGN]
    assert len(foreign) == FOREIGN_BLOCKS
    for block in foreign:
        compile(block.text, str(README), "exec")


def table_rows() -> dict[str, str]:
    """The first two cells of each row in the README's table of pieces."""
    section = README.read_text(encoding="utf-8").partition("\n## What each piece does\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return {name.strip(): words.strip() for name, words in rows[2:]}


@pytest.mark.parametrize("module", [ignition, ignition.callbacks], ids=lambda module: module.__name__)
def test_every_public_name_is_in_the_table(module: object) -> None:
    named = set(re.findall(r"`(\w+)`", " ".join(table_rows())))
    assert set(module.__all__) - named == set()


def test_every_kind_of_error_is_in_the_table() -> None:
    assert set(re.findall(r"`(\w+Error)`", table_rows()["`errors`"])) | {"IgnitionError", "IgnitionWarning"} == set(
        ignition.errors.__all__
    )


def test_the_table_names_nothing_that_is_not_there(tiny_model: nn.Module) -> None:
    trainer = ignition.Trainer(tiny_model, None, lambda model, x: None, [torch.zeros(1)])
    for cell in table_rows():
        for name in re.findall(r"`([\w.]+)`", cell):
            if name.startswith("trainer."):
                assert hasattr(trainer, name.removeprefix("trainer.")), name
            else:
                assert name in ignition.__all__ or name in ignition.callbacks.__all__, name


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", FENCE.sub("", README.read_text(encoding="utf-8")))
    assert len(links) >= 3
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_make_command_of_the_readme_is_there() -> None:
    asked = set(re.findall(r"(?:`|^)make ([a-z-]+)", README.read_text(encoding="utf-8"), re.MULTILINE))
    there = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "test"} <= asked <= there


def imports_of(module: str) -> set[str]:
    """The modules of the library that a module imports to run, wherever in it; callbacks count as one module."""
    source = ROOT / "src" / "ignition" / f"{module}.py"
    files = [source] if source.exists() else sorted((ROOT / "src" / "ignition" / module).glob("*.py"))
    found: set[str] = set()
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for_types = {
            inside
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inside in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node not in for_types:
                library, _, name = node.module.partition(".")
                if library == "ignition":
                    found |= {name.partition(".")[0]} if name else {alias.name for alias in node.names}
    return found - {module}


def test_the_design_lists_every_module_below_those_that_it_imports() -> None:
    section = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").partition("\n## The modules\n")[2]
    listed = re.findall(r"^\| `(\w+)` \|", section.partition("\n## ")[0], re.MULTILINE)
    for place, module in enumerate(listed):
        assert imports_of(module) <= set(listed[:place]), module
    assert imports_of("__init__") <= set(listed)
