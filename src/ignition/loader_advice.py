"""Whether the training waits for its loader, and what to set then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ignition.tensor_loader import TensorLoader

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SHARE", "Advisor", "advice", "faster"]

SHARE = 1 / 3
"""The share of the time spent waiting from which on it is worth a word."""

_SECONDS = 1.0  # of waiting; below, there is little to gain


class Advisor:
    """Adds up the times of records until they tell enough, however short each is; speaks once."""

    def __init__(self) -> None:
        self._seconds = self._waited = 0.0
        self._has_spoken = False

    def after(self, record: Mapping[str, Any], loader: Any) -> str | None:
        """The advice that a record gives rise to, if any."""
        if self._has_spoken:
            return None
        self._seconds += record["seconds"]
        self._waited += record["data_seconds"]
        line = advice(loader, self._seconds, self._waited)
        self._has_spoken = line is not None
        if self._seconds >= _SECONDS / SHARE:  # enough to tell: what comes later is judged by itself
            self._seconds = self._waited = 0.0
        return line


def advice(loader: Any, seconds: float, data_seconds: float) -> str | None:
    """One line for a training that waited too long for its loader; None for others.

    Args:
        loader: The train loader.
        seconds: How long some records took.
        data_seconds: How much of that was spent waiting for batches.

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
