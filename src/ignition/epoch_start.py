"""What the order of an epoch follows from besides the seed, as it was when the epoch began.

An epoch that is taken up in its middle begins from there once more, and passes over what has been read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ignition import distributed, rng
from ignition.codec import encode
from ignition.data import Borrowed, check_place_kept, iterate, keeps_place
from ignition.drawn import Drawn, Goal
from ignition.errors import CheckpointError, warn
from ignition.keyed import KeyedLoader, leaving_signals
from ignition.loader_place import KeptPlace, load_place, place_of
from ignition.sampler_memory import SamplerMemory, own_samplers
from ignition.tensor_loader import TensorLoader

__all__ = ["EpochStart", "EvaluationStart"]

_MIDDLE = "the checkpoint is from the middle of an epoch"


class _Place(NamedTuple):
    """How far a sampler is in an epoch: how many items it was asked for, their digest, and what it remembers."""

    given: int
    digest: int
    memory: Any


class EpochStart:
    """The start of the epoch that is being read, or was read last.

    Without a seed, torch's generator and those that the loader was given are kept too: from these a DataLoader and a
    TensorLoader draw their order as the epoch begins.
    """

    def __init__(self) -> None:
        self._kept: KeptPlace | None = None  # where a loader was put back that keeps its place by itself
        self._unread: KeptPlace | None = None  # the same, from when it is opened until its first batch
        self._read_from: Any = None  # such a loader that has given a batch
        self._batches: Any = None  # the iterator of such a loader
        self._has_ended = False  # whether that has shown its end
        self._loader: Any = None
        self._epoch = 0
        self._is_keyed = True
        self._memory = SamplerMemory(None)
        self._remembered: Any = {}
        self._drawn = Drawn()
        self._loaded: _Place | None = None  # where a checkpoint's sampler was; until the loader is opened
        self._drawn_from: dict[str, Tensor] | None = None
        self._drawn_until: dict[str, Tensor] | None = None

    def open(self, loader: Any, source: Any, epoch: int, read: int) -> Iterator[Any] | None:
        """Notes the start of an epoch, or goes on in one.

        Args:
            loader: The user's train loader.
            source: The same as it is read: by key, where its order follows the seed.
            epoch: Its number.
            read: How many batches of it have been read.

        Returns:
            The batches that are left, where the loader keeps its place by itself, or has to read what is passed over;
            else None.
        """
        kept, is_keyed = self._kept, source is not loader
        if kept is not None and kept.loader is not loader:
            kept = None
        if kept is not None:
            self._epoch = epoch
            if read and self._has_ended:
                return self._all_read(kept)
        self._kept, self._unread, self._batches, self._has_ended = None, kept, None, False
        if kept is not None:
            return self._followed(kept.open(self._note))
        loaded, self._loaded = self._loaded, None
        self._drawn = Drawn()
        if isinstance(source, KeyedLoader):
            if loaded is not None:
                self._drawn = Drawn(Goal(loaded.given, loaded.digest, partial(self._arrive, loaded)))
            source.drawn = self._drawn
        if read:
            return self._gone_on(loader, read, loaded)
        self.look_at(loader)
        if is_keyed and self._epoch == epoch:  # once more, after an error
            self._memory.put_back(self._remembered)
        self._remembered = self._memory.now()
        self._epoch, self._is_keyed, self._drawn_until = epoch, is_keyed, None
        self._drawn_from = None if is_keyed else _generators_of(loader)
        if is_keyed or keeps_place(loader) is None:
            return None
        with leaving_signals(loader):
            batches = iterate(loader)
        self._note(batches)
        return self._followed(batches)

    def read_out(self, batches: Iterator[Any]) -> None:
        """Has a sampler of the user's come to its own end, where the number of batches told the epoch's before it."""
        if self._memory:
            next(batches, None)

    def place(self, loader: Any) -> dict[str, Any] | None:
        """Where a loader is that keeps its place by itself; None for any other."""
        kept = self._kept or self._unread
        if kept is not None and kept.loader is loader:
            return kept.place
        place = place_of(loader)
        return None if place is None else place | {"ended": self._shows_its_end(loader)}

    def has_place(self, loader: Any) -> bool:
        """Whether `place` is known or can be asked for: some can tell it only once they are being read."""
        kept = self._kept or self._unread
        return self._read_from is loader or (kept is not None and kept.loader is loader)

    def state(self, loader: Any, epoch: int, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """What a checkpoint holds of it.

        Args:
            loader: The user's train loader.
            epoch: The number of the epoch that is open; 0 where the last one has been read to its end.
            tensors: Receives the tensors.
        """
        self.look_at(loader)
        has_ended = not epoch or epoch != self._epoch  # or it is about to be opened
        now = self._memory.now()
        self._memory.warn_of_lost(now)
        place = self._loaded or _Place(self._drawn.given, self._drawn.digest, now)
        # The next epoch begins with all that there is.
        memory = self._memory.written(place.memory if has_ended else self._remembered, tensors)
        later = {} if has_ended else self._memory.written(place.memory, tensors, "now.")
        generators = None
        if self._drawn_from is not None:
            until = _generators_of(loader)
            generators = {"from": until if has_ended else self._drawn_from, "until": until}
        return {
            "keyed": self._is_keyed,
            "epoch": 0 if has_ended else self._epoch,
            "memory": memory,
            "now": {"given": place.given, "digest": place.digest, "memory": later},
            "generators": encode(generators, tensors, "order"),
        }

    def check(self, loader: Any, state: Mapping[str, Any], source: str) -> None:
        """Raises CheckpointError if `state` belongs to another loader."""
        memory = self._memory if loader is self._loader else SamplerMemory(loader)
        memory.check(state["memory"], source)
        memory.check(state["memory"] | state["now"]["memory"], source)

    def load(self, loader: Any, state: Mapping[str, Any], kept: Any, has_ended: bool) -> None:
        """Goes where a checkpoint was taken.

        Args:
            loader: The user's train loader.
            state: What `state` returned then, decoded.
            kept: What `place` returned then, decoded.
            has_ended: Whether the epoch had been read to its end.
        """
        self._has_ended = kept is not None and kept.get("ended", False)
        self._kept = None if kept is None else load_place(loader, kept, has_ended or self._has_ended)
        self._unread = self._batches = None
        self.look_at(loader)
        self._epoch, self._is_keyed, self._drawn_from, self._drawn_until = state["epoch"], state["keyed"], None, None
        self._remembered = self._memory.read(state["memory"])
        self._memory.put_back(self._remembered)
        self._loaded = None
        if state["epoch"]:
            now = state["now"]
            self._loaded = _Place(now["given"], now["digest"], self._memory.read(now["memory"]))
        if state["generators"] is not None:
            self._drawn_from, self._drawn_until = state["generators"]["from"], state["generators"]["until"]
            _put_back(loader, self._drawn_until)

    def warn_if_lost(self, loader: Any) -> None:
        """Warns of a checkpoint from the middle of an epoch whose order cannot be found again."""
        if self._is_keyed or keeps_place(loader) is not None:
            return
        try:
            check_place_kept(loader)
        except CheckpointError as error:
            warn(f"{_MIDDLE}: other batches come after it than came then\n  {error}")
            return
        own = bool(own_samplers(loader))
        if own or (getattr(loader, "in_order", True) is False and loader.num_workers > 0):
            whose = "a sampler or loader of your own may draw" if own else "a DataLoader with in_order=False may have"
            warn(
                f"{_MIDDLE}, and without seed= {whose} another order after it: give the Trainer a seed, or save at an "
                "epoch's end"
            )

    def look_at(self, loader: Any) -> None:
        """Notes what the samplers of a loader are as the script has made them: before any callback can change them."""
        if loader is not self._loader:
            self._loader, self._memory, self._epoch = loader, SamplerMemory(loader), 0
            self._remembered = self._memory.first
            self._loaded = None

    def _all_read(self, kept: KeptPlace) -> Iterator[Any]:
        """What is left of an epoch that was all read: what comes from that place on belongs to the next one."""
        if distributed.world_size() == 1:
            return iter(())
        first = [Borrowed.of(batch) for batch in islice(kept.open(), 1)]  # others may go on, and this one with them
        self._kept = load_place(kept.loader, kept.place, ended=True)
        return iter(first)

    def _followed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches of a loader that keeps its place, with a note of its begin and its end, and none for each."""
        return chain(self._first(self._loader, batches), batches, self._end())

    def _note(self, batches: Iterator[Any]) -> None:
        self._batches = batches if keeps_place(self._loader) is not self._loader else None

    def _first(self, loader: Any, batches: Iterator[Any]) -> Iterator[Any]:
        self._unread, self._read_from = None, loader
        yield from islice(batches, 1)

    def _end(self) -> Iterator[Any]:
        self._has_ended = True
        yield from ()

    def _shows_its_end(self, loader: Any) -> bool:
        """Whether a loader is behind its epoch: that of a stream also where a short last batch has run it out."""
        fetcher = getattr(self._batches, "_dataset_fetcher", None)
        return loader is self._loader and (self._has_ended or bool(getattr(fetcher, "ended", False)))

    def _arrive(self, place: _Place) -> None:
        self._memory.put_back(place.memory, inside=True)

    def _gone_on(self, loader: Any, read: int, loaded: _Place | None) -> Iterator[Any] | None:
        self.warn_if_lost(loader)
        if self._drawn_from is None or self._drawn_until is None:
            return None
        before = rng.capture()
        _put_back(loader, self._drawn_from)
        batches: Iterator[Any] = iter(loader)
        for _ in islice(batches, read):  # loaded and dropped: only so the loader comes to where it was
            pass
        if loaded is not None:
            self._arrive(loaded)
        _put_back(loader, self._drawn_until)
        rng.restore(before)
        return batches


class EvaluationStart:
    """What the samplers of a test loader remember, as it was when the evaluation began that is due.

    One that is left for a signal begins anew from there.
    """

    def __init__(self) -> None:
        self._loader: Any = None
        self._memory = SamplerMemory(None, "test")
        self._begun: Any = None

    def begin(self, loader: Any) -> None:
        """Notes the start of an evaluation that is due."""
        self.look_at(loader)
        self._begun = self._memory.now()

    def again(self) -> None:
        """The evaluation was left, and is to begin anew."""
        if self._begun is not None:
            self._memory.put_back(self._begun)

    def end(self) -> None:
        """The evaluation has its record."""
        self._begun = None

    def state(self, loader: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """What a checkpoint holds of it; `tensors` receives the tensors."""
        self.look_at(loader)
        now = self._memory.now()
        self._memory.warn_of_lost(now)
        return self._memory.written(now if self._begun is None else self._begun, tensors)

    def load(self, loader: Any, state: Mapping[str, Any]) -> None:
        """Goes where a checkpoint was taken, unless that had another test loader: it may be exchanged at will."""
        self.look_at(loader)
        self._begun = None
        if self._memory.fits(state):
            self._memory.put_back(self._memory.read(state))

    def look_at(self, loader: Any, train_loader: Any = None) -> None:
        """Notes what the samplers of a loader are as the script has made them; those that train too are left out."""
        if loader is not self._loader:
            self._loader, self._memory, self._begun = loader, SamplerMemory(loader, "test", train_loader), None


def _draws(loader: Any) -> bool:
    """Whether a loader's order comes from torch's generators as its iteration begins."""
    if isinstance(loader, TensorLoader):
        return loader.shuffle
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and keeps_place(loader) is None
    )


def _holders(loader: Any) -> dict[str, torch.Generator]:
    """The generators that a loader was given, each once."""
    found: dict[str, torch.Generator] = {}
    for name, one in {"loader": loader, "sampler": getattr(loader, "sampler", None)}.items():
        generator = getattr(one, "generator", None)
        if isinstance(generator, torch.Generator) and not any(generator is other for other in found.values()):
            found[name] = generator
    return found


def _generators_of(loader: Any) -> dict[str, Tensor] | None:
    """The states of torch's generator and of those that the loader was given, where its order comes from them."""
    if not _draws(loader):
        return None
    given = {name: generator.get_state() for name, generator in _holders(loader).items()}
    return {"": torch.default_generator.get_state(), **given}


def _put_back(loader: Any, states: Mapping[str, Tensor]) -> None:
    torch.default_generator.set_state(states[""])
    for name, generator in _holders(loader).items():
        if name in states:
            generator.set_state(states[name])
