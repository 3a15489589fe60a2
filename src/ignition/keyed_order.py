"""The order of an epoch's samples, drawn from a seed: in the place of a DataLoader's sampler or batch sampler."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, count
from typing import Any, NamedTuple

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ignition.drawn import Drawn
from ignition.errors import ArgumentError
from ignition.generators import generators_of, reseed
from ignition.rng import key_of, keyed_blocks
from ignition.shards import (
    TORCH_SAMPLERS,
    WHOLE,
    Fill,
    Numbered,
    Shard,
    are_numbered,
    batches_in,
    deal,
    drops_last,
    portions_in,
)

__all__ = ["KeyedIndices", "KeyedOrder", "batches_left", "drawn_under", "unsharded"]


class KeyedIndices(NamedTuple):
    """What the sampler hands to a worker: which samples, and the key of their randomness; None where none is drawn."""

    key: int | None
    indices: Any


@dataclass(slots=True)
class _Place:
    """Which batches of an epoch are to be read, and how."""

    sampler: Any
    epoch: int
    start: int
    shard: Shard
    fill: Fill
    shift: int
    borrowed: set[int]  # the numbers, among those read, of the batches that are borrowed; known when they are asked for
    drawn: Drawn
    is_told: bool | None
    turn: Iterator[int]  # 0, or how often a loader with an iteration of its own has passed over its samples before
    opened: Iterator[Any] | None = None  # where the first iteration has come to a goal


class KeyedOrder:
    """In the place of a loader's (batch) sampler: yields what it would, in the order of an epoch, with keys.

    Attributes:
        has_keys: Whether each batch has one. Where nothing is drawn nobody asks for it, and to work it out takes time.
        is_plain: Whether the indices come as they are, without a place for a key.
    """

    def __init__(self, loader: DataLoader[Any], seed: int, purpose: str) -> None:
        batched = loader.batch_sampler is not None
        self._sampler: Any = loader.batch_sampler if batched else loader.sampler
        self._of_all: Any = None
        self._makes_lists = batched or isinstance(self._sampler, BatchSampler)
        self._drop_last = drops_last(loader)
        self._seed = seed
        self._purpose = purpose
        self.has_keys, self.is_plain = True, False
        self.place(1)

    def place(
        self,
        epoch: int,
        start: int = 0,
        shard: Shard = WHOLE,
        fill: Fill = "none",
        of_all: bool = False,
        shift: int = 0,
        drawn: Drawn | None = None,
        is_told: bool | None = None,
    ) -> set[int]:
        """Sets what the next iteration yields.

        Args:
            epoch: 1-based.
            start: How many items are passed over.
            shard: Which process of how many.
            fill: How an incomplete last round is made up.
            of_all: Whether a sampler's own sharding is passed by.
            shift: How many samples there are before the first.
            drawn: What notes how far the sampler is. If it has a goal, that is come to now, and not when the first
                batch is asked for: whoever looks at the sampler until then, or sets something, finds it there.
            is_told: Whether it notes what they are. By default of all but torch's, which draw an epoch at once.

        Returns:
            Where the numbers of the iteration's borrowed batches are noted, each before the batch can be made.
        """
        sampler = self._sampler
        if of_all or shard.size > 1:
            if self._of_all is None:  # kept, since a sampler may learn from epoch to epoch
                self._of_all = unsharded(sampler)
            sampler = self._of_all
        this = self._place = _Place(
            sampler, epoch, start, shard, fill, shift, set(), drawn or Drawn(), is_told, count()
        )
        if this.drawn.has_goal:
            this.opened = self._from(this)
        return this.borrowed

    def __len__(self) -> int:
        this = self._place
        length = batches_left(this.sampler, this.shift) if this.shift else len(this.sampler)
        return portions_in(max(0, length - this.start), this.shard, this.fill, self._drop_last)

    def __iter__(self) -> Iterator[Any]:
        # The place is read now and not at the first batch: by then another iteration may have set its own.
        return chain.from_iterable(self._opened(self._place))

    def _opened(self, this: _Place) -> Iterator[Iterator[Any]]:
        """Begins when it is first asked, since a DataLoader with workers makes two iterators, and asks the second."""
        opened, this.opened = this.opened, None
        yield self._from(this) if opened is None else opened

    def own_at_least(self) -> int:
        """How many of the batches to come are surely no borrowed ones: those of rounds that are known to be whole."""
        this = self._place
        if not are_numbered(this.sampler):
            return 0
        return max(0, batches_left(this.sampler, this.shift) - this.start) // this.shard.size

    def _from(self, this: _Place) -> Iterator[Any]:
        turn = next(this.turn)
        order = _reseeded(this.sampler, this.epoch, self._key(turn, "order", this.epoch))
        is_told = not _draws_at_once(this.sampler) if this.is_told is None else this.is_told
        is_whole = this.shard.size == 1 and not this.shift
        batches = None if is_whole else Numbered.of(order, this.shift)
        if batches is not None:
            this.drawn.arrive()
            return self._dealt(this, turn, range(this.start, len(batches)), batches)
        items = this.drawn.follow(order, this.start, is_told)
        return self._keyed(this, turn, items) if is_whole else self._dealt(this, turn, items, None)

    def _keyed(self, this: _Place, turn: int, items: Iterable[Any]) -> Iterator[Any]:
        for place, indices in enumerate(items, this.start):
            key = self._key(turn, "batch", this.epoch, place) if self.has_keys else None
            yield indices if self.is_plain else KeyedIndices(key, indices)

    def _dealt(self, this: _Place, turn: int, items: Iterable[Any], batches: Numbered | None) -> Iterator[Any]:
        """The items that fall to a process; of `batches`, which are made by their numbers, these are the items."""
        epoch, start = this.epoch, this.start
        join: Callable[[list[Any]], list[Any] | None] | None = _joined if self._makes_lists else None
        if batches is not None:
            join = batches.joined
        portions = deal(items, start, this.shard, this.fill, self._drop_last, join)
        for number, (place, indices, borrowed) in enumerate(portions):
            if borrowed:
                this.borrowed.add(number)
            if batches is not None and isinstance(indices, int):  # a batch's number, where it is no part of a round
                indices = batches[indices]
            if self.is_plain:
                yield indices
            else:
                yield KeyedIndices(self._key(turn, "batch", epoch, place) if self.has_keys else None, indices)

    def _key(self, turn: int, *parts: int | str) -> int:
        return key_of(self._seed, self._purpose, *parts, *((turn,) if turn else ()))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_sampler":
            raise AttributeError(name)
        return getattr(self._sampler, name)


def _joined(batches: list[Any]) -> list[Any] | None:
    """The indices of some batches, one after the other; None if a batch is anything but a list of them."""
    if not all(isinstance(batch, list) for batch in batches):
        return None
    return [index for batch in batches for index in batch]


def batches_left(sampler: Any, shift: int) -> int:
    """How many batches a batch sampler makes of all of its samples but the first `shift`."""
    return batches_in(max(0, len(sampler.sampler) - shift), sampler.batch_size, sampler.drop_last)


def unsharded(sampler: Any) -> Any:
    """A (batch) sampler that reads what `sampler` does for all processes; `sampler` itself if it has no own sharding.

    Raises:
        ArgumentError: If it shards in a way of its own, which cannot be undone.
    """
    changed: Any
    if isinstance(sampler, DistributedSampler):
        changed = copy.copy(sampler)
        changed.num_replicas, changed.rank = 1, 0
        changed.num_samples = changed.total_size = len(sampler.dataset)  # type: ignore[arg-type]
        return changed
    if getattr(sampler, "num_replicas", 1) != 1:
        raise ArgumentError(
            f"the loader's {type(sampler).__name__} has num_replicas={sampler.num_replicas}: it picks the part of one "
            "process by itself, of which each process would read a part again",
            expected="a sampler for all samples, of which each process is given its part, or a DistributedSampler",
            fix="make it with num_replicas=1 and rank=0, or leave it out",
        )
    inner = getattr(sampler, "sampler", None)
    whole = None if inner is None else unsharded(inner)
    if whole is inner:
        return sampler
    changed = copy.copy(sampler)
    changed.sampler = whole
    return changed


def _reseeded(sampler: Any, epoch: int, key: int) -> Iterable[Any]:
    """What `sampler` yields in an epoch when all that it draws comes from `key`."""
    own: Iterable[Any] | None = _own_copy(sampler, epoch, key)
    if own is not None:
        return own
    for one in _with_inner(sampler):
        if hasattr(one, "set_epoch"):
            one.set_epoch(epoch - 1)  # 0-based, as torch's DistributedSampler counts
    return drawn_under(sampler, key)


def _own_copy(sampler: Any, epoch: int, key: int) -> Any:
    """A copy of one of torch's own samplers that follows the key, or None where it is none of those."""
    kind = type(sampler)
    if kind is SequentialSampler:
        return sampler
    changed = copy.copy(sampler)
    if kind in (RandomSampler, SubsetRandomSampler, WeightedRandomSampler):
        changed.generator = torch.Generator().manual_seed(key)
        if kind is SubsetRandomSampler:  # it reads them as it goes, and the training may change them meanwhile
            changed.indices = list(sampler.indices)
        return changed
    if kind is DistributedSampler:
        changed.set_epoch(epoch - 1)  # it has a seed of its own
        return changed
    if kind is BatchSampler:
        changed.sampler = _own_copy(sampler.sampler, epoch, key)
        return None if changed.sampler is None else changed
    return None


def _draws_at_once(sampler: Any) -> bool:
    """Whether all that a sampler gives in an epoch is known as its first item is asked for."""
    return type(sampler.sampler if type(sampler) is BatchSampler else sampler) in TORCH_SAMPLERS


def _with_inner(sampler: Any) -> list[Any]:
    """A sampler, and the one that it puts into batches."""
    return [sampler, *([sampler.sampler] if hasattr(sampler, "sampler") else [])]


def drawn_under(
    sampler: Iterable[Any], key: int, within: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[Any]:
    """Yields from a sampler (or loader) of the user's, which may draw from any generator whenever it is asked.

    Args:
        sampler: The user's.
        key: What all that it draws follows.
        within: Makes the ``with`` block in which it is asked.
    """
    iterator: Iterator[Any] | None = None
    theirs = [getattr(one, "generator", None) for one in _with_inner(sampler)]
    generators = [generator for generator in theirs if isinstance(generator, torch.Generator)]
    for generator in generators_of(sampler):  # others that it keeps would go on from epoch to epoch
        if not any(generator is one for one in generators):
            reseed(generator, key)
    # Each item in a block of its own: the sampler may be half-way when the generators are needed elsewhere. And each
    # goes on where the last one ended, so that the order is the same for every batch size.
    block = keyed_blocks(key, generators)
    while True:
        with block(), within():
            if iterator is None:
                iterator = iter(sampler)
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
