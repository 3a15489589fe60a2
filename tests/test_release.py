"""The release check: what it finds in good packages, and in bad ones."""

from __future__ import annotations

import importlib.util
import shutil
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from pages import ROOT

import ignition

VERSION = ignition.__version__


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, over a copy of the project: building writes beside the sources."""
    spec = importlib.util.spec_from_file_location("release_check", ROOT / "scripts" / "release_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    monkeypatch.setattr(module, "ROOT", copy)
    return module


def change(release: ModuleType, name: str, old: str, new: str) -> None:
    path = release.ROOT / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_version_is_one_everywhere_and_heads_the_changelog(release: ModuleType) -> None:
    heading = release.re.search(r"^## .+$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), release.re.M)[0]
    assert release.check_version(rehearse=True) == VERSION
    change(release, "CHANGELOG.md", heading, f"## {VERSION} (2026-01-31)")
    assert release.check_version(rehearse=False) == VERSION
    change(release, "CHANGELOG.md", f"## {VERSION} (", "## 0.0.9 (")
    with pytest.raises(release.NotReady, match=r"'## 0\.0\.9 "):
        release.check_version(rehearse=False)
    change(release, "pyproject.toml", f'version = "{VERSION}"', 'version = "9.9"')
    with pytest.raises(release.NotReady, match=r"says 9\.9"):
        release.check_version(rehearse=True)


def test_the_quick_start_is_whole(release: ModuleType) -> None:
    script = release.quick_start()
    compile(script, "quick_start.py", "exec")
    assert script.startswith("import torch\n")
    assert "accuracy.png" in script


@pytest.mark.slow
def test_the_packages_have_all_that_belongs_in_them_and_a_lack_is_found(release: ModuleType, tmp_path: Path) -> None:
    wheel, source = release.build(tmp_path / "dist", "--no-isolation")
    release.check_contents(wheel, source, VERSION)

    poorer = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(poorer, "w") as copy:
        for name in set(whole.namelist()) - {"ignition/py.typed"}:
            copy.writestr(name, whole.read(name))
    with pytest.raises(release.NotReady, match=r"ignition/py\.typed"):
        release.check_contents(poorer, source, VERSION)
