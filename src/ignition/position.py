"""Where a run is."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Position"]


@dataclass(slots=True)
class Position:
    """Where a run is.

    Attributes:
        epoch: From 1 on; 0 before the first.
        batch: The batches done in that epoch.
        step: The steps done in all.
        skipped: How many of them changed nothing, for an overflow.
        offset: How many batches more than `batch` times the number of processes have been read of that epoch, by all
            processes together: 0, unless the epoch was begun by another number of them.
        shift: By how many samples the batches of that epoch begin later than those of another: 0, unless another number
            of processes has begun it with batches of another size, and ended where none of these would.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    skipped: int = 0
    offset: int = 0
    shift: int = 0
