"""What hangs on a Trainer and may be added to in place: ``|=`` and ``+=`` check it before it is there."""

from __future__ import annotations

from typing import Any, Self

from ignition.arguments import checked_hyper
from ignition.callbacks.base import Callback
from ignition.events import check_callbacks

__all__ = ["Callbacks", "Hyper"]


class Hyper(dict[str, Any]):
    """The hyperparameters by name."""

    def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]
        self.update(checked_hyper(other))
        return self


class Callbacks(list[Callback]):
    """The callbacks of the next fit."""

    def __iadd__(self, others: Any) -> Self:  # type: ignore[override,misc]
        self.extend(check_callbacks(others))
        return self
