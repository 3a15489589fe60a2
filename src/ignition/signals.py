"""Ending a training in good order when the system asks for it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

__all__ = ["EvaluationStopped", "Signals", "end_as"]

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")


class EvaluationStopped(Exception):
    """An evaluation was left for a signal; it begins anew when the training goes on."""


class Signals:
    """Takes over SIGINT, SIGTERM and SIGUSR1 until `restore`: the first one asks, the second one ends at once.

    The first sets a flag and nothing else, since it may come between any two instructions. A signal that the process
    ignores (as a shell has its background jobs ignore Ctrl-C) stays ignored. Outside the main thread nothing is
    taken over, as Python allows it nowhere else. torchrun hands on to its processes what a cluster has sent to all of
    them already: there a second one counts only when the first is five seconds old.

    Args:
        ask: Called with the number of the first signal.

    Example:
        >>> import signal
        >>> before, asked = signal.getsignal(signal.SIGTERM), []
        >>> signals = Signals(asked.append)
        >>> signal.raise_signal(signal.SIGTERM)
        >>> signals.restore()
        >>> asked == [signal.SIGTERM], signal.getsignal(signal.SIGTERM) is before
        (True, True)
    """

    def __init__(self, ask: Callable[[int], object]) -> None:
        self._ask = ask
        self._asked: float | None = None  # when
        self._seconds_of_one = 5.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                number = getattr(signal, name, None)  # Windows has no SIGUSR1
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.getsignal(number)  # noted first: a signal may come right after
                    signal.signal(number, self._take)

    def restore(self) -> None:
        """Puts back the handlers that were there. Once is enough, and more does no harm."""
        for number, handler in list(self._before.items()):
            # None is a handler that was not set from Python; it cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._before.pop(number, None)

    def _take(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
            self._ask(number)
        elif now - self._asked >= self._seconds_of_one:
            self.restore()
            end_as(number)


def end_as(number: int) -> NoReturn:
    """Ends what runs as a signal does.

    Raises:
        KeyboardInterrupt: For SIGINT.
        SystemExit: For another signal: the exit status is 128 and its number, as a shell shows it.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
