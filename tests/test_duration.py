"""Durations against `datetime.timedelta`, and what is none."""

from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ignition.duration import seconds_of
from ignition.errors import ArgumentError


@pytest.mark.parametrize(
    ("duration", "reference"),
    [
        ("30s", timedelta(seconds=30)),
        ("10min", timedelta(minutes=10)),
        ("2h", timedelta(hours=2)),
        ("1d", timedelta(days=1)),
        ("1h30min", timedelta(hours=1, minutes=30)),
        ("1.5h", timedelta(hours=1.5)),
        ("1d 2h 3min 4s", timedelta(days=1, hours=2, minutes=3, seconds=4)),
        (" 90 s ", timedelta(seconds=90)),
        ("0h5s", timedelta(seconds=5)),
        (90, timedelta(seconds=90)),
        (0.25, timedelta(seconds=0.25)),
        (np.float32(2.5), timedelta(seconds=2.5)),
    ],
)
def test_a_duration_is_what_timedelta_says(duration: object, reference: timedelta) -> None:
    seconds = seconds_of(duration)  # type: ignore[arg-type]

    assert seconds == reference.total_seconds()
    assert type(seconds) is float


@given(st.integers(0, 400), st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_the_parts_of_a_duration_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    reference = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)

    assert seconds_of(f"{days}d{hours}h{minutes}min{seconds}s") == reference.total_seconds()


@pytest.mark.parametrize(
    "duration",
    [
        *(
            "",
            "  ",
            "10",
            "s",
            "h1",
            "10m",
            "30min1h",
            "1h2h",
            "-5s",
            "1e3s",
            "1,5h",
            "5 s!",
            "0s",
            "0h0min",
            ".5h",
            "٣s",
        ),
        *("1" * 400 + "s", 0, -1, 0.0, math.nan, math.inf, 10**400, True, None, [1], b"30s", timedelta(seconds=1)),
    ],
)
def test_what_is_no_duration_is_refused(duration: object) -> None:
    with pytest.raises(ArgumentError, match=r"expected: .*10min"):
        seconds_of(duration)  # type: ignore[arg-type]


def test_an_error_names_what_the_duration_is_for_and_how_minutes_are_written() -> None:
    with pytest.raises(ArgumentError, match=r"^the limit is '10m'(.|\n)*as 'min'"):
        seconds_of("10m", "the limit")
