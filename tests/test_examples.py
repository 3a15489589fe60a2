"""The scripts in examples/, run as a newcomer runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.slow


def run(name: str, *arguments: str, folder: Path) -> list[str]:
    """The lines that an example prints when it is run in a folder, every warning being an error."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


def test_digits_reads_most_digits_after_three_epochs_and_leaves_weights_and_curves(tmp_path: Path) -> None:
    *_, last = run("digits.py", "--epochs", "3", folder=tmp_path)
    found = re.search(r"read ([\d.]+)% of the test digits right", last)
    assert found is not None, last
    assert 90 < float(found[1]) <= 100

    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    results = tmp_path / "runs" / "digits"
    assert sorted(path.name for path in results.iterdir()) == ["accuracy.png", "best.pt", "loss.png"]
    for name in ("accuracy.png", "loss.png"):
        assert (results / name).read_bytes().startswith(b"\x89PNG")


def test_the_student_comes_ten_times_closer_to_its_teacher(tmp_path: Path) -> None:
    *_, last = run("teacher_student.py", folder=tmp_path)
    found = re.search(r"fell from ([\d.]+) to ([\d.]+\d)", last)
    assert found is not None, last
    assert float(found[2]) < float(found[1]) / 10
    assert list(tmp_path.iterdir()) == []
