"""A DataLoader whose order and randomness follow a seed: the same batches wherever one starts reading.

The order of an epoch is drawn from (seed, epoch); the randomness with which a batch is loaded, augmented and
collated from (seed, epoch, its place). Nothing is drawn from the generators that the model uses, so the number
of workers changes nothing, and batch k can be made without making the k - 1 before it.
"""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, default_collate, get_worker_info

from ignition.drawn import Drawn
from ignition.generators import generators_of
from ignition.keyed_order import KeyedIndices, KeyedOrder, drawn_under
from ignition.rng import capture, key_of, keyed, restore, seed_fetching
from ignition.shards import WHOLE, Borrowed, Fill, Shard, deal, drops_last

__all__ = ["KeyedLoader", "can_be_keyed", "iterates_in_own_way", "leaving_signals"]

_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


def iterates_in_own_way(loader: Any) -> bool:
    """Whether `loader` is a DataLoader of a class that has an ``__iter__`` of its own."""
    return isinstance(loader, DataLoader) and type(loader).__iter__ is not DataLoader.__iter__


def can_be_keyed(loader: Any) -> bool:
    """Whether `loader` is a DataLoader over a data set with indices, which does not keep its place by itself."""
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and not hasattr(loader, "state_dict")
    )


class KeyedLoader:
    """A DataLoader that reads by key: a copy of the user's, which is left as it is.

    The copy keeps the loader's class, collate function, workers and all other settings; only its batches come in
    their order, whatever ``in_order`` says, since their places are counted. Other attributes are those of the copy.

    A class with an ``__iter__`` of its own may draw from any generator, and remember things in its attributes. So its
    loader is read itself, with the parts of the copy in it while it makes a batch; and what it draws follows the seed.

    Args:
        loader: A DataLoader for which `can_be_keyed` is true.
        seed: The seed of the run.
        purpose: Keeps apart what is read for different ends, such as training and evaluation.
    """

    def __init__(self, loader: DataLoader[Any], seed: int, purpose: str = "train") -> None:
        self._original = loader
        self._key = partial(key_of, seed, purpose, "loader")
        batched = loader.batch_sampler is not None
        self._order = KeyedOrder(loader, seed, purpose)
        self._parts = {
            "dataset": _KeyedDataset(loader.dataset, loader.collate_fn, batched),
            "collate_fn": _as_it_is,
            # Only drawn from for the workers' base seed, which each batch's key replaces.
            "generator": torch.Generator().manual_seed(key_of(seed, purpose, "workers")),
            "_iterator": None,
            "worker_init_fn": _WorkerStart(loader.worker_init_fn),
            "in_order": True,
            "batch_sampler" if batched else "sampler": self._order,
        }
        self._loader = loader
        self.drawn: Drawn | None = None
        """What notes how far its sampler is in the next iteration; of a class with an iteration of its own, itself."""
        if not iterates_in_own_way(loader):
            self._loader = copy.copy(loader)
            # torch forbids to exchange these after __init__; a copy is not yet in use, and __init__ is the subclass's.
            vars(self._loader).update(self._parts)

    def iterate(
        self, epoch: int, start: int = 0, shard: Shard = WHOLE, fill: Fill = "none", shift: int = 0
    ) -> Iterator[Any]:
        """The batches of `epoch` from number `start` on that fall to a process; as `ignition.data.iterate`."""
        self._order.has_keys = not _draws_nothing(self._original.dataset, self._original.collate_fn)
        if self._loader is self._original:
            # What a class of the user's makes of the batches need not be one for one: all are read, and counted after.
            return self._of_own_iter(epoch, start, shard, fill)
        drawn, self.drawn = self.drawn, None
        # Where nothing is drawn the user's own parts do as well, and quicker; workers that persist keep theirs.
        self._order.is_plain = not self._order.has_keys and not self._loader.num_workers
        for name in ("dataset", "collate_fn"):
            vars(self._loader)[name] = getattr(self._original, name) if self._order.is_plain else self._parts[name]
        if shard.size == 1:
            self._order.place(epoch, start, shift=shift, drawn=drawn)
            return iter(self._loader)
        borrowed = self._order.place(epoch, start, shard, fill, shift=shift, drawn=drawn)
        batches, own = iter(self._loader), self._order.own_at_least()  # its workers start now
        return chain(islice(batches, own), _marked(batches, borrowed, own))

    def _of_own_iter(self, epoch: int, start: int, shard: Shard, fill: Fill) -> Iterator[Any]:
        drawn, self.drawn = self.drawn or Drawn(), None
        drawn.inner = Drawn()
        is_told = self._original.num_workers == 0  # else it depends on them how many indices a batch is behind
        self._order.place(epoch, of_all=shard.size > 1, drawn=drawn.inner, is_told=is_told)
        # What is passed over is made and dropped: only so the loader comes to where it was.
        made = drawn_under(self._loader, self._key(epoch), self._put_in)
        batches = drawn.follow(made, start, is_told=False, passing=_leaving_generators())
        return batches if shard.size == 1 else self._dealt(batches, start, shard, fill)

    def _dealt(self, batches: Iterator[Any], start: int, shard: Shard, fill: Fill) -> Iterator[Any]:
        for portion in deal(batches, start, shard, fill, drops_last(self._original)):
            yield Borrowed.of(portion.item) if portion.borrowed else portion.item

    @contextmanager
    def _put_in(self) -> Iterator[None]:
        """The user's loader with the parts that read by key in it."""
        attributes = vars(self._original)
        own = {name: attributes[name] for name in self._parts if name in attributes}
        attributes.update(self._parts)
        try:
            yield
        finally:
            self._parts = {name: attributes.pop(name) for name in self._parts}  # with the workers that persist
            attributes.update(own)

    def __iter__(self) -> Iterator[Any]:
        return self.iterate(1)

    def __len__(self) -> int:
        return len(self._original)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)


@contextmanager
def leaving_signals(loader: Any) -> Iterator[None]:
    """Has the workers that a loader starts inside the block leave signals to the script, as those of a KeyedLoader."""
    if not isinstance(loader, DataLoader) or not loader.num_workers:
        yield
        return
    own = loader.worker_init_fn
    loader.worker_init_fn = _WorkerStart(own)
    try:
        yield
    finally:
        loader.worker_init_fn = own


class _WorkerStart:
    """What a worker begins with: signals to a process and all that it has started are not for its workers.

    They would end at once, and with them the epoch, before there is a checkpoint. Those of torchrun do not reach them.
    Ctrl-C and SIGUSR1 are ignored: a worker may have been started before the script took them over, as when an epoch
    goes on in its middle, or not by a fork. What the script itself has set for them stays.
    """

    def __init__(self, own: Callable[[int], object] | None) -> None:
        self._own = own

    def __call__(self, number: int) -> None:
        if "TORCHELASTIC_RUN_ID" in os.environ and hasattr(os, "setpgid"):
            os.setpgid(0, 0)
        for name in ("SIGINT", "SIGUSR1"):
            signal_number = getattr(signal, name, None)  # Windows has no SIGUSR1
            if signal_number is not None and signal.getsignal(signal_number) in _DEFAULTS:
                signal.signal(signal_number, signal.SIG_IGN)
        if self._own is not None:
            self._own(number)


@contextmanager
def _leaving_generators() -> Iterator[None]:
    """Puts back the generators that follow no key, those of an accelerator."""
    before = capture()
    yield
    restore(before)


def _marked(batches: Iterator[Any], borrowed: set[int], start: int) -> Iterator[Any]:
    """Some batches, those of these numbers as borrowed ones: only here, since pinning memory makes lists of tuples."""
    for number, batch in enumerate(batches, start):
        yield Borrowed.of(batch) if number in borrowed else batch


class _KeyedDataset:
    """In the place of the user's data set: loads and collates what an index asks for, under the index's key.

    In all else it is the data set, since that is what ``get_worker_info().dataset`` gives: a worker_init_fn opens
    files there, or cuts out the worker's part.
    """

    def __init__(self, dataset: Any, collate: Callable[[Any], Any], batched: bool) -> None:
        vars(self).update(_dataset=dataset, _collate=collate, _batched=batched)

    def __getitem__(self, index: Any) -> Any:
        return self.__getitems__(index) if isinstance(index, KeyedIndices) else self._dataset[index]

    def __getitems__(self, keyed_indices: KeyedIndices) -> Any:
        key, indices = keyed_indices
        if key is None:
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
