"""A DataLoader whose order and randomness follow a seed: the same batches wherever one starts reading.

The order of an epoch is drawn from (seed, epoch); the randomness with which a batch is loaded, augmented and
collated from (seed, epoch, its place). Nothing is drawn from the generators that the model uses, so the number
of workers changes nothing, and batch k can be made without making the k - 1 before it.
"""

from __future__ import annotations

import copy
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
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from ignition.generators import generators_of, reseed
from ignition.rng import key_of, keyed, seed_fetching

__all__ = ["KeyedLoader", "can_be_keyed"]


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
        self._order = _KeyedOrder(loader.batch_sampler if batched else loader.sampler, seed, purpose)
        # torch forbids to exchange these after __init__; a copy is not yet in use, and __init__ is the subclass's.
        vars(self._loader).update(
            dataset=_KeyedDataset(loader.dataset, loader.collate_fn, batched),
            collate_fn=_as_it_is,
            # Only drawn from for the workers' base seed, which each batch's key replaces.
            generator=torch.Generator().manual_seed(key_of(seed, purpose, "workers")),
            _iterator=None,
            **{"batch_sampler" if batched else "sampler": self._order},
        )

    def iterate(self, epoch: int, start: int, index: int, count: int) -> Iterator[Any]:
        """The batches `index`, ``index + count``, ... of `epoch`, without the first `start` of them."""
        if type(self._loader).__iter__ is not DataLoader.__iter__:
            # What a class of the user's makes of the batches need not be one for one: all are read, and counted after.
            return self._of_own_iter(epoch, start * count + index, count)
        self._order.place(epoch, start, index, count)
        return iter(self._loader)

    def _of_own_iter(self, epoch: int, first: int, step: int) -> Iterator[Any]:
        self._order.place(epoch, 0, 0, 1)
        yield from islice(self._loader, first, None, step)

    def __iter__(self) -> Iterator[Any]:
        return self.iterate(1, 0, 0, 1)

    def __len__(self) -> int:
        return len(self._original)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)


class _KeyedOrder:
    """In the place of a loader's (batch) sampler: yields what it would, in the order of an epoch, with keys."""

    def __init__(self, sampler: Any, seed: int, purpose: str) -> None:
        self._sampler = sampler
        self._seed = seed
        self._purpose = purpose
        self.place(1, 0, 0, 1)

    def place(self, epoch: int, start: int, index: int, count: int) -> None:
        self._place = (epoch, start, index, count)

    def __len__(self) -> int:
        _, start, index, count = self._place
        return max(0, -(-(len(self._sampler) - index) // count) - start)

    def __iter__(self) -> Iterator[_KeyedIndices]:
        # The place is read now and not at the first batch: by then another iteration may have set its own.
        epoch, start, index, count = self._place
        return self._from(epoch, start * count + index, count)

    def _from(self, epoch: int, first: int, step: int) -> Iterator[_KeyedIndices]:
        order = _reseeded(self._sampler, epoch, key_of(self._seed, self._purpose, "order", epoch))
        for place, indices in islice(enumerate(order), first, None, step):
            yield _KeyedIndices(key_of(self._seed, self._purpose, "batch", epoch, place), indices)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_sampler":
            raise AttributeError(name)
        return getattr(self._sampler, name)


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
    position = 0
    iterator: Iterator[Any] | None = None
    theirs = [getattr(one, "generator", None) for one in _with_inner(sampler)]
    generators = [generator for generator in theirs if isinstance(generator, torch.Generator)]
    for generator in generators_of(sampler):  # others that it keeps would go on from epoch to epoch
        if not any(generator is one for one in generators):
            reseed(generator, key)
    while True:
        # Each item under a key of its own: the sampler may be half-way when the generators are needed elsewhere.
        with keyed(key_of(key, position), generators):
            if iterator is None:
                iterator = iter(sampler)
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
        position += 1


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


def _randomness(key: int, others: list[Any]) -> AbstractContextManager[None]:
    """In a worker the generators are its own; in the main process they are the model's and must be put back."""
    if get_worker_info() is None:
        return keyed(key, others)
    seed_fetching(key, others)
    return nullcontext()


def _as_it_is(collated: Any) -> Any:
    return collated
