"""What becomes of a training on many processes when one of them, or all, are killed, broken or asked to end.

The judges are those of `test_faults`; here they look at each process. The real torchrun restarts what was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import process_script
import pytest
from forked_processes import Runs, preloaded

pytestmark = pytest.mark.slow

SCRIPT = Path(process_script.__file__)
WHOLE = 240  # seconds, on a machine with much else to do


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    with preloaded() as context:
        yield context


@pytest.fixture
def script(context: Any, tmp_path: Path) -> Callable[..., Runs]:
    return lambda name="script", **job: Runs(context, tmp_path / name, **job)


def torchrun(size: int, job: dict[str, Any], *options: str, script: Path = SCRIPT) -> subprocess.Popen[str]:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command, str(script), json.dumps(job)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    """What it wrote to its standard error."""
    try:
        return process.communicate(timeout=WHOLE)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        for one in Path("/proc").glob("[0-9]*/cmdline"):  # its processes too, which hold its standard error
            with contextlib.suppress(OSError):
                if process.args[-1] in one.read_text():
                    os.kill(int(one.parent.name), signal.SIGKILL)
        process.communicate()
        pytest.fail(f"torchrun still ran after {WHOLE} seconds")


# One of them fails


@pytest.mark.fault("many processes: an error in one", "Message 1, no Hang, Equal 1", 1)
@pytest.mark.parametrize("rank", [0, 2])
def test_an_error_in_one_ends_all_with_that_error_and_the_next_run_ends_in_the_same_bits(
    rank: int, script: Callable[..., Runs]
) -> None:
    whole, broken = script("whole"), script("broken")
    assert whole.run(3) == [0] * 3, whole.log(3)
    statuses = broken.run(3, fault={"step": 7, "ranks": [rank], "kind": "raise"})
    assert 0 not in statuses
    raised = [report["raised"] for report in broken.reports(3)]
    assert raised.pop(rank) == "ZeroDivisionError: the fault of this test"
    for other in raised:
        assert other.startswith(f"ProcessError: process {rank} ended: ZeroDivisionError: the fault of this test")
    assert "in strike" in Path(f"{broken.report}.log.{rank}").read_text()  # the line that raised it
    assert broken.run(3) == [0] * 3, broken.log(3)
    assert broken.reports(3) == whole.reports(3)


@pytest.mark.fault("many processes: one leaves the script", "Message 1, no Hang", 1)
def test_one_that_leaves_early_ends_the_others_with_a_named_error(script: Callable[..., Runs]) -> None:
    runs = script()
    statuses = runs.run(2, fault={"step": 3, "ranks": [1], "kind": "exit"})
    assert statuses[0] == 1
    assert runs.report_of(0)["raised"].startswith("ProcessError: process 1 ended: SystemExit: 0")


@pytest.mark.fault("many processes: one killed, without restarts", "Message 1, no Hang", 1)
def test_one_that_is_killed_ends_the_others_with_a_named_error(script: Callable[..., Runs]) -> None:
    runs = script()
    assert runs.run(2, fault={"step": 3, "ranks": [1], "kind": "SIGKILL"}) == [1, -signal.SIGKILL]
    assert runs.report_of(0)["raised"].startswith(
        "ProcessError: another process has died, or has left the script without an error"
    )


@pytest.mark.fault("many processes: metrics with different names", "Message 1, no Hang", 1)
def test_metrics_without_a_common_name_are_an_error_and_further_ones_are_means_of_those_that_have_them(
    script: Callable[..., Runs],
) -> None:
    apart = script("apart", odd_metrics=["loss of process 0", "loss of process 1"])
    assert 0 not in apart.run(2), apart.log(2)
    assert "MetricError: train_fn returned 'loss of process 0' in process 0, and none of these" in str(apart.reports(2))
    further = script("further", odd_metrics=[None, "odd"])
    assert further.run(2) == [0, 0], further.log(2)
    assert all(report["columns"] == further.report_of(0)["columns"] for report in further.reports(2))
    assert "train_odd" in further.report_of(0)["columns"]


@pytest.mark.fault("many processes: loaders of different lengths", "Message 1, no Hang", 1)
def test_loaders_of_different_lengths_are_named_before_the_first_batch(script: Callable[..., Runs]) -> None:
    runs = script(odd_length=True)
    assert 0 not in runs.run(2)
    assert all("train_loader is [9, 54] in process 0 and" in report["raised"] for report in runs.reports(2))
    assert runs.steps() == []


# Asked to end


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
@pytest.mark.parametrize("ranks", [[0], [1], [0, 1]], ids=["first", "second", "all"])
def test_a_signal_to_one_or_all_ends_all_after_the_same_step_with_one_checkpoint(
    name: str, ranks: list[int], script: Callable[..., Runs], seen: Callable[..., None]
) -> None:
    runs = script(every=100)
    statuses = runs.run(2, fault={"step": 2, "ranks": ranks, "kind": name})
    number = getattr(signal, name)
    assert statuses == ([1, 1] if name == "SIGINT" else [128 + number] * 2), runs.log(2)
    ended = "KeyboardInterrupt: " if name == "SIGINT" else f"SystemExit: {128 + number}"
    assert [report["raised"] for report in runs.reports(2)] == [ended] * 2
    (step,) = {runs.steps(rank)[-1][1] for rank in range(2)}
    assert [path.name for path in runs.checkpoints.glob("fit-*")] == [f"fit-001-step-{step:09d}"]
    assert runs.run(2) == [0, 0], runs.log(2)
    assert runs.samples_in(1, 2) == list(range(process_script.SAMPLES))
    whom = "all" if len(ranks) == 2 else "one"
    seen(f"many processes: {name} to {whom}", 1, "the same step, one checkpoint, Samples 1")


# Under torchrun


@pytest.fixture(scope="module")
def expected(context: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], list[dict[str, Any]]]:
    """What an uninterrupted run leaves in each process."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}

    def reports(size: int, workers: int, strategy: str = "ddp") -> list[dict[str, Any]]:
        case = size, workers, strategy
        if case not in found:
            runs = Runs(context, tmp_path_factory.mktemp("whole") / "run", workers=workers, epochs=9, strategy=strategy)
            assert runs.run(size) == [0] * size, runs.log(size)
            found[case] = runs.reports(size)
        return found[case]

    return reports


@pytest.mark.parametrize(
    ("killed", "size", "strategy", "kills"), [("one", 2, "ddp", 10), ("all", 2, "ddp", 10), ("one", 2, "fsdp", 4)]
)
def test_what_is_killed_at_random_moments_is_restarted_and_ends_in_the_same_bits(
    killed: str, size: int, strategy: str, kills: int,
    tmp_path: Path, expected: Callable[..., Any], seen: Callable[..., None],
) -> None:  # fmt: skip
    report = tmp_path / "report"
    job = {
        "folder": str(tmp_path / "checkpoints"), "report": str(report), "epochs": 9, "pause": 0.02,
        "kills": kills, "killed": killed, "within": 0.6, "seed of kills": 1, "strategy": strategy,
    }  # fmt: skip
    errors = finish(process := torchrun(size, job, "--max-restarts", str(kills)))
    assert process.returncode == 0, errors
    restarts = int(Path(f"{report}.restarts").read_text())
    reports = [json.loads(Path(f"{report}.{rank}").read_text()) for rank in range(size)]
    assert reports == expected(size, 0, strategy)
    assert restarts >= kills // 2
    under = " under FSDP" if strategy == "fsdp" else ""
    seen(
        f"many processes{under}: kill -9 of {killed}, restarted by torchrun",
        restarts,
        f"back again {restarts}, Equal 1",
    )


@pytest.mark.fault("many processes: an error in one, under torchrun", "its traceback is printed last 1, no Hang", 1)
def test_torchrun_prints_the_error_of_the_process_that_failed_last(tmp_path: Path) -> None:
    fault = {"step": 3, "ranks": [1], "kind": "raise"}
    job = {"folder": str(tmp_path / "checkpoints"), "report": str(tmp_path / "report"), "fault": fault}
    errors = finish(process := torchrun(2, job))
    assert process.returncode == 1
    last = errors[errors.rindex("Root Cause") :]
    assert "rank      : 1 (local_rank: 1)" in last
    assert "in strike" in last
    assert last.rstrip(" =\n-").endswith("ZeroDivisionError: the fault of this test")


OUTSIDE = """
import torch
from ignition import Trainer, distributed

model = torch.nn.Linear(2, 1)
trainer = Trainer(model, None, lambda model, x: None, [(torch.ones(2, 2),)] * 4, progress=False)
trainer.fit(epochs=1)
if distributed.rank() == 1:
    raise ZeroDivisionError("between two fits")
trainer.fit(epochs=1)
"""


@pytest.mark.fault("many processes: an error between two fits, under torchrun", "its traceback is printed last 1", 1)
def test_torchrun_prints_an_error_between_two_fits_last(tmp_path: Path) -> None:
    script = tmp_path / "outside.py"
    script.write_text(OUTSIDE)
    errors = finish(process := torchrun(2, {}, script=script))
    assert process.returncode == 1
    last = errors[errors.rindex("Root Cause") :]
    assert "rank      : 1 (local_rank: 1)" in last
    assert 'outside.py", line 9, in <module>' in last
    assert last.rstrip(" =\n-").endswith("ZeroDivisionError: between two fits")
    assert "process 1 ended: ZeroDivisionError: between two fits" in errors


BEFORE = """
from ignition import distributed

def fail(place):
    if distributed.rank() == {rank} and place == "{place}":
        raise ZeroDivisionError("before there is a Trainer")

fail("at once")
with distributed.main_first():
    fail("main_first")
fail("later")
distributed.barrier()
"""


@pytest.mark.parametrize(("rank", "place"), [(1, "at once"), (0, "main_first"), (1, "main_first"), (0, "later")])
def test_torchrun_prints_an_error_before_the_first_trainer_last(rank: int, place: str, tmp_path: Path) -> None:
    script = tmp_path / "before.py"
    script.write_text(BEFORE.format(rank=rank, place=place))
    errors = finish(process := torchrun(2, {}, script=script))
    assert process.returncode == 1
    last = errors[errors.rindex("Root Cause") :]
    assert f"rank      : {rank} (local_rank: {rank})" in last
    assert "in fail" in last
    assert last.rstrip(" =\n-").endswith("ZeroDivisionError: before there is a Trainer")


@pytest.mark.parametrize("whom", ["torchrun", "torchrun and all of its processes"])
def test_a_torchrun_that_is_asked_to_end_leaves_a_checkpoint_and_goes_on_to_the_same_bits(
    whom: str, tmp_path: Path, expected: Callable[..., Any], seen: Callable[..., None]
) -> None:
    report = tmp_path / "report"
    job = {"folder": str(tmp_path / "checkpoints"), "report": str(report), "epochs": 9, "workers": 1, "every": 100}
    process = torchrun(2, {**job, "pause": 0.05})
    samples, end = [Path(f"{report}.samples.{rank}") for rank in range(2)], time.monotonic() + WHOLE
    while not samples[0].exists() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.01)
    if whom != "torchrun":
        for rank in range(2):
            os.kill(int(Path(f"{report}.pid.{rank}").read_text()), signal.SIGTERM)
    process.terminate()
    finish(process)
    (step,) = {path.read_text().count("\n") for path in samples}
    assert [path.name for path in (tmp_path / "checkpoints").glob("fit-*")] == [f"fit-001-step-{step:09d}"]
    errors = finish(process := torchrun(2, job))
    assert process.returncode == 0, errors
    assert [json.loads(Path(f"{report}.{rank}").read_text()) for rank in range(2)] == expected(2, 1)
    seen(f"many processes: SIGTERM to {whom}, loader workers", 1, "stopped with a checkpoint, Equal 1")


LEAVES = """
import subprocess, sys, time
from ignition import distributed

if distributed.rank() == 1 and {leaves}:
    sys.exit()
if distributed.rank() == 1:  # its children have its environment, and are none of torchrun's
    subprocess.run([sys.executable, "-c", "import ignition"], check=True)
    time.sleep(1)
distributed.barrier()
"""


@pytest.mark.fault("many processes: one leaves before the first Trainer, under torchrun", "Message 1, no Hang", 1)
def test_one_that_leaves_before_the_first_meeting_is_not_waited_for(tmp_path: Path) -> None:
    script = tmp_path / "leaves.py"
    script.write_text(LEAVES.format(leaves=True))
    errors = finish(process := torchrun(2, {}, script=script))
    assert process.returncode == 1
    assert "ProcessError: process 1 has left the script before it met the others" in errors


def test_a_child_of_a_script_that_ends_is_not_taken_for_it(tmp_path: Path) -> None:
    script = tmp_path / "stays.py"
    script.write_text(LEAVES.format(leaves=False))
    errors = finish(process := torchrun(2, {}, script=script))
    assert process.returncode == 0, errors
