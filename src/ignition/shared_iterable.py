"""An iterable of the user's own that many processes read: each reads all of it, and takes its part of the batches.

So all must be given the same batches. What is drawn as it is read is therefore drawn as in the first process: from the
states that its generators have as the epoch begins, those that the iterable keeps and the global ones. The model draws
from the global ones too, in each process otherwise; so after the first batch the iterable goes on where it was, and
the model where that was. In the first process, as long as the model draws nothing, this is what one process does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ignition import distributed
from ignition.data import digest_of
from ignition.device import tensors_in
from ignition.errors import BatchError
from ignition.generators import generators_of, put_back, state_of
from ignition.own_generators import shared
from ignition.rng import capture, restore
from ignition.shards import drops_last

__all__ = ["ALIKE", "LOOK_FOR", "SharedIterable"]

ALIKE = "the same batches in each process, which takes its own of them"
LOOK_FOR = (
    "look for what depends on the process: its rank, its machine, an unseeded choice; data that are parted already go "
    "into an IterableDataset"
)
_END = object()


class SharedIterable:
    """Reads an iterable of the user's as the first process does; all processes must.

    Args:
        loader: The user's.

    Raises:
        BatchError: In its iteration, if it begins with other batches in another process.
    """

    def __init__(self, loader: Any) -> None:
        self.drop_last = drops_last(loader)
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        own, is_first = generators_of(self._loader), distributed.is_main()
        mine = capture(accelerators=False)
        begin, kept = shared([mine, [state_of(one) for one in own]])
        for one, state in zip(own, kept, strict=False):
            put_back(one, state)
        restore(begin)  # which are its own in the first process
        batches = iter(self._loader)
        batch = next(batches, _END)
        there = capture(accelerators=False)
        if not is_first:
            restore(mine)
        _check_alike(self._loader, batch)
        while batch is not _END:
            yield batch
            mine = capture(accelerators=False)
            goes_on = is_first and _are_equal(mine, there)  # nobody else has drawn since: as in one process
            if not goes_on:
                restore(there)
            batch = next(batches, _END)
            there = capture(accelerators=False)
            if not goes_on:
                restore(mine)


def _are_equal(some: dict[str, Any], others: dict[str, Any]) -> bool:
    numpy_alike = all(map(np.array_equal, some["numpy"], others["numpy"]))
    return numpy_alike and some["python"] == others["python"] and torch.equal(some["torch"], others["torch"])


def _check_alike(loader: Any, batch: Any) -> None:
    # What is drawn on an accelerator is in each process its own.
    on_cpu = [one for one in tensors_in(() if batch is _END else batch) if one.is_cpu]
    digests = distributed.gather_texts(digest_of(on_cpu).hex())
    other = next((number for number, digest in enumerate(digests) if digest != digests[0]), None)
    if other is not None:
        raise BatchError(
            f"the loader, of class {type(loader).__qualname__}, begins with another batch in process {other} than in "
            "process 0",
            expected=ALIKE,
            fix=LOOK_FOR,
        )
