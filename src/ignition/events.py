"""Calling the callbacks of an event: found once, in their order, and only where one listens."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ignition import distributed
from ignition.callbacks.base import EVENTS, Callback
from ignition.errors import ArgumentError

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["Events", "adding_to", "check_callbacks", "check_event"]

F = TypeVar("F", bound=Callable[[Any], Any])


class Events:
    """For each event one function without arguments, or None where nothing listens.

    Args:
        trainer: What the callbacks are called with.
        callbacks: In any order; they are called by their ``order``, and as given where it is equal.
        functions: ``(event, function)`` for those added by `Trainer.on`; called after the callbacks of order 0.

    Raises:
        ArgumentError: If a callback is no `Callback`.
    """

    def __init__(
        self,
        trainer: Trainer[Any],
        callbacks: Iterable[Callback],
        functions: Iterable[tuple[str, Callable[[Any], Any]]],
    ) -> None:
        ordered: list[tuple[int, Any]] = [(callback.order, callback) for callback in check_callbacks(callbacks)]
        ordered += [(0, pair) for pair in functions]
        ordered.sort(key=lambda item: item[0])
        self._calls: dict[str, list[Callable[[], Any]]] = {event: [] for event in EVENTS}
        self.raised: list[BaseException] = []  # by the listeners of the event that `fire_each` calls
        for _, listener in ordered:
            if isinstance(listener, Callback) and listener.main_only and not distributed.is_main():
                continue
            if isinstance(listener, Callback):
                for event in EVENTS:
                    method = getattr(listener, f"on_{event}")
                    if getattr(method, "__func__", method) is not getattr(Callback, f"on_{event}"):
                        self._calls[event].append(partial(method, trainer))
            else:
                self._calls[listener[0]].append(partial(listener[1], trainer))

    def calls(self, event: str) -> Callable[[], Any] | None:
        """One function that calls all listeners of `event`; None without any."""
        calls = self._calls[event]
        if not calls:
            return None
        return calls[0] if len(calls) == 1 else partial(_call_all, calls)

    def fire(self, event: str) -> None:
        """Calls the listeners of `event`."""
        _call_all(self._calls[event])

    def fire_each(self, event: str) -> list[BaseException]:
        """Calls every listener of `event`, whatever the others raise, and returns what they raised."""
        self.raised = []
        for call in self._calls[event]:
            try:
                call()
            except BaseException as error:
                self.raised.append(error)
        return self.raised


def _call_all(calls: list[Callable[[], Any]]) -> None:
    for call in calls:
        call()


def check_callbacks(callbacks: Any) -> list[Callback]:
    """The callbacks as a list, if each of them is one.

    Raises:
        ArgumentError: If they are no list or tuple, or one is no `Callback` object.
    """
    if not isinstance(callbacks, (list, tuple)):
        raise ArgumentError(
            f"trainer.callbacks was given {type(callbacks).__name__}",
            expected="a list of callbacks",
            fix="put it into a list: trainer.callbacks = [SaveModel(...)]",
        )
    for callback in callbacks:
        if not isinstance(callback, Callback):
            is_class = isinstance(callback, type)
            raise ArgumentError(
                f"trainer.callbacks holds {callback.__name__ if is_class else type(callback).__name__}, "
                + ("a class" if is_class else "which is no callback"),
                expected="objects of classes that derive from ignition.callbacks.Callback",
                fix=f"make an object of it: {callback.__name__}(...)"
                if is_class
                else 'a plain function goes to an event: @trainer.on("epoch_end")',
            )
    return list(callbacks)


def check_event(event: Any) -> str:
    """`event`, if there is one of that name.

    Raises:
        ArgumentError: If there is none.
    """
    if event not in EVENTS:
        close = difflib.get_close_matches(str(event).removeprefix("on_"), EVENTS, n=1)
        raise ArgumentError(
            f"there is no event {event!r}",
            expected=f"one of {', '.join(EVENTS)}",
            fix=f"did you mean {close[0]!r}?" if close else "take one of these names, without on_ before it",
        )
    return str(event)


def adding_to(functions: list[tuple[str, Callable[[Any], Any]]], event: str) -> Callable[[F], F]:
    """A decorator that adds a plain function of the trainer, with its event, to `functions`.

    Raises:
        ArgumentError: If there is no such event, or what is decorated is no function.
    """
    check_event(event)

    def add(function: F) -> F:
        if not callable(function):
            raise ArgumentError(
                f'@trainer.on("{event}") was given {type(function).__name__}',
                expected="a function of the trainer",
                fix="put @trainer.on(...) above a function, and a Callback into trainer.callbacks",
            )
        functions.append((event, function))
        return function

    return add
