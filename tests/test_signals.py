"""Signals: the first asks, the second ends, and what was there before comes back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from ignition.signals import Signals, end_as

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]


def own(number, frame):
    pytest.fail("the user's own handler was called inside a fit")


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """The user's own, whatever pytest and the shell have set."""
    before = {number: signal.signal(number, own) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_first_signal_asks_and_raises_nothing():
    for number in NUMBERS:
        asked = []
        signals = Signals(asked.append)
        signal.raise_signal(number)
        signals.restore()
        assert asked == [number]


def test_the_users_own_handlers_come_back_and_twice_does_no_harm():
    signals = Signals(lambda number: None)
    assert all(signal.getsignal(number) is not own for number in NUMBERS)
    signals.restore()
    signals.restore()
    assert all(signal.getsignal(number) is own for number in NUMBERS)


@pytest.mark.parametrize("first", NUMBERS)
def test_a_second_signal_ends_at_once_and_gives_the_handlers_back(first):
    asked = []
    Signals(asked.append)
    signal.raise_signal(first)
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert asked == [first]
    assert all(signal.getsignal(number) is own for number in NUMBERS)


def test_a_second_ctrl_c_is_a_keyboard_interrupt():
    Signals(lambda number: None)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is own


def test_a_signal_that_the_process_ignores_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for its background jobs
    asked = []
    signals = Signals(asked.append)
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGUSR1)
    signals.restore()
    assert asked == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_outside_the_main_thread_nothing_is_taken_over():
    failures = []

    def take() -> None:
        try:
            Signals(failures.append).restore()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join(10)
    assert failures == []
    assert all(signal.getsignal(number) is own for number in NUMBERS)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 128 + signal.SIGUSR1)])
def test_a_process_ends_with_128_and_the_signals_number(number, status):
    with pytest.raises(SystemExit) as ended:
        end_as(number)
    assert ended.value.code == status
    with pytest.raises(KeyboardInterrupt):
        end_as(signal.SIGINT)
