"""A training that is killed outright and run again has one run in its tracker, with each point once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ignition.callbacks.wandb_file import rows

pytestmark = pytest.mark.slow

SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
from tracked import build, points
from ignition.callbacks import Checkpoint, CSVLogger, MLflow, TensorBoard, WandB

die_at = int(sys.argv[1])
trainer = build(
    CSVLogger("history.csv"), TensorBoard("log", every=1), MLflow("store", every=1),
    WandB("killed", every=1, mode="offline", dir="."), Checkpoint("checkpoints", every=4),
)


@trainer.on("batch_end")
def die(trainer):
    if trainer.step == die_at:
        while not list(Path("checkpoints").glob("*-step-*")):
            time.sleep(0.01)  # it is written beside the training; before the first there is nothing to go on from
        os.kill(os.getpid(), signal.SIGKILL)


trainer.fit(epochs=3, resume=True)
print(json.dumps({name: points(trainer)[name] for name in ("epoch", "train_loss", "val_loss", "lr", "seconds")}))
"""

Series = dict[str, list[tuple[int, float]]]


def of_csv(folder: Path) -> Series:
    header, *lines = [line.split(",") for line in (folder / "history.csv").read_text().splitlines()]
    records = [dict(zip(header, line, strict=True)) for line in lines]
    return {name: [(int(one["step"]), float(one[name])) for one in records] for name in header}


def of_tensorboard(folder: Path) -> Series:
    events = EventAccumulator(str(folder / "log"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def of_mlflow(folder: Path) -> Series:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'store' / 'mlflow.db'}")
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert run.info.status == "FINISHED"
    names = run.data.metrics
    return {
        name: sorted((one.step, one.value) for one in client.get_metric_history(run.info.run_id, name))
        for name in names
    }


def of_wandb(folder: Path) -> Series:
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len({path.name for path in files}) == 1
    found: Series = {}
    for row in [row for path in files for row in rows(path)]:
        axis = "batch/step" if "batch/step" in row else "step"
        for name, value in row.items():
            found.setdefault(name, []).append((row[axis], value))
    return {name: sorted(series) for name, series in found.items()}


def test_a_run_that_was_killed_twice_is_one_run_with_each_point_once(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent / "src"), str(tests)])}
    environment |= {"WANDB_SILENT": "true"} | {
        f"WANDB_{name}_DIR": str(tmp_path / "own") for name in ("CONFIG", "CACHE", "DATA", "ARTIFACT")
    }
    for die_at in (7, 12, 0):
        command = [sys.executable, "script.py", str(die_at)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == (-9 if die_at else 0), done.stderr
    expected = json.loads(done.stdout.splitlines()[-1])
    for read in (of_csv, of_tensorboard, of_mlflow, of_wandb):
        found = read(tmp_path)
        for name in ("epoch", "train_loss", "val_loss", "lr"):
            steps, values = zip(*expected[name], strict=True)
            assert [step for step, _ in found[name]] == list(steps) == [5, 10, 15], read
            assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-6), read
        assert [step for step, _ in found["seconds"]] == [5, 10, 15], read
        batches = [step for step, _ in found.get("batch/loss", [])]
        assert len(set(batches)) == len(batches), read
        if read in (of_tensorboard, of_mlflow):  # what wandb had not written yet is lost, but for the records
            assert batches == list(range(1, 16)), read
