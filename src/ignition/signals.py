"""Ending a training in good order when the system asks for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["Signals"]

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")


class Signals:
    """Takes over SIGINT, SIGTERM and SIGUSR1 until `restore`: the first one asks, the second one ends at once.

    The handler sets a flag and nothing else, since it may run between any two instructions.

    Args:
        ask: Called with the number of the first signal.
    """

    def __init__(self, ask: Callable[[int], object]) -> None:
        self._ask = ask
        self._asked = False
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            for name in _NAMES:
                number = getattr(signal, name, None)  # Windows has no SIGUSR1
                if number is not None:
                    self._before[number] = signal.signal(number, self._handle)

    def restore(self) -> None:
        """Puts back the handlers that were there."""
        for number, handler in self._before.items():
            # None is a handler that was not set from Python; it cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self.restore()
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + number)
        self._asked = True
        self._ask(number)
