"""The script of the tests of many processes that are stopped and go on: chance wherever it can be, in each process.

torchrun --nproc-per-node 2 tests/process_script.py '{"folder": "...", "report": "..."}'
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from resuming import fingerprint
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ignition import Trainer, crossentropy_loss, distributed, optimize
from ignition.callbacks import EMA, Callback, Checkpoint, EarlyStopping

torch.set_num_threads(1)
torch.optim.Adam([nn.Parameter(torch.zeros(1))])  # what torch imports only when it is needed, before a fork

SAMPLES, BATCH, EPOCHS = 54, 12, 3  # BATCH is of all processes together: four and a ragged fifth one in an epoch


class Points(Dataset):
    """Points of two classes, with their numbers, and noise from all three generators where that is asked for."""

    def __init__(self, noise: float = 0.0) -> None:
        self.x, self.noise = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(0)), noise

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        noise = torch.rand(4) + np.random.rand() + random.random()
        return self.x[index] + self.noise * noise.float(), (self.x[index, 0] > 0).long(), index


class Stream(IterableDataset):
    """The points of this process, one after another; it knows its place."""

    def __init__(self) -> None:
        self.points, self.place = Points(), 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        mine = range(distributed.rank(), SAMPLES, distributed.world_size())
        while self.place < len(mine):
            self.place += 1
            yield self.points[mine[self.place - 1]]
        self.place = 0

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


class Diary(Callback):
    """Writes down the samples of each step of this process, and does at a step what the job says."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.path, self.job, self.samples = Path(f"{job['report']}.samples.{distributed.rank()}"), job, []

    def on_step_end(self, trainer: Trainer[Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps([trainer.epoch, trainer.step, self.samples]) + "\n")
        self.samples = []
        fault = self.job.get("fault", {})
        if trainer.step == fault.get("step") and distributed.rank() in fault["ranks"]:
            strike(fault["kind"])


def strike(kind: str) -> None:
    """What becomes of this process."""
    if kind == "raise":
        raise ZeroDivisionError("the fault of this test")
    if kind == "exit":
        raise SystemExit(0)  # it leaves the script, as one does that believes to be done
    os.kill(os.getpid(), getattr(signal, kind))


def kill_sometime(job: dict[str, Any]) -> None:
    """Kills this process at a random moment, unless torchrun has started it often enough."""
    restart = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if restart < job["kills"]:
        chance = random.Random(f"{job['seed of kills']} {restart}")
        ranks = [chance.randrange(distributed.world_size())] if job["killed"] == "one" else range(8)
        moment = chance.uniform(0, job["within"])
        if distributed.rank() in ranks:
            killer = threading.Timer(moment, os.kill, (os.getpid(), signal.SIGKILL))
            killer.daemon = True
            killer.start()


def build(job: dict[str, Any]) -> Trainer[Any]:
    """The whole script up to its fit."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    plain = job.get("plain", False)  # without chance, so that the number of processes changes nothing
    model = nn.Sequential(nn.Linear(4, 8), nn.Identity() if plain else nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 2))
    if not plain:
        model.insert(1, nn.BatchNorm1d(8))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    diary = Diary(job)

    def train_fn(model: Any, x: torch.Tensor, y: torch.Tensor, numbers: torch.Tensor) -> dict[str, Any]:
        time.sleep(job.get("pause", 0.0))
        loss = crossentropy_loss(model(x), y)
        optimize(loss, optimizer)
        diary.samples += numbers.tolist()
        trainer.state["count"] += len(x)
        trainer.state["mean"] = 0.5 * trainer.state["mean"] + x.mean(0)
        odd = job.get("odd_metrics", [None, None, None])[distributed.rank()]
        return (
            {"loss": loss} if odd is None else {odd: loss} if odd.startswith("loss of") else {"loss": loss, odd: loss}
        )

    def eval_fn(model: Any, x: torch.Tensor, y: torch.Tensor, numbers: torch.Tensor) -> dict[str, Any]:
        return {"loss": crossentropy_loss(model(x), y)}

    size = job.get("batch_size", BATCH // distributed.world_size())
    points = Points(0.0 if plain else 0.1)
    longer = distributed.rank() if job.get("odd_length") else 0
    points = torch.utils.data.Subset(points, range(SAMPLES - 7 * longer)) if longer else points
    train_loader: Any = DataLoader(points, size, shuffle=True, num_workers=job.get("workers", 0))
    if job.get("stream"):
        train_loader = DataLoader(Stream(), size)
    trainer = Trainer(
        model, optimizer, train_fn, train_loader, eval_fn, DataLoader(Points(), 16), device="cpu",
        accumulate=job.get("accumulate", 1), seed=job.get("seed"), progress=job.get("progress", False),
        strategy=job.get("strategy", "auto"),
    )  # fmt: skip
    trainer.state = {"count": 0, "mean": torch.zeros(4)}
    trainer.callbacks = [
        EMA(0.9), EarlyStopping("val_loss", 10), diary,
        Checkpoint(job["folder"], every=job.get("every", 1), best=job.get("best")),
    ]  # fmt: skip
    return trainer


def main(job: dict[str, Any]) -> None:
    """Trains, and writes down how it ended in this process."""
    Path(f"{job['report']}.pid.{distributed.rank()}").write_text(str(os.getpid()))
    Path(f"{job['report']}.restarts").write_text(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if "kills" in job:
        kill_sometime(job)
    report: dict[str, Any] = {"raised": None}
    try:
        trainer = build(job)
        trainer.fit(epochs=job.get("epochs", EPOCHS), resume=True)
        with trainer.training.own_generators.in_use():  # those of this process; outside all have the first's
            report["fingerprint"] = fingerprint(trainer)
        report["history"] = {name: trainer.history[name] for name in ("train_loss", "val_loss", "val_ema_loss")}
        report["columns"] = trainer.history.columns
        report |= {"count": trainer.state["count"], "mean": trainer.state["mean"].tolist()}
    except BaseException as error:
        report["raised"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        Path(f"{job['report']}.{distributed.rank()}").write_text(json.dumps(report))


def forked(job: dict[str, Any], rank: int, size: int, port: int) -> None:
    """`main` in a process that was forked: as torchrun would have started it."""
    log = os.open(f"{job['report']}.log.{rank}", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if size > 1:
        os.environ.update({name: str(value) for name, value in names.items()})
    multiprocessing.set_start_method("fork", force=True)  # for the loader workers, however this process was started
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the shell has its background jobs do
    main(job)
    distributed.close()  # multiprocessing leaves out what runs at the end of Python


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
