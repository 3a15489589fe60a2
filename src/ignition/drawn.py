"""How far a sampler has been asked in an epoch, and how one that is begun anew comes there again."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, islice
from typing import Any, NamedTuple

from ignition.errors import warn

__all__ = ["Drawn", "Goal"]

_NUMBERS = re.compile(r"[-\d\s,.()\[\]]*").fullmatch  # of anything else the text may differ from process to process


class Goal(NamedTuple):
    """Where a sampler was when a checkpoint was taken.

    Attributes:
        given: How many items it had been asked for: workers ask for some that nobody has received yet.
        digest: What they were.
        arrive: Called when it has given as many again. By then it has what it had changed itself, and gets what the
            training had changed.
    """

    given: int
    digest: int
    arrive: Callable[[], object]


class Drawn:
    """What a sampler has given in one iteration.

    Args:
        goal: Where it is to come first.

    Attributes:
        given: How many items it was asked for; that there is no more counts as one.
        inner: Of batches what the sampler has given that they are made by: their digest is its.
    """

    def __init__(self, goal: Goal | None = None) -> None:
        self.given = 0
        self.inner: Drawn | None = None
        self._digest = 0
        self._goal = goal

    @property
    def digest(self) -> int:
        """What the items were, as far as they are numbers; 0 where it is not kept."""
        return self._digest if self.inner is None else self.inner.digest

    @property
    def has_goal(self) -> bool:
        """Whether it is to come somewhere first."""
        return self._goal is not None

    def follow(
        self,
        items: Iterable[Any],
        start: int = 0,
        is_told: bool = True,
        passing: AbstractContextManager[None] | None = None,
    ) -> Iterator[Any]:
        """The items from number `start` on. With a goal it is come to at once.

        Args:
            items: What the sampler gives, from its first item on.
            start: How many are passed over.
            is_told: Whether their digest is kept: by it a sampler is found out that gives others now than then.
            passing: Where they are passed over.
        """
        counted = self._told(items) if is_told else self._counted(items)
        if self._goal is None:
            return _after(counted, start, passing)
        _pass_over(counted, start, passing)
        # One at least: torch's samplers draw a whole epoch as they are asked for the first.
        ahead = list(islice(counted, max(self._goal.given - start, 1 - start, 0)))
        are_told = self.digest and self._goal.digest and self.given == self._goal.given
        is_other = are_told and self.digest != self._goal.digest
        self.arrive()
        if is_other:
            warn(
                "a sampler gave other samples before the checkpoint than it does now, up to the same place: it draws "
                "as it goes, from what the training changed inside the epoch or from what no checkpoint holds. The "
                "rest of this epoch may come in another order. Change a sampler between epochs, have its __iter__ "
                "draw the whole epoch, and keep what it draws from in plain attributes"
            )
        return chain(ahead, counted)

    def arrive(self) -> None:
        """The sampler is where it was."""
        if self._goal is not None:
            goal, self._goal = self._goal, None
            goal.arrive()

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.given += 1
            yield item
        self.given += 1  # the end may have changed the sampler too

    def _told(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in self._counted(items):
            text = repr(item)
            if _NUMBERS(text):
                self._digest = zlib.crc32(text.encode(), self._digest)
            yield item


def _after(items: Iterator[Any], start: int, passing: AbstractContextManager[None] | None) -> Iterator[Any]:
    """The items from number `start` on, none of them asked for before the first."""
    _pass_over(items, start, passing)
    yield from items


def _pass_over(items: Iterator[Any], start: int, passing: AbstractContextManager[None] | None) -> None:
    if start:
        with passing or nullcontext():
            for _ in islice(items, start):
                pass
