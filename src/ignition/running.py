"""Which run the current call belongs to: how `optimize` and `make_var` find it without being told.

A context variable and not a global: a new thread starts without it, so a thread that trains something else on
the side is not taken for a part of this run. Backward on the CPU runs in the calling thread and sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ignition.window import Window

__all__ = ["Running", "running", "this_run"]


@dataclass(slots=True, frozen=True)
class Running:
    """What a function that is called by a run may ask of it.

    Attributes:
        device: Where the run's model and batches are.
        training: Whether a train function is being called.
        window: The rules of its updates; None where a step is a plain step.
    """

    device: torch.device
    training: bool
    window: Window | None = None


running: ContextVar[Running | None] = ContextVar("ignition_running", default=None)


@contextmanager
def this_run(run: Running) -> Iterator[None]:
    """Makes `run` the current one inside the ``with`` block, and the one before it again afterwards."""
    token = running.set(run)
    try:
        yield
    finally:
        running.reset(token)
