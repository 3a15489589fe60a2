"""The script that `test_faults` kills: a small training with chance wherever chance can be, in a process of its own.

python tests/fault_script.py '{"folder": "...", "report": "..."}'
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from resuming import fingerprint
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ignition import Trainer, checkpoint, crossentropy_loss, evaluate_on_batch, optimize
from ignition.callbacks import EMA, Callback, Checkpoint, EarlyStopping, LRSchedule

torch.set_num_threads(1)
# What torch and safetensors import only when it is needed takes a second; so it is there before a process is forked.
importlib.import_module("safetensors.torch")
torch.optim.Adam([nn.Parameter(torch.zeros(1))])

SAMPLES, BATCH, EPOCHS = 64, 8, 3


class Fault:
    """Strikes once in the life of a folder: what is left there tells the next process that it is over.

    Args:
        place: "batch", "evaluation", "save", "worker", "train_begin" or "train_end".
        at: At which call of that place.
        kind: "raise", "kill", or the name of a signal.
        times: How often the signal is sent.
    """

    def __init__(self, over: str, place: str = "", at: int = 1, kind: str = "raise", times: int = 1) -> None:
        self.over, self.place, self.at, self.kind, self.times, self.calls = Path(over), place, at, kind, times, 0

    def reach(self, place: str) -> None:
        if place != self.place or self.over.exists():
            return
        self.calls += 1
        if self.calls < self.at:
            return
        self.over.touch()
        if self.kind == "raise":
            raise ZeroDivisionError("the fault of this test")
        if self.kind == "kill":
            # Until what a loader worker has sent is taken: its tensors go through a socket, which would be reset.
            time.sleep(1 if place == "worker" else 0)
            os.kill(os.getpid(), signal.SIGKILL)
        for _ in range(self.times):
            os.kill(os.getpid(), getattr(signal, self.kind))
            time.sleep(0.02)  # two that come at once count as one


class Points(Dataset):
    """Points of two classes, with noise from all three generators each time that one is loaded."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.x = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(0))
        self.fault = fault

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.fault is not None:
            self.fault.reach("worker")
        noise = 0.1 * torch.rand(4) + 0.1 * np.random.rand() + 0.1 * random.random()
        return self.x[index] + noise, (self.x[index, 0] > 0).long()


class Witness(Callback):
    """Writes down each step, and the newest checkpoint that was whole on the disk by then."""

    def __init__(self, path: Path, saver: Checkpoint) -> None:
        self.file, self.saver, self.ends = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY), saver, 0

    def on_step_end(self, trainer: Trainer[Any]) -> None:
        name = "-" if self.saver.last_path is None else self.saver.last_path.name
        os.write(self.file, f"{trainer.step} {name}\n".encode())

    def on_train_end(self, trainer: Trainer[Any]) -> None:
        self.ends += 1


def build(job: dict[str, Any]) -> tuple[Trainer[Any], Witness]:
    """The whole script up to its fit."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    fault = Fault(job["report"] + ".over", **job.get("fault", {}))
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    pause = job.get("pause", 0.0)

    def train_fn(model: Any, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        time.sleep(pause)
        fault.reach("batch")
        loss = crossentropy_loss(model(x), y)
        optimize(loss, optimizer)
        return {"loss": loss}

    def eval_fn(model: Any, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        time.sleep(pause)
        fault.reach("evaluation")
        return {**evaluate_on_batch(model, x, y), "noise": random.random()}

    def write_file(path: Path, parts: Any) -> str:
        fault.reach("save")
        return plain_write_file(path, parts)

    plain_write_file = checkpoint.write_file
    checkpoint.write_file = write_file
    train_loader = DataLoader(Points(fault), BATCH, shuffle=True, num_workers=job.get("workers", 0))
    workers = job.get("test_workers", 0)
    test_loader = DataLoader(Points(), 32, num_workers=workers, persistent_workers=workers > 0)
    trainer = Trainer(
        model, optimizer, train_fn, train_loader, eval_fn, test_loader, device="cpu", progress=False,
        accumulate=job.get("accumulate", 1),
    )  # fmt: skip
    saver = Checkpoint(job["folder"], every=job.get("every", 2), keep=job.get("keep", 3), best="val_loss")
    witness = Witness(Path(job["report"] + ".steps"), saver)
    schedule = LRSchedule(torch.optim.lr_scheduler.StepLR(optimizer, 5), every="step")
    trainer.callbacks = [EMA(0.9), schedule, EarlyStopping("val_loss", job.get("patience", 10)), saver, witness]
    trainer.on("train_begin")(lambda _: fault.reach("train_begin"))
    trainer.on("train_end")(lambda _: fault.reach("train_end"))
    return trainer, witness


def main(job: dict[str, Any]) -> None:
    """Trains, and writes down how it ended. What it prints goes to a file beside that."""
    multiprocessing.set_start_method("fork", force=True)  # for the loader workers, however this process was started
    log = os.open(job["report"] + ".log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    own: dict[int, Any] = {number: lambda *_: None for number in (signal.SIGTERM, signal.SIGUSR1)}
    if not job.get("own", True):
        own = dict.fromkeys(own, signal.SIG_DFL)
    own[signal.SIGINT] = signal.default_int_handler  # whatever the shell has its background jobs do
    for number, handler in own.items():
        signal.signal(number, handler)
    trainer, witness = build(job)
    ended: dict[str, Any] = {"raised": None}
    try:
        trainer.fit(epochs=job.get("epochs", EPOCHS), resume=True)
        ended["fingerprint"] = fingerprint(trainer)
    except BaseException as error:
        ended["raised"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        # Once more where torch's own handler, which raises wherever Python is when a worker has died, strikes here.
        for _ in range(5):
            with suppress(RuntimeError):
                ended["step"], ended["ends"] = trainer.step, witness.ends
                ended["restored"] = all(signal.getsignal(number) is handler for number, handler in own.items())
                Path(job["report"]).write_text(json.dumps(ended))
                break


def kill_in_saves(folder: str, tries: int, report: str) -> None:
    """Forks trainings that do little but save, kills each at a random moment, and looks at what it has left.

    Every other one is killed soon after a save has begun, however slow the machine is.
    """
    moments = random.Random(0)
    seen = {"tries": 0, "in a save": 0, "not whole": 0, "lost": 0, "not swept": 0}
    for number in range(tries):
        steps = f"{report}.{number}.steps"
        child = os.fork()
        if not child:
            try:
                main({"folder": folder, "report": f"{report}.{number}", "every": 1, "epochs": 10**6, "patience": 10**6})
            finally:
                os._exit(3)  # it was to be killed
        deadline = time.monotonic() + 10
        while not (os.path.exists(steps) and os.path.getsize(steps)) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.015))
        while number % 2 and not list(Path(folder).glob(".writing-*")) and time.monotonic() < deadline:
            time.sleep(0.0002)
        time.sleep(moments.uniform(0, 0.002) if number % 2 else 0)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        seen["tries"] += 1
        count(Path(folder), last_line(steps), seen)
    Path(report).write_text(json.dumps(seen))


def count(folder: Path, acknowledged: str, seen: dict[str, int]) -> None:
    """Adds to `seen` what is wrong with a folder after a kill."""
    names = sorted(path.name for path in folder.glob("fit-*"))
    left = [path.name for path in folder.glob(".*")]
    seen["in a save"] += bool(left)
    seen["not swept"] += len(left) > 2  # of this process: one that it wrote, one that it removed
    try:
        for name in names:
            checkpoint.read(folder / name)
    except Exception:
        seen["not whole"] += 1
    seen["lost"] += acknowledged != "-" and (not names or names[-1] < acknowledged)


def last_line(steps: str | Path) -> str:
    """The newest checkpoint that the script knew to be whole, or "-"."""
    path = Path(steps)
    lines = path.read_text().splitlines() if path.exists() else []
    return lines[-1].split()[1] if lines else "-"


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
