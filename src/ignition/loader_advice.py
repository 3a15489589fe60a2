"""Whether the training waits for its loader, and what to set then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ignition.tensor_loader import TensorLoader

if TYPE_CHECKING:
    from ignition.training import Training

__all__ = ["SHARE", "advice", "faster", "give_advice"]

SHARE = 1 / 3
"""The share of the time spent waiting from which on it is worth a word."""

_SECONDS = 1.0  # of waiting in a record; below, there is little to gain


def give_advice(training: Training) -> None:
    """Prints the advice for the last record, once in the life of a Trainer."""
    trainer = training.trainer
    record = trainer.history.last
    line = None if training.advised else advice(trainer.train_loader, record["seconds"], record["data_seconds"])
    if line is not None:
        training.advised = True
        training.progress.say(line)


def advice(loader: Any, seconds: float, data_seconds: float) -> str | None:
    """One line for a training that waited too long for its loader; None for others.

    Args:
        loader: The train loader.
        seconds: How long a record took.
        data_seconds: How much of it was spent waiting for batches.

    Example:
        >>> advice([], seconds=10.0, data_seconds=1.0) is None
        True
        >>> print(advice([], seconds=10.0, data_seconds=5.0))
        50% of the time was spent waiting for the train loader: read through a DataLoader with num_workers
    """
    if data_seconds < _SECONDS or data_seconds <= SHARE * seconds:
        return None
    return f"{data_seconds / seconds:.0%} of the time was spent waiting for the train loader: {faster(loader)}"


def faster(loader: Any) -> str:
    """What to set so that a loader waits less."""
    if isinstance(loader, TensorLoader):
        if torch.accelerator.is_available() and loader.tensors[0].device.type == "cpu":
            return 'keep its tensors on the accelerator: TensorLoader(..., device="auto")'
        return "take larger batches, or shuffle=False if their order does not matter"
    if not isinstance(loader, DataLoader):
        return "read through a DataLoader with num_workers"
    if isinstance(loader.dataset, TensorDataset):
        return "its tensors are in memory, so read them with TensorLoader(*tensors, batch_size=..., shuffle=True)"
    settings = []
    if loader.num_workers == 0:
        shards = ", with a data set that gives each worker its part" * isinstance(loader.dataset, IterableDataset)
        settings += [f"num_workers=4 or more{shards}", "persistent_workers=True"]
    else:
        settings += [f"more num_workers than {loader.num_workers}"]
        settings += [] if loader.persistent_workers else ["persistent_workers=True"]
    if torch.accelerator.is_available() and not loader.pin_memory:
        settings.append("pin_memory=True")
    return f"set {', '.join(settings)} in its DataLoader; if that does not help, prepare the data once and for all"
