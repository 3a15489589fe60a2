"""A clock counts the seconds between two records, as far as they are spent in fits."""

from __future__ import annotations

import pytest

from ignition.clock import Clock


@pytest.fixture
def now(monkeypatch):
    seconds = [100.0]
    monkeypatch.setattr("ignition.clock.perf_counter", lambda: seconds[0])
    return seconds


def test_the_seconds_between_two_fits_do_not_count(now):
    clock = Clock()
    clock.begin()
    now[0] += 3
    clock.end()
    now[0] += 1000
    clock.begin()
    now[0] += 4
    assert clock.seconds == 7


def test_what_is_taken_counts_once(now):
    clock = Clock()
    clock.begin()
    now[0] += 3
    assert clock.take() == 3
    now[0] += 2
    assert clock.take() == 2
    assert clock.seconds == 0


def test_those_of_a_checkpoint_are_gone_on_with(now):
    clock = Clock()
    clock.seconds = 12.5
    now[0] += 50
    assert clock.seconds == 12.5
    clock.begin()
    now[0] += 1
    clock.end()
    assert clock.seconds == 13.5
