"""A DataLoader whose order and randomness follow a seed: the same batches wherever one starts reading.

The order of an epoch is drawn from (seed, epoch); the randomness with which a batch is loaded, augmented and
collated from (seed, epoch, its place). Nothing is drawn from the generators that the model uses, so the number
of workers changes nothing, and batch k can be made without making the k - 1 before it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    get_worker_info,
)

from ignition.errors import ArgumentError
from ignition.generators import generators_of, reseed
from ignition.rng import key_of, keyed, keyed_blocks, seed_fetching
from ignition.shards import WHOLE, Borrowed, Fill, Numbered, Shard, batches_in, deal, drops_last, portions_in

__all__ = ["KeyedLoader", "batches_left", "can_be_keyed", "unsharded"]


class _KeyedIndices(NamedTuple):
    """What the sampler hands to a worker: which samples, and the key of their randomness."""

    key: int
    indices: Any


def can_be_keyed(loader: Any) -> bool:
    """Whether `loader` is a DataLoader over a data set with indices, iterated the way torch does."""
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and not hasattr(loader, "state_dict")  # it keeps its place by itself
    )


class KeyedLoader:
    """A copy of a DataLoader that reads by key; the user's own loader is left as it is.

    The copy keeps the loader's class (and so an ``__iter__`` of its own), collate function, workers and all
    other settings. Attributes that are not here are those of the copy.

    Args:
        loader: A DataLoader for which `can_be_keyed` is true.
        seed: The seed of the run.
        purpose: Keeps apart what is read for different ends, such as training and evaluation.
    """

    def __init__(self, loader: DataLoader[Any], seed: int, purpose: str = "train") -> None:
        self._original = loader
        self._loader: DataLoader[Any] = copy.copy(loader)
        batched = loader.batch_sampler is not None
        self._order = _KeyedOrder(loader, seed, purpose)
        # torch forbids to exchange these after __init__; a copy is not yet in use, and __init__ is the subclass's.
        vars(self._loader).update(
            dataset=_KeyedDataset(loader.dataset, loader.collate_fn, batched),
            collate_fn=_as_it_is,
            # Only drawn from for the workers' base seed, which each batch's key replaces.
            generator=torch.Generator().manual_seed(key_of(seed, purpose, "workers")),
            _iterator=None,
            worker_init_fn=_WorkerStart(loader.worker_init_fn),
            **{"batch_sampler" if batched else "sampler": self._order},
        )

    def iterate(
        self, epoch: int, start: int = 0, shard: Shard = WHOLE, fill: Fill = "none", shift: int = 0
    ) -> Iterator[Any]:
        """The batches of `epoch` from number `start` on that fall to a process; as `ignition.data.iterate`."""
        if type(self._loader).__iter__ is not DataLoader.__iter__:
            # What a class of the user's makes of the batches need not be one for one: all are read, and counted after.
            return self._of_own_iter(epoch, start, shard, fill)
        if shard.size == 1:
            self._order.place(epoch, start, shift=shift)
            return iter(self._loader)
        vars(self._loader)["in_order"] = True  # or none could tell which batch is the borrowed one
        borrowed = self._order.place(epoch, start, shard, fill, shift=shift)
        return _marked(iter(self._loader), borrowed)  # its workers start now

    def _of_own_iter(self, epoch: int, start: int, shard: Shard, fill: Fill) -> Iterator[Any]:
        self._order.place(epoch, of_all=shard.size > 1)
        batches = islice(self._loader, start, None)
        if shard.size == 1:
            yield from batches
            return
        for portion in deal(batches, start, shard, fill, drops_last(self._original)):
            yield Borrowed.of(portion.item) if portion.borrowed else portion.item

    def __iter__(self) -> Iterator[Any]:
        return self.iterate(1)

    def __len__(self) -> int:
        return len(self._original)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)


class _WorkerStart:
    """What a worker begins with: torchrun's signals to a process and all that it has started are not for its workers.

    They would end at once, and with them the epoch, before there is a checkpoint.
    """

    def __init__(self, own: Callable[[int], object] | None) -> None:
        self._own = own

    def __call__(self, number: int) -> None:
        if "TORCHELASTIC_RUN_ID" in os.environ and hasattr(os, "setpgid"):
            os.setpgid(0, 0)
        if self._own is not None:
            self._own(number)


def _marked(batches: Iterator[Any], borrowed: set[int]) -> Iterator[Any]:
    """Some batches, those of these numbers as borrowed ones: only here, since pinning memory makes lists of tuples."""
    for number, batch in enumerate(batches):
        yield Borrowed.of(batch) if number in borrowed else batch


class _Place(NamedTuple):
    """Which batches of an epoch are to be read, and how."""

    sampler: Any
    epoch: int
    start: int
    shard: Shard
    fill: Fill
    shift: int
    borrowed: set[int]  # the numbers, among those read, of the batches that are borrowed; known when they are asked for


class _KeyedOrder:
    """In the place of a loader's (batch) sampler: yields what it would, in the order of an epoch, with keys."""

    def __init__(self, loader: DataLoader[Any], seed: int, purpose: str) -> None:
        batched = loader.batch_sampler is not None
        self._sampler: Any = loader.batch_sampler if batched else loader.sampler
        self._of_all: Any = None
        self._makes_lists = batched or isinstance(self._sampler, BatchSampler)
        self._drop_last = drops_last(loader)
        self._seed = seed
        self._purpose = purpose
        self.place(1)

    def place(
        self,
        epoch: int,
        start: int = 0,
        shard: Shard = WHOLE,
        fill: Fill = "none",
        of_all: bool = False,
        shift: int = 0,
    ) -> set[int]:
        """Sets what the next iteration yields; `of_all` is whether a sampler's own sharding is passed by.

        Returns:
            Where the numbers of the iteration's borrowed batches are noted, each before the batch can be made.
        """
        sampler = self._sampler
        if of_all or shard.size > 1:
            if self._of_all is None:  # kept, since a sampler may learn from epoch to epoch
                self._of_all = unsharded(sampler)
            sampler = self._of_all
        self._place = _Place(sampler, epoch, start, shard, fill, shift, set())
        return self._place.borrowed

    def __len__(self) -> int:
        sampler, _, start, shard, fill, shift, _ = self._place
        length = batches_left(sampler, shift) if shift else len(sampler)
        return portions_in(max(0, length - start), shard, fill, self._drop_last)

    def __iter__(self) -> Iterator[_KeyedIndices]:
        # The place is read now and not at the first batch: by then another iteration may have set its own.
        return self._from(self._place)

    def _from(self, this: _Place) -> Iterator[_KeyedIndices]:
        epoch, start = this.epoch, this.start
        order = _reseeded(this.sampler, epoch, key_of(self._seed, self._purpose, "order", epoch))
        if this.shard.size == 1 and not this.shift:
            for place, indices in islice(enumerate(order), start, None):
                yield _KeyedIndices(self._key(epoch, place), indices)
            return
        batches = Numbered.of(order, this.shift)
        if batches is None:
            join: Callable[[list[Any]], list[Any] | None] | None = _joined if self._makes_lists else None
            items: Iterable[Any] = islice(order, start, None)
        else:
            join, items = batches.joined, range(start, len(batches))
        portions = deal(items, start, this.shard, this.fill, self._drop_last, join)
        for number, (place, indices, borrowed) in enumerate(portions):
            if borrowed:
                this.borrowed.add(number)
            if batches is not None and isinstance(indices, int):  # a batch's number, where it is no part of a round
                indices = batches[indices]
            yield _KeyedIndices(self._key(epoch, place), indices)

    def _key(self, epoch: int, place: int) -> int:
        return key_of(self._seed, self._purpose, "batch", epoch, place)

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
    return _drawn_under(sampler, key)


def _own_copy(sampler: Any, epoch: int, key: int) -> Any:
    """A copy of one of torch's own samplers that follows the key, or None where it is none of those."""
    kind = type(sampler)
    if kind is SequentialSampler:
        return sampler
    changed = copy.copy(sampler)
    if kind in (RandomSampler, SubsetRandomSampler, WeightedRandomSampler):
        changed.generator = torch.Generator().manual_seed(key)
        return changed
    if kind is DistributedSampler:
        changed.set_epoch(epoch - 1)  # it has a seed of its own
        return changed
    if kind is BatchSampler:
        changed.sampler = _own_copy(sampler.sampler, epoch, key)
        return None if changed.sampler is None else changed
    return None


def _with_inner(sampler: Any) -> list[Any]:
    """A sampler, and the one that it puts into batches."""
    return [sampler, *([sampler.sampler] if hasattr(sampler, "sampler") else [])]


def _drawn_under(sampler: Iterable[Any], key: int) -> Iterator[Any]:
    """Yields from a sampler of the user's, which may draw from any generator whenever it is asked."""
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
        with block():
            if iterator is None:
                iterator = iter(sampler)
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


class _KeyedDataset:
    """In the place of the user's data set: loads and collates what an index asks for, under the index's key.

    In all else it is the data set, since that is what ``get_worker_info().dataset`` gives: a worker_init_fn opens
    files there, or cuts out the worker's part.
    """

    def __init__(self, dataset: Any, collate: Callable[[Any], Any], batched: bool) -> None:
        vars(self).update(_dataset=dataset, _collate=collate, _batched=batched)

    def __getitem__(self, index: Any) -> Any:
        return self.__getitems__(index) if isinstance(index, _KeyedIndices) else self._dataset[index]

    def __getitems__(self, keyed_indices: _KeyedIndices) -> Any:
        key, indices = keyed_indices
        if _draws_nothing(self._dataset, self._collate):
            return self._collate(self._fetch(indices))
        with _randomness(key, self._own_generators()):
            return self._collate(self._fetch(indices))

    def _own_generators(self) -> list[Any]:
        """The generators that the data set and the collate function keep; found once in each process that loads."""
        if "_found" not in vars(self):
            vars(self)["_found"] = generators_of(self._dataset, self._collate)
        found: list[Any] = vars(self)["_found"]
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_found"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def _fetch(self, indices: Any) -> Any:
        if not self._batched:
            return self._dataset[indices]
        if callable(getattr(self._dataset, "__getitems__", None)):
            return self._dataset.__getitems__(indices)
        return [self._dataset[index] for index in indices]

    def __len__(self) -> int:
        return len(self._dataset)

    def __getattr__(self, name: str) -> Any:
        # Guarded, since a copy or a worker asks for attributes before __init__'s are there.
        if name.startswith("__") or name == "_dataset":
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._dataset, name, value)


def _draws_nothing(dataset: Any, collate: Any) -> bool:
    """Whether what makes the batches is torch's own and known to draw no numbers: no key has to follow them then."""
    while type(dataset) is Subset:
        dataset = dataset.dataset
    plain = type(dataset) is TensorDataset and collate is default_collate
    return plain and all(type(tensor) is torch.Tensor for tensor in dataset.tensors)


def _randomness(key: int, others: list[Any]) -> AbstractContextManager[None]:
    """In a worker the generators are its own; in the main process they are the model's and must be put back."""
    if get_worker_info() is None:
        return keyed(key, others)
    seed_fetching(key, others)
    return nullcontext()


def _as_it_is(collated: Any) -> Any:
    return collated
