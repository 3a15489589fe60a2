"""The pages of the site: their code runs, their outputs are what it prints, every public name has its entry.

And the site builds, strictly, without a network. `tests.pages` says how the blocks are marked.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import FENCE, ROOT, Block, blocks, run_in_order, shape

import ignition

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.name != "recipes.md")  # tests/test_gallery.py has that one
RUN = [page for page in PAGES if any(block.language == "python" and block.kind is None for block in blocks(page))]
NETWORK = re.compile(r"""(?:src|href)=["']?(?:https?:)?//[^"'\s>]+|@import|url\(["']?(?:https?:)?//""")


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).with_suffix("").as_posix()


def marked(kind: str) -> list[tuple[Path, Block]]:
    return [(page, block) for page in PAGES for block in blocks(page) if block.kind == kind]


def alone(folder: Path) -> dict[str, str]:
    """An environment in which what is written stays in a folder, and one thread works."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "KERAS_HOME": str(folder)}


def python(script: Path) -> str:
    """What a script prints, run as a file in its own folder."""
    command, folder = [sys.executable, script.name], script.parent
    done = subprocess.run(command, cwd=folder, env=alone(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_read_and_its_mark_is_known(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(re.findall("^```", text, re.MULTILINE)) == 2 * len(FENCE.findall(text))
    kinds = {None, "output", "file", "docstring", "before", "other", "foreign", "torchrun"}
    assert {block.kind for block in blocks(page)} <= kinds
    assert {block.language for block in blocks(page)} <= {"python", "text", "sh"}


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_the_blocks_run_in_order_and_print_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_in_order(page, lambda: capsys.readouterr().out) > 0


def test_a_quoted_docstring_is_quoted_word_for_word() -> None:
    quoted = marked("docstring")
    assert [block.about for _, block in quoted] == ["ignition.loop.fit"]
    for _, block in quoted:
        module, _, name = block.about.rpartition(".")
        docstring = inspect.cleandoc(getattr(importlib.import_module(module), name).__doc__)
        lines = "".join(f"    {line}" if line.strip() else line for line in block.text.splitlines(keepends=True))
        assert lines in docstring


@pytest.mark.slow
def test_the_start_page_ends_with_the_same_numbers_when_its_script_is_killed_and_run_again(tmp_path: Path) -> None:
    page = DOCS / "start.md"
    files = {block.about: block.text for block in blocks(page) if block.kind == "file"}
    outputs = {block.about: block.text for block in blocks(page) if block.kind == "output"}
    commands = [line for block in blocks(page) if block.language == "sh" for line in block.text.splitlines()]
    assert {f"python {name}" for name in files} <= set(commands)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    printed = python(whole / "train.py")
    assert shape(printed) == shape(outputs["train.py"])
    assert shape(python(whole / "use.py")) == shape(outputs["use.py"])
    assert sorted(path.name for path in (whole / "runs" / "digits").iterdir()) == [
        "accuracy.png",
        "best.pt",
        "board",
        "checkpoints",
        "loss.png",
    ]

    command = [sys.executable, "-u", "train.py"]
    with subprocess.Popen(command, cwd=killed, env=alone(killed), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch  3/"):
                process.kill()
                break
    again = python(killed / "train.py").splitlines()
    assert again[0].startswith("goes on from runs/digits/checkpoints/")
    assert again[-1] == printed.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_script_for_many_processes_runs(processes: int, tmp_path: Path) -> None:
    page = DOCS / "guides" / "processes.md"
    (script,) = (block for block in blocks(page) if block.kind == "file")
    (command,) = (block.text.split() for block in blocks(page) if block.kind == "torchrun")
    assert command == ["torchrun", "--nproc-per-node", "2", script.about]
    (tmp_path / script.about).write_text(script.text, encoding="utf-8")
    if processes == 1:
        printed = python(tmp_path / script.about)
    else:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", *command[1:]]
        done = subprocess.run(torchrun, cwd=tmp_path, env=alone(tmp_path), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    assert [line.split()[1] for line in printed.splitlines()] == ["1/3", "2/3", "3/3"]


@pytest.mark.parametrize(("page", "block"), marked("other"), ids=lambda value: getattr(value, "about", None))
def test_the_code_of_another_library_is_python(page: Path, block: Block) -> None:
    compile(block.text, str(page), "exec")


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), marked("other"), ids=lambda value: getattr(value, "about", None))
def test_the_code_of_another_library_runs_and_learns_as_much(page: Path, block: Block, tmp_path: Path) -> None:
    (before,) = (other for other in blocks(page) if other.mark == f"before: {block.about}")
    (tmp_path / "script.py").write_text(before.text + "\n" + block.text, encoding="utf-8")
    *_, last = python(tmp_path / "script.py").splitlines()
    word, value = last.split()
    assert word == "accuracy"
    assert float(value) > 0.8  # the loops by hand and ours reach 0.9 and more; a third would be chance


def test_every_link_to_a_file_leads_to_one() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)", FENCE.sub("", page.read_text(encoding="utf-8"))):
            generated = {"changelog.md", "contributing.md"}
            assert link in generated or (page.parent / link).exists(), f"{page}: {link}"


def test_every_make_command_is_there() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in [*PAGES, ROOT / "CONTRIBUTING.md"])
    asked = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE))
    there = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"check", "docs", "release-check", "test", "test-quick"} <= asked <= there


def test_every_public_name_has_its_entry_in_the_api() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "api").glob("*.md")))
    entries = set(re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE))
    public = {f"ignition.{name}" for name in ignition.__all__} | {
        f"ignition.callbacks.{name}" for name in ignition.callbacks.__all__
    }
    public |= {f"ignition.distributed.{name}" for name in ignition.distributed.__all__}
    # All errors are one entry, and all of report; callbacks are a page; Callback is public twice.
    beside = {
        "ignition.callbacks",
        "ignition.distributed",
        "ignition.Callback",
        "ignition.IgnitionError",
        "ignition.IgnitionWarning",
    }
    # A function named like its module is written with both.
    modules = {f"ignition.{path.stem}" for path in (ROOT / "src" / "ignition").glob("*.py")}
    modules -= {"ignition.errors", "ignition.report"}
    assert entries & modules == set()
    named = {re.sub(r"\.(\w+)\.\1$", r".\1", entry) for entry in entries}
    assert named >= public - beside


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_for_nothing_on_the_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    site = tmp_path / "site"
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(site).with_suffix(".md").as_posix() for path in site.rglob("*.html")}
    assert {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} <= pages
    for page in site.rglob("*.html"):
        fetched = re.findall(r"<(?:script|link|img|iframe)\b[^>]*", page.read_text(encoding="utf-8"))
        assert [tag for tag in fetched if NETWORK.search(tag)] == [], page.name
    for sheet in site.rglob("*.css"):
        assert NETWORK.search(sheet.read_text(encoding="utf-8")) is None, sheet.name
