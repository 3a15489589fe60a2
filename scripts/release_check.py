"""Whether what is here could be released: builds the packages, and uses them as a stranger would.

    python scripts/release_check.py              # into dist/
    python scripts/release_check.py --rehearse   # with a changelog that still says "Unreleased"

The wheel goes into an empty environment, with what it asks for, and the quick start of the README runs there in an
empty folder. It needs the package index, and minutes where PyTorch is not in pip's cache.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]


class NotReady(Exception):
    """What stands in the way of a release."""


def check_version(rehearse: bool) -> str:
    """The version, if the project, the package and the changelog agree on it."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        version: str = tomllib.load(file)["project"]["version"]
    package = (ROOT / "src" / "ignition" / "__init__.py").read_text(encoding="utf-8")
    if f'__version__ = "{version}"' not in package:
        raise NotReady(f"pyproject.toml says {version}, src/ignition/__init__.py does not")
    (heading, *_) = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if not re.fullmatch(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", heading) and not rehearse:
        raise NotReady(f"the changelog begins with '## {heading}', expected '## {version} (year-month-day)'")
    return version


def build(folder: Path, *options: str) -> tuple[Path, Path]:
    """The wheel and the source package, built into a folder."""
    run(sys.executable, "-m", "build", "--outdir", folder, *options, ROOT)
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, source


def check_contents(wheel: Path, source: Path, version: str) -> None:
    """Looks into the packages: every module and `py.typed` are there, and nothing that is not the library's."""
    package = ROOT / "src"
    modules = {path.relative_to(package).as_posix() for path in (package / "ignition").rglob("*.py")}
    names = set(zipfile.ZipFile(wheel).namelist())
    information = f"torch_ignition-{version}.dist-info/"
    inside = {name for name in names if not name.startswith(information)}
    if inside != modules | {"ignition/py.typed"}:
        raise NotReady(f"the wheel differs from src/ by {sorted(inside ^ (modules | {'ignition/py.typed'}))}")
    if f"{information}licenses/LICENSE" not in names:
        raise NotReady("the wheel has no LICENSE")
    with tarfile.open(source) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    lacking = {"LICENSE", "README.md", "pyproject.toml", "src/ignition/py.typed", "src/ignition/trainer.py"} - packed
    if lacking:
        raise NotReady(f"the source package lacks {sorted(lacking)}")


def quick_start() -> str:
    """The first block of Python below the README's heading."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Quick start\n")[2]
    return section.partition("```python\n")[2].partition("```")[0]


def check_use(wheel: Path, folder: Path, version: str) -> None:
    """Installs the wheel into an empty environment, and runs the quick start in an empty folder."""
    venv.create(folder / "environment", with_pip=True)
    python = folder / "environment" / "bin" / "python"
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint"]
    run(python, *install, ROOT / "constraints.txt", wheel)
    home = folder / "home"
    home.mkdir()
    (home / "quick_start.py").write_text(quick_start(), encoding="utf-8")
    print(run(python, "-W", "error", "quick_start.py", cwd=home), end="")
    if not (home / "accuracy.png").exists():
        raise NotReady("the quick start left no accuracy.png")
    found = run(python, "-c", "import ignition; print(ignition.__version__)", cwd=home).strip()
    if found != version:
        raise NotReady(f"what is installed calls itself {found}, not {version}")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """What a command prints. Nothing of the environment leads Python to the sources here."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["MPLBACKEND"] = "Agg"
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotReady(f"{' '.join(map(str, command))} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def main(rehearse: bool) -> None:
    version = check_version(rehearse)
    dist = ROOT / "dist"
    for old in dist.glob("torch_ignition-*"):
        old.unlink()
    print(f"Building {version} into dist/ ...", flush=True)
    wheel, source = build(dist)
    check_contents(wheel, source, version)
    print("Installing the wheel into an empty environment, and running the quick start there ...", flush=True)
    with TemporaryDirectory() as folder:
        check_use(wheel, Path(folder), version)
    print(f"{wheel.name} and {source.name} are ready{', but for the changelog' if rehearse else ''}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Builds the packages, and uses them as a stranger would.")
    parser.add_argument("--rehearse", action="store_true", help='take a changelog that still says "Unreleased"')
    try:
        main(parser.parse_args().rehearse)
    except NotReady as error:
        sys.exit(f"not ready: {error}")
