"""What a Checkpoint in the background costs the training, and what a save costs, beside torch.save."""

import os
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, sleep

import torch
from torch import nn

from ignition import Trainer
from ignition.callbacks import Checkpoint

SIZES = {"10 MB": (10e6, 15), "500 MB": (500e6, 4)}  # of model and optimizer, and how often it is saved


def measure_saving() -> dict[str, float]:
    """Milliseconds, each the median of all but the first, which takes the memory."""
    figures = {}
    for size, (count, times) in SIZES.items():
        model, optimizer = trained_model(count)
        with TemporaryDirectory(dir=".") as folder:
            found = training_beside_saves(model, optimizer, times, Path(folder))
            found |= saves(model, optimizer, times, Path(folder))
        figures |= {f"{name} {size}": 1e3 * value for name, value in found.items()}
    return figures


def trained_model(count: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Of `count` bytes in all: weights in 20 layers, and the two moments of AdamW."""
    width = int((count / 3 / 4 / 20) ** 0.5)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(20)))
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def training_beside_saves(
    model: nn.Module, optimizer: torch.optim.Optimizer, times: int, folder: Path
) -> dict[str, float]:
    """How long the loop stops for a save, the copy alone, and the longest that Python waits while the thread writes.

    Each step waits until the thread has finished, so that each time between two steps holds one save, and then trains
    on a batch, so that the processor and its caches are at what they are at in a training. The copy by itself comes
    after a batch too, in turn with the saves, since the machine may have other things to do now than later.
    """
    between, longest, ended, copied = [], [], [], []
    tensors = [*model.state_dict().values(), *(one for state in optimizer.state.values() for one in state.values())]
    into = [torch.zeros_like(tensor) for tensor in tensors]  # memory that is there already
    x = torch.randn(8, model[0].in_features)

    saver = Checkpoint(folder / "background", every=1, keep=1)

    def train_on_batch() -> None:
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def train_fn(model, batch):
        between.append(perf_counter() - ended[-1]) if ended else None
        looked, pause = perf_counter(), 0.0
        while not is_written(saver, len(ended)):
            sleep(0.0002)
            pause, looked = max(pause, perf_counter() - looked), perf_counter()
        longest.append(pause)
        sleep(0.002)  # for the thread's last lines, after all is on the disk
        train_on_batch()
        started = perf_counter()
        for target, tensor in zip(into, tensors, strict=True):
            target.copy_(tensor)
        copied.append(perf_counter() - started)
        train_on_batch()
        ended.append(perf_counter())

    trainer = Trainer(model, optimizer, train_fn, [torch.zeros(1)] * (times + 1), device="cpu", progress=False)
    trainer.callbacks = [saver]
    trainer.fit(epochs=1)
    figures = {"stall": median_of(between), "copy": median_of(copied), "pause": median_of(longest[1:])}
    return figures | {"first stall": between[0]}


def is_written(saver: Checkpoint, step: int) -> bool:
    """Whether the thread has nothing more to do: the checkpoint of that step is there, and the one before it gone."""
    written = f"fit-001-step-{step:09}"
    return step == 0 or [path.name for path in saver.folder.iterdir() if path.is_dir()] == [written]


def saves(model: nn.Module, optimizer: torch.optim.Optimizer, times: int, folder: Path) -> dict[str, float]:
    """Whole saves to the disk, in alternation."""
    trainer = Trainer(model, optimizer, lambda model: None, [torch.zeros(1)], device="cpu", progress=False)

    def plain(path: Path) -> None:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)

    def flushed(path: Path) -> None:
        with path.open("wb") as file:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
            file.flush()
            os.fsync(file.fileno())

    ways = {"torch.save": plain, "flushed torch.save": flushed, "trainer.save": trainer.save}
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(times):
        for name, save in ways.items():
            started = perf_counter()
            save(folder / name)
            took[name].append(perf_counter() - started)
    return {name: median_of(values) for name, values in took.items()}


def median_of(values: list[float]) -> float:
    return median(values[1:])
