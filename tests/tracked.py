"""A small training for the tests of the trackers: it can be killed at a step, and run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ignition import Trainer, crossentropy_loss, evaluate_on_batch, fit_on_batch
from ignition.callbacks import Callback, Checkpoint

STEPS_PER_EPOCH = 5


class Killed(Exception):
    """In the place of a signal: nobody expects it."""


def build(*callbacks: Callback, die_at: int | None = None, metrics: dict[str, float] | None = None) -> Trainer[Any]:
    """A Trainer of 5 steps an epoch, whose train function raises `Killed` in place of step `die_at`."""
    torch.manual_seed(3)
    inputs, labels = torch.randn(40, 4), torch.randint(3, (40,))
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def train_fn(model: nn.Module, x: Any, y: Any, lambd: float) -> dict[str, Any]:
        if trainer.step + 1 == die_at:
            raise Killed
        return {**fit_on_batch(model, x, y, crossentropy_loss, optimizer), **(metrics or {})}

    def eval_fn(model: nn.Module, x: Any, y: Any) -> dict[str, Any]:
        return evaluate_on_batch(model, x, y, crossentropy_loss, ["loss", "acc"])

    data = TensorDataset(inputs, labels)
    trainer = Trainer(
        model, optimizer, train_fn, DataLoader(data, batch_size=8, shuffle=True), eval_fn, DataLoader(data, 20),
        device="cpu", progress=False,
    )  # fmt: skip
    trainer.hyper = {"lambd": 4.0}
    trainer.callbacks = list(callbacks)
    return trainer


def run(folder: Path, *callbacks: Callback, die_at: int | None = None, epochs: int = 3) -> Trainer[Any]:
    """The script from its first line to its last, with a checkpoint every 4 steps; killed, it returns all the same."""
    trainer = build(Checkpoint(folder / "checkpoints", every=4), *callbacks, die_at=die_at)
    try:
        trainer.fit(epochs=epochs, resume=True)
    except Killed:
        assert die_at is not None
    return trainer


def points(trainer: Trainer[Any]) -> dict[str, list[tuple[int, float]]]:
    """What a tracker must hold of the records: ``(step, value)`` by name."""
    return {
        name: [(row["step"], float(row[name])) for row in trainer.history.rows if name in row]
        for name in trainer.history.columns
        if name != "step"
    }


def without_times(found: dict[str, list[tuple[int, float]]]) -> dict[str, list[tuple[int, float]]]:
    return {name: series for name, series in found.items() if "seconds" not in name}
