"""WandB offline, read back from the files that `wandb sync` would send."""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from tracked import Killed, build, points, run, without_times
from wandb.sdk.lib.module import unset_globals

from ignition import Trainer
from ignition.callbacks import WandB
from ignition.callbacks.wandb_file import records as records_in
from ignition.callbacks.wandb_file import rows
from ignition.errors import ArgumentError, IgnitionError, IgnitionWarning

pytestmark = pytest.mark.slow  # each run starts wandb's service


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("CONFIG", "CACHE", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.teardown()
    unset_globals()  # a run whose service was killed stays wandb's current one


def tracker(folder: Path, **options: Any) -> WandB:
    return WandB("digits", dir=str(folder), mode="offline", **{"every": 1, **options})


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def series(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What all the files say together: ``(step, value)`` by name; a row is one number of wandb's own, used once."""
    found: dict[str, list[tuple[int, float]]] = {}
    numbers = []
    for path in files(folder):
        for row in rows(path):
            axis = "batch/step" if any(name.startswith("batch/") for name in row) else "step"
            numbers.append(row["_step"])
            for name, value in row.items():
                if not name.startswith("_") and name != axis:
                    found.setdefault(name, []).append((row[axis], value))
    assert len(set(numbers)) == len(numbers)
    return {name: sorted(points) for name, points in found.items()}


def records(folder: Path) -> dict[str, list[tuple[int, float]]]:
    return {name: one for name, one in series(folder).items() if not name.startswith("batch/")}


def config(path: Path) -> dict[str, Any]:
    found = {}
    rows(path)  # until it is written
    for record in records_in(path):
        found |= {one.key: one.value_json for one in [*record.config.update, *record.run.config.update]}
    return found


def test_a_run_has_the_config_the_records_and_the_batches(tmp_path: Path) -> None:
    callback = tracker(tmp_path, every=2, hyper={"layers": 2, "kind": [1, "a"]}, name="first")
    trainer = build(callback)
    trainer.fit(epochs=2, eval_every=3)
    (path,) = files(tmp_path)
    assert path.name == f"run-{callback.run_id}.wandb"
    expected = {"lr": "0.1", "optimizer": '"SGD"', "batch_size": "8", "lambd": "4.0", "layers": "2"}
    assert {name: config(path)[name] for name in expected} == expected
    assert records(tmp_path) == points(trainer)
    assert [step for step, _ in series(tmp_path)["batch/loss"]] == [2, 4, 6, 8, 10]
    assert callback.run is None
    assert wandb.run is None


def test_nothing_is_asked_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect, asked = socket.socket.connect, []

    def note(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost", "::1"):
            asked.append(address)
        connect(self, address)  # its own service is on this machine

    monkeypatch.setattr(socket.socket, "connect", note)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: asked.append(arguments) or [])
    build(tracker(tmp_path)).fit(epochs=1)
    from wandb.analytics.opentelemetry import opentelemetry_proxy

    assert opentelemetry_proxy.get_open_telemetry_proxy() is None
    assert asked == []


def test_nan_infinity_and_any_name_are_written(tmp_path: Path) -> None:
    build(tracker(tmp_path), metrics={"recall@5 (%)": math.nan, "größe": math.inf}).fit(epochs=1)
    found = series(tmp_path)
    assert all(math.isnan(value) for _, value in found["batch/recall@5 (%)"])
    assert [value for _, value in found["train_größe"]] == [math.inf]


def test_a_run_that_the_user_has_begun_is_written_to_and_left_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    mine = wandb.init(dir=str(tmp_path), project="mine", config={"lr": "mine"})
    callback = WandB()
    trainer = build(callback)
    trainer.fit(epochs=1)
    trainer.fit(epochs=1)
    assert wandb.run is mine
    mine.finish()
    assert callback.run_id == mine.id
    assert records(tmp_path) == points(trainer)
    assert config(files(tmp_path)[0])["lr"] == '"mine"'


# Going on


@pytest.mark.parametrize("die_at", [6, 9, 12, 15])
def test_a_killed_run_that_goes_on_has_each_step_once_with_the_values_of_one_that_was_left_alone(
    die_at: int, tmp_path: Path
) -> None:
    run(tmp_path / "whole", tracker(tmp_path / "whole"))
    killed, again = tracker(tmp_path / "killed"), tracker(tmp_path / "killed")
    run(tmp_path / "killed", killed, die_at=die_at)
    run(tmp_path / "killed", again)
    assert again.run_id == killed.run_id
    found = series(tmp_path / "killed")
    assert without_times(found) == without_times(series(tmp_path / "whole"))
    assert [step for step, _ in found["batch/loss"]] == list(range(1, 16))
    assert [step for step, _ in found["seconds"]] == [5, 10, 15]


def test_what_wandb_had_not_written_when_it_was_killed_is_written_again_as_far_as_it_is_a_record(
    tmp_path: Path,
) -> None:
    run(tmp_path, tracker(tmp_path), die_at=12)
    (path,) = files(tmp_path)
    whole = rows(path)
    path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
    os.utime(path, (0, 0))  # and not just now
    left = rows(path)
    assert 0 < len(left) < len(whole)
    assert left == whole[: len(left)]
    trainer = run(tmp_path, tracker(tmp_path))
    assert records(tmp_path) == points(trainer)


def test_several_fits_are_one_run_and_so_is_one_after_an_error(tmp_path: Path) -> None:
    callback = tracker(tmp_path)
    trainer = build(callback, die_at=7)
    trainer.fit(epochs=1)
    first = callback.run_id
    with pytest.raises(Killed):
        trainer.fit(epochs=1)
    assert wandb.run is None
    plain = build()
    trainer.train_fn = lambda model, x, y, lambd: plain.train_fn(model, x, y, lambd)
    with pytest.warns(IgnitionWarning):  # the other Trainer's optimizer takes the steps
        trainer.fit(epochs=1)
    assert callback.run_id == first
    assert records(tmp_path) == points(trainer)


def test_another_trainer_is_another_run(tmp_path: Path) -> None:
    callback = tracker(tmp_path)
    build(callback).fit(epochs=1)
    first = callback.run_id
    build(callback).fit(epochs=1)
    assert callback.run_id != first
    assert len(files(tmp_path)) == 2


# What goes wrong


def test_a_service_that_dies_while_it_trains_warns_once_and_no_record_is_missing_after_the_next_fit(
    tmp_path: Path,
) -> None:
    callback = tracker(tmp_path)
    trainer = build(callback)

    @trainer.on("epoch_begin")
    def kill_the_service(trainer: Trainer[Any]) -> None:
        if trainer.epoch == 2:
            command = ["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())]
            children = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
            (service,) = (int(line.split()[0]) for line in children if line.split()[1] == "wandb-core")
            os.kill(service, signal.SIGKILL)
            time.sleep(0.5)

    with pytest.warns(IgnitionWarning, match="WandB.*could not be written.*the training goes on") as caught:
        trainer.fit(epochs=3)
    assert len([one for one in caught if issubclass(one.category, IgnitionWarning)]) == 1
    assert (trainer.step, len(trainer.history), trainer.exception) == (15, 3, None)
    trainer.fit(epochs=1)
    assert records(tmp_path) == points(trainer)


def test_files_that_are_taken_away_warn_once_and_no_record_is_missing_after_the_next_fit(tmp_path: Path) -> None:
    """The service writes to them on and on, and says nothing."""
    trainer = build(tracker(tmp_path))

    @trainer.on("epoch_begin")
    def take_away(trainer: Trainer[Any]) -> None:
        if trainer.epoch == 2:
            shutil.rmtree(tmp_path / "wandb")

    with pytest.warns(IgnitionWarning, match="WandB.*could not be written.*the training goes on") as caught:
        trainer.fit(epochs=3)
    assert len([one for one in caught if issubclass(one.category, IgnitionWarning)]) == 1
    assert (trainer.step, len(trainer.history), trainer.exception) == (15, 3, None)
    trainer.fit(epochs=1)
    assert records(tmp_path) == points(trainer)


def test_a_file_that_ends_too_early_warns_at_the_end_of_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(tracker(tmp_path))
    monkeypatch.setattr("ignition.callbacks.wandb_run.rows", lambda path, finished=0.0: rows(path, finished)[:-1])
    with pytest.warns(IgnitionWarning, match="ends with step 5, and not with 10"):
        trainer.fit(epochs=2)
    monkeypatch.undo()
    assert trainer.exception is None


def test_a_run_that_cannot_be_begun_is_an_error_before_the_first_batch(tmp_path: Path) -> None:
    trainer = build(tracker(tmp_path, id="no/such id"))
    with pytest.raises(Exception, match="Run ID"):
        trainer.fit(epochs=1)
    assert trainer.step == 0


@pytest.mark.parametrize(("name", "value"), [("project", 3), ("every", 0), ("resume", "must"), ("config", {})])
def test_bad_arguments_are_errors_at_once(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=name):
        WandB(**{name: value})


def test_without_wandb_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ignition.callbacks.tracking.find_spec", lambda name: None)
    with pytest.raises(IgnitionError, match=r"torch-ignition\[wandb\]"):
        WandB()
