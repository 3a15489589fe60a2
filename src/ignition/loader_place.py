"""The place of a loader that keeps it by itself: kept in a checkpoint, and gone on from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from ignition import rng
from ignition.data import keeps_place
from ignition.keyed import leaving_signals
from ignition.passes import begun_anew

__all__ = ["KeptPlace", "load_place", "place_of"]


class KeptPlace(NamedTuple):
    """Where a loader was put back, until it is read from there.

    Attributes:
        loader: The loader.
        place: What `place_of` returned when the checkpoint was taken.
        ended: Whether that was at an epoch's end.
    """

    loader: Any
    place: dict[str, Any]
    ended: bool

    def open(self, note: Callable[[Iterator[Any]], object] = lambda batches: None) -> Iterator[Any]:
        """The batches that come after the place; `note` is called with the iterator that they come from."""
        if self.ended:
            return chain.from_iterable(self._next_epoch(note))
        with _showing_its_end(self.loader), leaving_signals(self.loader):
            batches: Iterator[Any] = iter(self.loader)
        note(batches)
        self._put_generator_back()
        return batches

    def _next_epoch(self, note: Callable[[Iterator[Any]], object]) -> Iterator[Iterable[Any]]:
        """As it is asked for, and not before: the first batch has to be read to see whether it is the next one's."""
        with _showing_its_end(self.loader), leaving_signals(self.loader):
            if isinstance(_stateful(self.loader), DataLoader):
                # torchdata's StatefulDataLoader makes the iterator of the ended epoch once more, with the draws that
                # this takes: here, from where the generators can be put back, before it makes that of the next one.
                # Others are not asked: they may tell their place only once they are being read.
                generators = rng.capture()
                _stateful(self.loader).state_dict()
                rng.restore(generators)
            self._put_generator_back()
            parts = begun_anew(self.loader, note)
            first = next(parts)
        yield first
        yield from parts

    def _put_generator_back(self) -> None:
        generator = _generator_of(self.loader)
        if generator is not None and self.place["generator"] is not None:
            generator.set_state(self.place["generator"])


def place_of(loader: Any) -> dict[str, Any] | None:
    """Where a loader is that keeps its place by itself, with its own generator; None for any other loader."""
    if keeps_place(loader) is None:
        return None
    with leaving_signals(loader):  # torchdata's StatefulDataLoader may start its workers to tell
        state, generator = _stateful(loader).state_dict(), _generator_of(loader)
    return {"state": state, "generator": None if generator is None else generator.get_state()}


def load_place(loader: Any, place: dict[str, Any], ended: bool) -> KeptPlace:
    """Puts a loader where `place_of` found it; its batches from there on are those of what this returns."""
    stateful = _stateful(loader)
    if getattr(stateful, "_iter_for_state_dict", False):
        # torchdata's Loader began an iterator to tell its state, and would give that one whatever is loaded now.
        iter(stateful)
    stateful.load_state_dict(place["state"])
    return KeptPlace(loader, place, ended)


@contextmanager
def _showing_its_end(loader: Any) -> Iterator[None]:
    """Has torchdata's Loader show the end of an epoch whose batches are all read, as any iterator does.

    By itself it goes on with the next epoch there, which would count as the rest of this one.
    """
    restarts = getattr(loader, "restart_on_stop_iteration", None)
    if restarts is not True:
        yield
        return
    loader.restart_on_stop_iteration = False
    try:
        yield
    finally:
        loader.restart_on_stop_iteration = restarts


def _stateful(loader: Any) -> Any:
    return keeps_place(loader)


def _generator_of(loader: Any) -> torch.Generator | None:
    generator = getattr(loader, "generator", None)
    return generator if isinstance(generator, torch.Generator) else None
