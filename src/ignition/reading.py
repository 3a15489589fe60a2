"""What a process reads of a loader, where there are several of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from torch.utils.data import DataLoader, IterableDataset

from ignition import distributed
from ignition.data import (
    Borrowed,
    Fill,
    Shard,
    batch_weight,
    digest_of,
    has_places,
    iterate,
    keeps_place,
    length_after,
    length_of,
    rounds,
    shuffles,
    sure_length,
)
from ignition.data_order import beginning_of, choice_of, order_of
from ignition.errors import BatchError, warn
from ignition.means import Means
from ignition.position import Position
from ignition.shared_iterable import ALIKE, LOOK_FOR, SharedIterable
from ignition.strategy import is_sharded
from ignition.tensor_loader import TensorLoader
from ignition.weighing import NOTHING

__all__ = [
    "Part",
    "at_most",
    "check_ordered",
    "contents_of",
    "extent_of",
    "is_stream",
    "part_in_evaluation",
    "part_of",
    "rounds_of",
    "samples_of",
    "size_of",
    "weighing_borrowed",
]

_END = object()
_NO_BATCH = "none"
_SECONDS_TO_END = 0.02
_START: Final = Position(epoch=1)


def is_stream(loader: Any) -> bool:
    """Whether each process reads a loader by itself: one that has no indices, or keeps its own place."""
    return keeps_place(loader) is not None or (
        isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset)
    )


def part_of(
    loader: Any, position: Position = _START, fill: Fill = "none", opened: Any = None, sure: bool = True
) -> Iterator[Any]:
    """The batches of one epoch that this process takes.

    Args:
        loader: As the Trainer reads it, by key.
        position: The epoch, and how far it is read.
        fill: How an incomplete last round is made up; see `ignition.data.iterate`. A stream ends together in all
            processes where that is asked for: one that has ended goes on with its last batch, which counts nothing.
        opened: The batches of a stream, where it has been put back to its place.
        sure: Whether the processes are known to have as many; else they ask one another at each batch.

    Raises:
        BatchError: If the processes have different numbers of batches, or others.
    """
    size = distributed.world_size()
    if size == 1:
        return iterate(loader, position.epoch, position.batch, shift=position.shift) if opened is None else opened
    if getattr(loader, "num_workers", 0):
        # Threads of the group end what a collective has left to them, and a worker that is forked meanwhile hangs
        # (CPython before 3.12: it waits for a lock that such a thread held).
        time.sleep(_SECONDS_TO_END)
    if not is_stream(loader):
        shard = Shard(distributed.rank(), size)
        if not has_places(loader):
            loader = SharedIterable(loader)
        batches = iterate(loader, position.epoch, _batches_read(position, size), shard, fill, position.shift)
        return batches if sure else _ending_alike(batches)
    batches = iterate(loader, position.epoch, position.batch) if opened is None else opened
    return _of_stream(batches, ends_together=fill != "none")


def rounds_of(loader: Any, position: Position = _START, fill: Fill = "none", sure: bool = False) -> int | None:
    """How many batches this process takes in an epoch, where that is known; with `sure`, where it cannot be wrong."""
    size = distributed.world_size()
    if size == 1:
        length = sure_length(loader) if sure else length_of(loader)
        return length_after(loader, position.shift) if position.shift else length
    if is_stream(loader):
        return None
    left = rounds(loader, _batches_read(position, size), size, fill, position.shift, sure)
    return None if left is None else position.batch + left


class Part(NamedTuple):
    """What this process takes of a loader in an evaluation.

    Attributes:
        batches: Those batches.
        total: How many they are, where that is known.
        limit: How many of them are to be taken, where they are not limited already.
        weigh: What each counts.
        may_be_empty: Whether there may be none, since other processes have some.
    """

    batches: Iterator[Any]
    total: int | None
    limit: int | None
    weigh: Callable[[Any, int], float | None]
    may_be_empty: bool = False


def part_in_evaluation(loader: Any, model: Any, max_steps: int | None, means: Means | None = None) -> Part:
    """What this process takes of a loader, so that all processes together see each batch once, as one process would.

    Args:
        loader: As the Trainer reads it, by key.
        model: Where it is sharded, every process must take part in each of its forward passes.
        max_steps: How many batches all processes are to see together.
        means: What gathers the metrics; None for predictions, which are joined and not weighed.
    """
    size, number = distributed.world_size(), distributed.rank()
    if size == 1:
        weigh = batch_weight if means is not None else _not_weighed
        return Part(iterate(loader), at_most(max_steps, length_of(loader)), max_steps, weigh)
    fill: Fill = "borrow" if is_sharded(model) else "none"
    total = rounds_of(loader, fill=fill)
    if total is not None and max_steps is not None:
        total = min(total, -(-max_steps // size))
    batches = part_of(loader, fill=fill)
    if max_steps is not None:
        batches = _limited(batches, max_steps, number, size, every_round=fill == "borrow")
    return Part(batches, total, None, weighing_borrowed(means), fill == "none" and is_stream(loader))


def _not_weighed(batch: Any, axis: int) -> None:
    return None


def size_of(loader: Any) -> list[int | None] | None:
    """The batches and samples of a loader that the processes share; of a stream each has its own."""
    if loader is None or is_stream(loader):
        return None
    return [length_of(loader), length_of(getattr(loader, "dataset", None))]


def extent_of(loader: Any, axis: int, with_contents: bool = True) -> dict[str, Any]:
    """What of a loader has to be the same in all processes that share it, by name."""
    extent = {"loader": size_of(loader), "samples": samples_of(loader, axis), "batch_axis": axis}
    return extent | contents_of(loader) if with_contents else extent


def contents_of(loader: Any) -> dict[str, str | None]:
    """What is in a loader, and in which order, as far as it is at hand, for processes that share it.

    A million indices in a list take a tenth of a second, so this is for once a fit, and for calls outside of one.
    """
    shared = loader is not None and distributed.world_size() > 1 and not is_stream(loader)
    parts = {"order": _order_of, "indices": choice_of, "data": beginning_of}
    return {name: part(loader) if shared else None for name, part in parts.items()}


def _order_of(loader: Any) -> str:
    """In what order indices are read; a class of the user's may be another one in each process, with the same data."""
    return order_of(loader) if isinstance(loader, (DataLoader, TensorLoader)) else ""


def samples_of(loader: Any, axis: int) -> list[int | None] | None:
    """How many samples an epoch and a batch have, where processes share them; of a stream each has its own."""
    if loader is None or is_stream(loader) or distributed.world_size() == 1:
        return None
    samples = getattr(loader, "samples", None)  # of a TensorLoader
    if isinstance(loader, (list, tuple)):
        samples = sum(_size(batch, axis) or 0 for batch in loader)
    elif isinstance(loader, DataLoader):
        samples = length_of(loader.sampler)
    size = getattr(loader, "batch_size", None)
    return [number if isinstance(number, int) else None for number in (samples, size)]


def _size(batch: Any, axis: int) -> int | None:
    try:
        return batch_weight(batch, axis)
    except BatchError:  # raised where the batch is met
        return None


def check_ordered(loader: Any) -> None:
    """Raises BatchError if the batches of a loader have no order, as predictions need one; warns where it shuffles."""
    if getattr(loader, "in_order", True) is False and loader.num_workers > 0:
        raise BatchError(
            "predictions are asked for a DataLoader with in_order=False, whose batches come as its workers make them",
            expected="batches in the order of the data, as the predictions are to be",
            fix="make that loader without in_order=False",
        )
    if shuffles(loader):
        warn(
            "predictions are asked for a loader that shuffles: they come in the order of this pass, and not in that of "
            "the data set; make one without shuffle=True for them"
        )
    if distributed.world_size() > 1 and is_stream(loader):
        raise BatchError(
            f"predictions are asked for a stream that {distributed.world_size()} processes read, each its own part",
            expected="data with indices, whose order is known",
            fix="put them into a data set with indices or a list of batches, or predict in one process",
        )


def _limited(batches: Iterator[Any], limit: int, number: int, size: int, every_round: bool) -> Iterator[Any]:
    """Those of a process's batches that are among the first `limit` of all processes; one at least, borrowed."""
    for turn in range(-(-limit // size) if every_round else max(-(-(limit - number) // size), 1)):
        batch = next(batches, _END)
        if batch is _END:
            return
        yield batch if turn * size + number < limit else Borrowed.of(batch)


def weighing_borrowed(means: Means | None) -> Callable[[Any, int], float | None]:
    """What a batch weighs, where some are borrowed from other processes and count nothing."""

    def weigh(batch: Any, axis: int) -> float | None:
        if batch.__class__ is not Borrowed:
            return batch_weight(batch, axis)
        if means is not None:
            means.keep_objects()
        return NOTHING

    return weigh


def _batches_read(position: Position, size: int) -> int:
    """How many batches all processes together have read of an epoch."""
    return position.batch * size + position.offset


def _of_stream(batches: Iterator[Any], ends_together: bool) -> Iterator[Any]:
    """Each process's own stream; the processes ask one another at each batch whether anybody has one left.

    One that was put back behind its last batch begins with a borrowed one, which is none of its own.
    """
    last: Any = _END
    while True:
        batch, is_first = next(batches, _END), last is _END
        if batch.__class__ is Borrowed:
            batch, last = _END, batch
        if is_first:
            _check_first(batch, needs_one=not ends_together)
        if not ends_together:
            if batch is _END:
                return
        elif not distributed.sum_of([batch is not _END])[0]:
            return
        if batch is not _END:
            last = batch
            yield batch
        elif last is not _END:
            yield Borrowed.of(last)
        else:
            raise BatchError(
                f"the stream of process {distributed.rank()} gave no batch, and that of another one did",
                expected="at least one batch in each process, in each epoch",
                fix="have the data set share its samples out by ignition.distributed.rank() and get_worker_info()",
            )


def _ending_alike(batches: Iterator[Any]) -> Iterator[Any]:
    """Batches of what cannot say beforehand how many there are; nobody waits for one who has none left."""
    while True:
        batch = next(batches, _END)
        left = distributed.sum_of([batch is not _END])[0]
        if 0 < left < distributed.world_size():
            raise BatchError(
                "train_loader gave more batches in one process than in another",
                expected=ALIKE,
                fix=LOOK_FOR,
            )
        if not left:
            return
        yield batch


def _check_first(batch: Any, needs_one: bool) -> None:
    """Raises BatchError if two processes begin with the same batch; or if there is none in any, where one is needed."""
    every = distributed.gather_texts(_NO_BATCH if batch is _END else digest_of(batch).hex())
    if needs_one and all(text == _NO_BATCH for text in every):
        raise BatchError(
            "the stream gave no batch in any process",
            expected="at least one batch in each epoch and each evaluation",
            fix="see whether its data set can be read a second time, and how it shares its samples out",
        )
    seen = [text for text in every if text not in ("", _NO_BATCH)]
    if len(set(seen)) < len(seen):
        raise BatchError(
            f"the stream gives the same first batch to several of {distributed.world_size()} processes",
            expected="samples of its own for each process and each of its workers",
            fix="in __iter__ take the part of ignition.distributed.rank() among "
            "world_size(), and of get_worker_info() among the workers; or use a data set with indices",
        )


def at_most(limit: int | None, length: int | None) -> int | None:
    """The smaller of the two that are known."""
    return min((number for number in (limit, length) if number is not None), default=None)
