"""How far a sampler has been asked in an epoch, and how one that is begun anew comes there again."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, NamedTuple

from ignition.errors import warn

__all__ = ["Drawn", "Goal"]


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
    """

    def __init__(self, goal: Goal | None = None) -> None:
        self._count = self._digest = 0
        self._goal = goal

    @property
    def place(self) -> tuple[int, int]:
        """How many items it was asked for, and their digest; on the way to a goal those of the goal."""
        return (self._count, self._digest) if self._goal is None else self._goal[:2]

    @property
    def is_there(self) -> bool:
        """Whether it has come to its goal, or has none."""
        return self._goal is None

    def follow(
        self,
        items: Iterable[Any],
        start: int = 0,
        is_told: bool = True,
        passing: AbstractContextManager[None] | None = None,
    ) -> Iterator[Any]:
        """The items from number `start` on.

        Args:
            items: What the sampler gives, from its first item on.
            start: How many are passed over.
            is_told: Whether their digest is kept: by it a sampler is found out that gives others now than then.
            passing: Where they are passed over.
        """
        counted = self._told(items) if is_told else self._counted(items)
        if start:
            with passing or nullcontext():
                for _ in islice(counted, start):
                    pass
        if self._goal is not None:
            # One at least: torch's samplers draw a whole epoch as they are asked for the first.
            ahead = list(islice(counted, max(self._goal.given - start, 1 - start, 0)))
            is_other = is_told and self._digest != self._goal.digest and self._count == self._goal.given
            self.arrive()
            if is_other:
                warn(
                    "a sampler gave other samples before the checkpoint than it does now, up to the same place: it "
                    "draws as it goes, from what the training changed inside the epoch. The rest of this epoch may "
                    "come in another order. Change a sampler between epochs, or have its __iter__ draw the whole epoch"
                )
            yield from ahead
        yield from counted

    def arrive(self) -> None:
        """The sampler is where it was."""
        if self._goal is not None:
            goal, self._goal = self._goal, None
            goal.arrive()

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._count += 1
            yield item
        self._count += 1  # that there is no more has been asked too, and may have changed the sampler

    def _told(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._count += 1
            self._digest = zlib.crc32(repr(item).encode(), self._digest)
            yield item
        self._count += 1
