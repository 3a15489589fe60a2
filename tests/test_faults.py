"""What becomes of a training that is killed, interrupted or broken: real processes, run again until they have finished.

The judges: Equal (weights, optimizer, generators and history are those of a run that nothing happened to), Retained
(every checkpoint that has its name is whole, and none that was acknowledged is lost), Message, no Hang.
What was seen is printed at the end of the run, and stands in docs/reliability.md.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fault_script
import pytest

from ignition import checkpoint

pytestmark = pytest.mark.slow

STEPS = fault_script.EPOCHS * fault_script.SAMPLES // fault_script.BATCH
HANG = 10  # seconds
WHOLE = 120  # seconds; how long a test may be busy in all, on a machine with much else to do

WITH_ARTICLE = {"batch": "a batch", "evaluation": "an evaluation", "save": "a save", "worker": "a data set"}
SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")
KILL_IN_AN_EPOCH = {"place": "batch", "at": 4, "kind": "kill"}


@pytest.fixture(scope="module")
def warm() -> Any:
    """Starts processes that have torch already: they are forked from one that does nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fault_script"])
    before = os.environ.get("PYTHONPATH")
    # Where that one finds the script; and the same package as this process, not the one that happens to be installed.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), before)))
    try:
        from multiprocessing.forkserver import ensure_running

        ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


class Script:
    """The script in a folder of its own, to be run again and again."""

    def __init__(self, start: Callable[..., Any], folder: Path, **job: Any) -> None:
        self.start, self.folder = start, folder / "checkpoints"
        self.report = folder / "report"
        self.job = {"folder": str(self.folder), "report": str(self.report), **job}

    def begin(self, **changes: Any) -> Any:
        return self.start(fault_script.main, {**self.job, **changes})

    def run(self, **changes: Any) -> dict[str, Any]:
        """Runs it until it ends, whichever way."""
        process = self.begin(**changes)
        finish(process)
        return self.ended() | {"exitcode": process.exitcode}

    def ended(self) -> dict[str, Any]:
        ended: dict[str, Any] = json.loads(self.report.read_text())
        return ended

    @property
    def log(self) -> str:
        return Path(f"{self.report}.log").read_text()

    def steps(self) -> int:
        """How many steps were taken so far, by all its processes."""
        path = Path(f"{self.report}.steps")
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def check_retained(self) -> None:
        names = sorted(path.name for path in self.folder.glob("fit-*"))
        for name in names:
            checkpoint.read(self.folder / name)
        acknowledged = fault_script.last_line(f"{self.report}.steps")
        assert acknowledged == "-" or names[-1] >= acknowledged


@pytest.fixture
def script(warm: Any, tmp_path: Path) -> Iterator[Callable[..., Script]]:
    """Makes scripts; what still runs of them at the end of the test is killed."""
    started: list[Any] = []

    def start(target: Any, *arguments: Any) -> Any:
        process = warm.Process(target=target, args=arguments)
        process.start()
        started.append(process)
        return process

    def make(name: str = "script", **job: Any) -> Script:
        folder = tmp_path / name
        folder.mkdir()
        return Script(start, folder, **job)

    make.start = start  # type: ignore[attr-defined]
    yield make
    for process in started:
        process.kill()
        process.join(HANG)
        process.close()


def finish(process: Any, seconds: float = WHOLE) -> None:
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join(HANG)
        pytest.fail(f"the process still ran after {seconds} seconds")


def wait_until(reached: Callable[[], bool], process: Any) -> None:
    deadline = time.monotonic() + WHOLE
    while not reached() and process.is_alive():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.002)


# Killed


@pytest.mark.parametrize(
    "job",
    [
        {"every": 2},
        {"every": 3, "accumulate": 2},
        {"every": "epoch", "workers": 2},
        {"every": "0.05s", "workers": 1, "keep": 1},
    ],
    ids=["steps", "accumulating", "epochs, two workers", "time, one worker"],
)
def test_a_training_killed_again_and_again_ends_in_the_same_bits(job, script, seen):
    expected = script("whole", **job).run()["fingerprint"]
    moments = random.Random(repr(job))
    kills = 0
    for number in range(5):
        one = script(f"killed-{number}", **job, pause=0.01)
        for _ in range(1 + number % 2):
            process = one.begin()
            begun, last = one.steps(), moments.randrange(1, STEPS // job.get("accumulate", 1) - 2)
            wait_until(lambda one=one, at=begun + last: one.steps() >= at, process)
            time.sleep(moments.uniform(0, 0.02))
            process.kill()
            finish(process)
            kills += process.exitcode == -signal.SIGKILL
            one.check_retained()
        ended = one.run()
        assert ended["exitcode"] == 0, one.log
        assert ended["fingerprint"] == expected
        assert not list(one.folder.glob(".*"))  # what dead writers have left is swept
    seen("kill -9 in training at random moments, 0 to 2 workers", 5, f"kills {kills}, Equal 5, Retained {kills}")
    assert kills >= 4


def test_no_checkpoint_is_lost_by_four_hundred_kills_in_the_middle_of_saves(script, seen, tmp_path):
    tries = 400
    process = script.start(fault_script.kill_in_saves, str(tmp_path / "c"), tries, str(tmp_path / "report"))
    finish(process, 5 * WHOLE)
    found = json.loads((tmp_path / "report").read_text())
    seen("kill -9 in saves", tries, f"with a save half done {found['in a save']}, Retained {tries - found['lost']}")
    assert found["in a save"] > tries / 10
    assert found == {"tries": tries, "in a save": found["in a save"], "not whole": 0, "lost": 0, "not swept": 0}


def test_a_python_of_its_own_that_is_killed_goes_on_too(tmp_path, script, seen):
    expected = script("whole").run()["fingerprint"]
    one = script("killed", pause=0.02)
    command = [sys.executable, fault_script.__file__]
    with subprocess.Popen([*command, json.dumps(one.job)]) as process:
        try:
            deadline = time.monotonic() + WHOLE
            while one.steps() < STEPS // 2 and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    one.check_retained()
    subprocess.run([*command, json.dumps(one.job)], check=True, timeout=WHOLE)
    assert one.ended()["fingerprint"] == expected
    seen("kill -9 of a whole Python", 1, "Equal 1, Retained 1")


# Signals


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("place", ["batch", "evaluation", "save"])
def test_a_signal_ends_the_fit_in_order_and_the_next_run_ends_in_the_same_bits(name, place, script, seen):
    expected = script("whole").run()["fingerprint"]
    one = script("stopped", fault={"place": place, "at": 5, "kind": name})
    ended = one.run()
    check_ended_by(name, ended)
    assert ended["ends"] == 1
    assert ended["restored"]
    newest = max(path.name for path in one.folder.glob("fit-*"))
    assert newest == f"fit-001-step-{ended['step']:09d}"  # nothing that was done is lost
    one.check_retained()
    assert one.run()["fingerprint"] == expected
    seen(f"{name} in {WITH_ARTICLE[place]}", 1, "stopped with a checkpoint, Equal 1, Retained 1")


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("place", ["batch", "evaluation", "save"])
def test_a_second_signal_ends_it_at_once_and_the_next_run_ends_in_the_same_bits(name, place, script, seen):
    expected = script("whole").run()["fingerprint"]
    one = script("stopped", fault={"place": place, "at": 5, "kind": name, "times": 2})
    ended = one.run()
    check_ended_by(name, ended)
    assert ended["ends"] == 1
    assert ended["restored"]
    one.check_retained()
    assert one.run()["fingerprint"] == expected
    seen(f"{name} twice in {WITH_ARTICLE[place]}", 1, "aborted, Equal 1, Retained 1")


@pytest.mark.parametrize("place", ["train_begin", "train_end"])
def test_a_signal_at_the_edge_of_a_fit_loses_nothing(place, script, seen):
    expected = script("whole").run()["fingerprint"]
    one = script("stopped", fault={"place": place, "kind": "SIGINT"})
    ended = one.run()
    check_ended_by("SIGINT", ended)
    assert ended["restored"]
    assert one.run()["fingerprint"] == expected
    seen(f"SIGINT in on_{place}", 1, "Equal 1")


def test_a_signal_to_the_whole_group_reaches_the_loader_workers_and_does_no_harm(script, seen):
    """As Ctrl-C in a terminal, and the end of a job on many a cluster."""
    expected = script("whole", workers=2).run()["fingerprint"]
    for name in SIGNALS:
        one = script(name, workers=2, pause=0.02)
        command = [sys.executable, fault_script.__file__, json.dumps(one.job)]
        with subprocess.Popen(command, start_new_session=True) as process:
            try:
                deadline = time.monotonic() + WHOLE
                while one.steps() < STEPS // 2 and time.monotonic() < deadline:
                    time.sleep(0.01)
                os.killpg(process.pid, getattr(signal, name))
                process.wait(WHOLE)
            finally:
                process.kill()
        one.check_retained()
        assert one.run()["fingerprint"] == expected
    seen("a signal to the script and its loader workers", 3, "Equal 3, Retained 3")


@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1"])
def test_a_signal_to_the_whole_group_is_left_by_workers_that_were_there_before_the_fit(name, script, seen):
    """Those of an epoch that goes on in its middle, and those of an evaluation that persist."""
    expected = script("whole", workers=2).run()["fingerprint"]
    one = script("stopped", workers=2, test_workers=1, own=False, pause=0.05, every=1, fault=KILL_IN_AN_EPOCH)
    finish(one.begin())
    begun = one.steps()
    command = [sys.executable, fault_script.__file__, json.dumps(one.job)]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            wait_until_taken(one, begun + 2, process)
            os.killpg(process.pid, getattr(signal, name))
            process.wait(WHOLE)
        finally:
            process.kill()
    ended = one.ended()
    assert ended["raised"] == ("KeyboardInterrupt: " if name == "SIGINT" else f"SystemExit: {128 + signal.SIGUSR1}")
    assert ended["step"] < STEPS
    one.check_retained()
    assert one.run()["fingerprint"] == expected
    seen("a signal to the script and loader workers that were there before the fit", 1, "Equal 1, Retained 1")


def wait_until_taken(one, steps, process):
    deadline = time.monotonic() + WHOLE
    while one.steps() < steps and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def check_ended_by(name, ended):
    if name == "SIGINT":
        assert ended["raised"] == "KeyboardInterrupt: "
        assert ended["exitcode"] == 1  # what multiprocessing makes of it; a script of its own ends by the signal
    else:
        assert ended["raised"] == f"SystemExit: {128 + getattr(signal, name)}"
        assert ended["exitcode"] == 128 + getattr(signal, name)


# Errors


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("place", ["batch", "evaluation", "worker", "save"])
def test_an_error_comes_out_as_it_was_raised_and_the_next_run_ends_in_the_same_bits(place, workers, script, seen):
    expected = script("whole", workers=workers).run()["fingerprint"]
    one = script("broken", workers=workers, fault={"place": place, "at": 9})
    ended = one.run()
    assert ended["exitcode"] == 1
    assert ended["ends"] == 1
    assert ended["restored"]
    if place == "save":
        assert ended["raised"].startswith("CheckpointError: a checkpoint could not be written: the fault of this test")
        assert "ZeroDivisionError: the fault of this test" in one.log  # its cause, with its traceback
    else:
        assert ended["raised"].startswith("ZeroDivisionError: ")
        assert "the fault of this test" in ended["raised"]
        assert "in reach" in one.log  # the line that raised it
    one.check_retained()
    assert one.run()["fingerprint"] == expected
    seen(f"an error in {WITH_ARTICLE[place]}, {workers} workers", 1, "Message 1, Equal 1, Retained 1")


def test_a_loader_worker_that_is_killed_is_an_error_and_no_hang(script, seen):
    expected = script("whole", workers=2).run()["fingerprint"]
    one = script("broken", workers=2, fault={"place": "worker", "at": 20, "kind": "kill"})
    process = one.begin()
    wait_until(lambda: Path(f"{one.report}.over").exists(), process)
    finish(process, HANG)
    ended = one.ended()
    assert ended["raised"].startswith("RuntimeError: DataLoader worker (pid")
    assert ended["ends"] == 1
    assert one.run()["fingerprint"] == expected
    seen("a loader worker killed", 1, "Message 1, no Hang, Equal 1")


# One folder for two


def test_a_second_process_on_the_folder_refuses_and_takes_over_when_the_first_is_dead(script, seen):
    expected = script("whole").run()["fingerprint"]
    one = script("shared", pause=0.2)
    first = one.begin()
    wait_until(lambda: one.steps() > 2, first)
    second = one.run(pause=0, report=f"{one.report}")
    assert second["exitcode"] == 1
    assert f"is being written by the process {first.pid}" in second["raised"]
    assert first.is_alive()
    first.kill()
    finish(first)
    one.check_retained()
    assert one.run(pause=0)["fingerprint"] == expected
    seen(
        "two processes on one folder", 1, "the second refused with the first's number, Equal after the first's death 1"
    )
