"""The scripts in examples/, run as a newcomer runs them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

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
    assert sorted(path.name for path in results.iterdir()) == ["accuracy.png", "best.pt", "checkpoints", "loss.png"]
    for name in ("accuracy.png", "loss.png"):
        assert (results / name).read_bytes().startswith(b"\x89PNG")


def test_digits_that_is_killed_half_way_and_run_again_ends_with_the_same_digits_and_then_stays_there(
    tmp_path: Path,
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    *_, expected = run("digits.py", "--epochs", "3", folder=whole)

    command = [sys.executable, str(EXAMPLES / "digits.py"), "--epochs", "3"]
    with subprocess.Popen(command, cwd=killed, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not list(killed.glob("runs/digits/checkpoints/fit-*")) and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL

    lines = run("digits.py", "--epochs", "3", folder=killed)
    assert lines[0].startswith("goes on from runs/digits/checkpoints/fit-001-step-")
    assert lines[-1] == expected
    results = [folder / "runs" / "digits" for folder in (whole, killed)]
    best, again = (torch.load(folder / "best.pt", weights_only=True) for folder in results)
    assert best.keys() == again.keys()
    assert all(torch.equal(best[name], again[name]) for name in best)

    lines = run("digits.py", "--epochs", "3", folder=killed)
    assert "was finished" in lines[0]
    assert lines[-1] == expected


def test_the_student_comes_ten_times_closer_to_its_teacher(tmp_path: Path) -> None:
    *_, last = run("teacher_student.py", folder=tmp_path)
    found = re.search(r"fell from ([\d.]+) to ([\d.]+\d)", last)
    assert found is not None, last
    assert float(found[2]) < float(found[1]) / 10
    assert list(tmp_path.iterdir()) == []


def test_the_sweep_gives_trials_up_and_leaves_a_picture(tmp_path: Path) -> None:
    *_, last = run("sweep.py", "--trials", "10", "--epochs", "4", folder=tmp_path)
    found = re.search(r"(\d+) of 10 trials were given up early\. The best has val_loss ([\d.]+),", last)
    assert found is not None, last
    assert 0 < int(found[1]) < 7
    assert float(found[2]) < 0.5  # it is 2.3 before the first step
    assert (tmp_path / "runs" / "sweep" / "trials.png").read_bytes().startswith(b"\x89PNG")


# Runs a script's main with its arguments, and has the first process write down the losses.
LOSSES_OF = """
import json, os, runpy, sys
from pathlib import Path
script, losses, arguments = sys.argv[1:]
trainer = runpy.run_path(script)["main"](**json.loads(arguments))
if os.environ.get("RANK", "0") == "0":
    rows = [{name: value for name, value in row.items() if "loss" in name} for row in trainer.history.rows]
    Path(losses).write_text(json.dumps(rows))
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("digits.py", {"epochs": 2, "dropout": 0.0}),
        ("transformer.py", {"steps": 12, "precision": "fp32", "seed": 3}),
    ],
)
def test_two_processes_give_the_losses_of_one_and_say_so_once(
    name: str, arguments: dict[str, object], tmp_path: Path
) -> None:
    rows, said = [], []
    for processes in (1, 2):
        folder, losses = tmp_path / str(processes), tmp_path / f"{processes}.json"
        folder.mkdir()
        launcher = [] if processes == 1 else [*TORCHRUN, str(processes), "--no-python", sys.executable]
        command = [sys.executable, *launcher, "-W", "error", "-c", LOSSES_OF, EXAMPLES / name, losses]
        finished = subprocess.run(
            [*map(str, command), json.dumps(arguments)], cwd=folder, capture_output=True, text=True, check=False
        )
        assert finished.returncode == 0, finished.stderr
        rows.append(json.loads(losses.read_text()))
        said.append([line.split()[0] for line in finished.stdout.splitlines() if "loss" in line or "Next" in line])
    one, two = rows
    assert len(one) == len(two) > 1
    for row, other in zip(one, two, strict=True):
        assert row.keys() == other.keys() == {"train_loss", "val_loss"}
        assert other == pytest.approx(row, abs=1e-5)
    assert said[0] == said[1]
    assert len(said[0]) >= len(one)
