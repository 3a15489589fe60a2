"""What type checkers see of the package: annotated code passes in strict mode, and a mistake in it is seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "typed.py"

pytestmark = pytest.mark.slow

MISTAKES = {
    "self.step = trainer.step": "self.step = trainer.steps",
    "trainer.fit(epochs=epochs)": 'trainer.fit(epochs="5")',
    "best.epoch}": "best.epochs}",
    "patience=3)": "patients=3)",
    "model.size()": "model.sizes()",
}


def pyright(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(file)]
    return subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=False)


def test_the_annotated_example_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLE)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "expected: " in done.stdout


def test_pyright_finds_no_mistake_in_the_annotated_example_and_each_that_is_put_in(tmp_path: Path) -> None:
    pytest.importorskip("pyright")
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}', encoding="utf-8")
    text = EXAMPLE.read_text(encoding="utf-8")
    file = tmp_path / "example.py"
    file.write_text(text, encoding="utf-8")
    clean = pyright(file)
    assert clean.returncode == 0, clean.stdout
    for right, wrong in MISTAKES.items():
        assert right in text
        text = text.replace(right, wrong)
    file.write_text(text, encoding="utf-8")
    found = pyright(file).stdout
    lines = {int(line.split(":")[1]) for line in found.splitlines() if " - error: " in line}
    assert lines >= {text[: text.index(wrong)].count("\n") + 1 for wrong in MISTAKES.values()}
