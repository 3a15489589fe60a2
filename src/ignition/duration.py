"""How long something may take, in the words that people write: "30s", "10min", "1h30min"."""

from __future__ import annotations

import math
import re
from numbers import Real

from ignition.errors import ArgumentError

__all__ = ["seconds_of"]

_SECONDS = {"d": 86400.0, "h": 3600.0, "min": 60.0, "s": 1.0}
_PART = r"(?:([0-9]+(?:\.[0-9]+)?)\s*{}\s*)?"
_DURATION = re.compile(r"\s*" + "".join(_PART.format(unit) for unit in _SECONDS))


def seconds_of(duration: float | str, what: str = "the duration") -> float:
    """A duration in seconds.

    Args:
        duration: A number of seconds, or numbers with the units d, h, min and s, the largest first: "90s", "10min",
            "1.5h", "1d", "1h30min", "1h 30min".
        what: What the duration is for, as an error names it.

    Returns:
        Seconds, more than 0.

    Raises:
        ArgumentError: If it is neither, or not more than 0, or not finite.

    Example:
        >>> seconds_of("1h30min"), seconds_of("2.5s"), seconds_of(90)
        (5400.0, 2.5, 90.0)
    """
    seconds = math.nan
    if isinstance(duration, str):
        match = _DURATION.fullmatch(duration)
        if match is not None:
            parts = zip(match.groups(default="0"), _SECONDS.values(), strict=True)
            seconds = sum(float(number) * unit for number, unit in parts)
    elif isinstance(duration, Real) and not isinstance(duration, bool):
        try:
            seconds = float(duration)
        except OverflowError:  # an int beyond all floats
            seconds = math.inf
    if not 0 < seconds < math.inf:
        raise ArgumentError(
            f"{what} is {duration!r:.60}",
            "seconds, or a text such as '30s', '10min', '2h', '1d' or '1h30min', more than 0 and finite",
            "write minutes as 'min'"
            if isinstance(duration, str) and re.search(r"[0-9]\s*m\b", duration)
            else "pass '10min', for example",
        )
    return seconds
