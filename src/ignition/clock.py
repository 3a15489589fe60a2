"""The seconds between two records, as far as they are spent in fits."""

from __future__ import annotations

from time import perf_counter

__all__ = ["Clock"]


class Clock:
    """Counts while a fit runs.

    Example:
        >>> clock = Clock()
        >>> clock.begin()
        >>> clock.end()
        >>> clock.seconds == clock.take()
        True
    """

    def __init__(self) -> None:
        self._before = 0.0
        self._since: float | None = None

    def begin(self) -> None:
        """A fit begins."""
        self._since = perf_counter()

    def end(self) -> None:
        """A fit ends; what comes before the next one is not counted."""
        self._before, self._since = self.seconds, None

    @property
    def seconds(self) -> float:
        """Those since the last record."""
        return self._before + (0.0 if self._since is None else perf_counter() - self._since)

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self._before = seconds

    def take(self) -> float:
        """Those since the last record; the next ones count from here."""
        seconds = self.seconds
        self._before, self._since = 0.0, perf_counter()
        return seconds
