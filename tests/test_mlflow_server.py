"""MLflow with a tracking server that goes away while it trains, and comes back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import pytest
from processes import free_port
from tracked import build, points, run

from ignition.callbacks import Checkpoint, MLflow
from ignition.errors import IgnitionWarning

pytestmark = pytest.mark.slow


@contextmanager
def server(folder: Path, port: int) -> Iterator[Callable[[], None]]:
    """A tracking server over a folder; gives what kills it, as a machine that fails would."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--default-artifact-root", str(folder / "artifacts")]
    with (folder / "log.txt").open("a") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)

    def kill() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    try:
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                break
            assert process.poll() is None, (folder / "log.txt").read_text()
            time.sleep(0.2)
        yield kill
    finally:
        kill()


def test_a_server_that_goes_away_warns_once_and_has_all_points_once_when_it_is_back(tmp_path: Path) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with server(tmp_path, port) as kill:
        callback = MLflow(address, every=1)
        trainer = build(Checkpoint(tmp_path / "checkpoints", every=4), callback)
        trainer.on("step_end")(lambda trainer: kill() if trainer.step == 7 else None)
        environment = dict(os.environ)
        started = time.monotonic()
        with pytest.warns(IgnitionWarning, match="could not be written.*; the training goes on") as caught:
            trainer.fit(epochs=3, resume=True)
        assert len(caught) == 1
        assert trainer.step == 15
        assert dict(os.environ) == environment
        assert time.monotonic() - started < 100  # MLflow by itself tries for 250 s

    with server(tmp_path, port):
        again = MLflow(address, every=1)
        trainer = run(tmp_path, again, epochs=4)
        assert again.run_id == callback.run_id
        reader = mlflow.MlflowClient(tracking_uri=address)
        found = reader.get_run(again.run_id)
        assert found.info.status == "FINISHED"
        series = {
            name: sorted((one.step, one.value) for one in reader.get_metric_history(again.run_id, name))
            for name in found.data.metrics
        }
    assert {name: one for name, one in series.items() if not name.startswith("batch/")} == points(trainer)
    steps = [step for step, _ in series["batch/loss"]]
    assert len(set(steps)) == len(steps)


def test_a_folder_that_was_removed_between_two_fits_warns_once_and_the_training_goes_on(tmp_path: Path) -> None:
    trainer = build(MLflow(tmp_path / "store"))
    trainer.fit(epochs=1)
    shutil.rmtree(tmp_path / "store")
    with pytest.warns(IgnitionWarning, match="could not be written.*; the training goes on") as caught:
        trainer.fit(epochs=1)
    assert len(caught) == 1
    assert trainer.step == 10
