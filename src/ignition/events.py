"""Calling the callbacks of an event: found once, in their order, and only where one listens."""

from __future__ import annotations

import builtins
import difflib
import inspect
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

    Attributes:
        now: The event that is being fired, the innermost of several; empty where none is.
        raised: What the listeners of the event raised that `fire_each` calls.

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
        self._callbacks: dict[str, list[Callback | None]] = {event: [] for event in EVENTS}  # None for a function
        self.now = ""
        self._called = 0
        self.raised: list[BaseException] = []
        for _, listener in ordered:
            if isinstance(listener, Callback) and listener.main_only and not distributed.is_main():
                continue
            if isinstance(listener, Callback):
                for event in EVENTS:
                    method = getattr(listener, f"on_{event}")
                    if getattr(method, "__func__", method) is not getattr(Callback, f"on_{event}"):
                        self._calls[event].append(partial(method, trainer))
                        self._callbacks[event].append(listener)
            else:
                self._calls[listener[0]].append(partial(listener[1], trainer))
                self._callbacks[listener[0]].append(None)

    @property
    def done(self) -> list[Callback]:
        """The callbacks that have been called before in the event that is being fired."""
        return [one for one in self._callbacks.get(self.now, [])[: max(self._called - 1, 0)] if one is not None]

    @property
    def to_come(self) -> list[Callback]:
        """The callbacks that have not been called yet in the event that is being fired."""
        return [one for one in self._callbacks.get(self.now, [])[self._called :] if one is not None]

    def calls(self, event: str) -> Callable[[], Any] | None:
        """One function that calls all listeners of `event`; None without any."""
        return partial(self.fire, event) if self._calls[event] else None

    def fire(self, event: str) -> None:
        """Calls the listeners of `event`."""
        outer, self.now = (self.now, self._called), event
        try:
            for called, call in enumerate(self._calls[event], 1):
                self._called = called
                call()
        finally:
            self.now, self._called = outer

    def fire_each(self, event: str) -> list[BaseException]:
        """Calls every listener of `event`, whatever the others raise, and returns what they raised."""
        self.raised, self.now = [], event
        for called, call in enumerate(self._calls[event], 1):
            self._called = called
            try:
                call()
            except BaseException as error:
                self.raised.append(error)
        self.now, self._called = "", 0
        return self.raised


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


def _check_takes_trainer(event: str, function: Callable[[Any], Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Python cannot tell, as of some that are written in C
        return
    try:
        signature.bind(None)
    except TypeError as error:
        name = getattr(function, "__name__", repr(function))
        raise ArgumentError(
            f'@trainer.on("{event}") was given {name}{signature}, which cannot be called with the trainer: {error}',
            expected=f"a function of the trainer: {name}(trainer)",
            fix="give it that one parameter, and all others a default",
        ) from None


def _is_older(one: Any, other: Any) -> bool:
    """Whether a notebook's cell that was run again has made `other` in the place of `one`."""
    names = [(getattr(each, "__module__", ""), getattr(each, "__qualname__", "<>")) for each in (one, other)]
    is_named = names[0] == names[1] and names[0][1].strip("_") and "<" not in names[0][1]
    # A loop in the cell that makes several has made them of one code.
    return bool(is_named) and hasattr(builtins, "__IPYTHON__") and one.__code__ is not other.__code__


def adding_to(functions: list[tuple[str, Callable[[Any], Any]]], event: str) -> Callable[[F], F]:
    """A decorator that adds a plain function of the trainer, with its event, to `functions`.

    Raises:
        ArgumentError: If there is no such event, or what is decorated is no function of the trainer.
    """
    check_event(event)

    def add(function: F) -> F:
        if not callable(function):
            raise ArgumentError(
                f'@trainer.on("{event}") was given {type(function).__name__}',
                expected="a function of the trainer",
                fix="put @trainer.on(...) above a function, and a Callback into trainer.callbacks",
            )
        _check_takes_trainer(event, function)
        functions[:] = [(at, one) for at, one in functions if at != event or not _is_older(one, function)]
        functions.append((event, function))
        return function

    return add
