"""Reading loaders: how long one is, what a batch weighs, and the one way through any of them."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ignition.device import tensors_in
from ignition.errors import BatchError, CheckpointError, kind_of
from ignition.keyed import KeyedLoader, can_be_keyed, iterates_in_own_way
from ignition.keyed_order import batches_left, unsharded
from ignition.shards import (
    TORCH_SAMPLERS,
    WHOLE,
    Borrowed,
    Fill,
    Shard,
    are_numbered,
    batches_in,
    deal,
    drops_last,
    portions_in,
)
from ignition.tensor_loader import KeyedTensors, TensorLoader
from ignition.types import Stateful

__all__ = [
    "WHOLE",
    "Borrowed",
    "Fill",
    "Shard",
    "batch_weight",
    "can_be_looked_at",
    "can_shift",
    "check_place_kept",
    "describe_batch",
    "digest_of",
    "drop_workers",
    "has_places",
    "items_of",
    "iterate",
    "keeps_place",
    "length_after",
    "length_of",
    "rekeyed",
    "rounds",
    "shuffles",
    "sure_length",
]


def iterate(
    loader: Iterable[Any],
    epoch: int = 1,
    start: int = 0,
    shard: Shard = WHOLE,
    fill: Fill = "none",
    shift: int = 0,
) -> Iterator[Any]:
    """The batches of one epoch, or those of them that fall to one process: the one way through any loader.

    One of `rekeyed` draws the order and the randomness of each batch from its seed, `epoch` and the batch's
    place, and loads none of the batches before `start`. Everything else is iterated as it is, as a loop
    written by hand would, and what comes before `start` or falls to other processes is read and left.

    Of several processes, round i has the batches ``start + i * size`` to ``start + (i + 1) * size - 1``, and each
    process takes the one of its rank. So the batches of a round of n processes have together the samples of one
    batch n times as large. A stream, and what keeps its place by itself, is not dealt out: each process
    iterates its own from its own `start`, and `fill` means nothing.

    Args:
        loader: Any iterable, the same in each process.
        epoch: 1-based.
        start: How many batches to pass over, those of all processes together.
        shard: Which process of how many.
        fill: What becomes of a last round with fewer batches than processes. ``"none"``: each batch goes to one
            process as it is; one that would have no batch at all gets a `Borrowed` one, the first, so that it
            knows what a batch is like. ``"borrow"``: each process without a batch in that round gets a `Borrowed`
            copy of its first. ``"split"``: what is read by indices is split, the samples of that round over all
            processes; the loader's drop_last leaves it out; elsewhere as ``"borrow"``.
        shift: How many samples there are before batch 0. Only of what `can_shift`.

    Raises:
        ArgumentError: For several processes, if the loader's sampler picks the part of one process by itself and
            is no DistributedSampler. (That one is read as if it were for one process.)
    """
    if shard.size == 1:
        return _of_one_process(loader, epoch, start, shift)
    if _is_stream(loader):
        return islice(_of_workers(loader), start, None)
    # Without a seed of the run: an order drawn by each process for itself would not be the same in all.
    loader = rekeyed(loader, 0, "")
    if isinstance(loader, (KeyedLoader, KeyedTensors)):
        return loader.iterate(epoch, start, shard, fill, shift)
    return _dealt(loader, start, shard, fill)


def _of_one_process(loader: Iterable[Any], epoch: int, start: int, shift: int) -> Iterator[Any]:
    if isinstance(loader, (KeyedLoader, KeyedTensors)):
        return loader.iterate(epoch, start, shift=shift)
    if start == 0:
        return _of_workers(loader)
    if _is_sequence(loader):  # what it makes when it is asked for a batch is not made for those that are passed over
        batches: Any = loader
        return (batches[place] for place in range(start, len(batches)))
    return islice(_of_workers(loader), start, None)


def _of_workers(loader: Iterable[Any]) -> Iterator[Any]:
    """The batches of a loader as they are; those of a stream that several workers read are looked at as they come."""
    batches, workers = iter(loader), getattr(loader, "num_workers", 0)
    is_stream = isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset)
    return _checked(batches, workers) if is_stream and workers > 1 else batches


def _checked(batches: Iterator[Any], workers: int) -> Iterator[Any]:
    """Raises BatchError if all workers begin with the same batch, and do not go on with it: all would come again.

    Workers give their batches in turn. So the first ones of all are known when the first comes again, and not before:
    a stream of nothing but one batch, as one measures speed with, is left alone.
    """
    first = b""
    for number, batch in enumerate(batches):
        is_same = number == 0 or digest_of(batch) == first
        if number == 0:
            first = digest_of(batch)
        elif number == workers and not is_same:
            raise BatchError(
                f"the stream gives the same batches to each of {workers} workers, and so each sample {workers} times",
                expected="samples of its own for each worker",
                fix="in __iter__ take the part of torch.utils.data.get_worker_info().id among its num_workers (and of "
                "ignition.distributed.rank() among world_size()), or read it with num_workers=1",
            )
        yield batch
        if is_same is (number == workers):  # another batch of another worker, or nothing but this one
            break
    yield from batches


def digest_of(batch: Any) -> bytes:
    """A digest of the tensors in a batch; empty where there are none. Waits for an accelerator.

    Of those that are sparse, nested or quantized the type alone is in it.
    """
    digest, any_there = hashlib.sha256(), False
    for tensor in tensors_in(batch):
        any_there = True
        digest.update(repr(tensor.dtype).encode())
        if tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized:
            content = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)
            digest.update(repr(tensor.shape).encode() + content.numpy().tobytes())
    return digest.digest() if any_there else b""


def _dealt(loader: Any, start: int, shard: Shard, fill: Fill) -> Iterator[Any]:
    """The batches of an iterable that fall to one process; of a sequence, by their numbers alone."""
    by_number = _is_sequence(loader)
    items = range(start, len(loader)) if by_number else islice(iter(loader), start, None)
    for _, item, borrowed in deal(items, start, shard, fill, drops_last(loader)):
        batch = loader[item] if by_number else item
        yield Borrowed.of(batch) if borrowed else batch


def can_shift(loader: Any) -> bool:
    """Whether what is left of an epoch can be read from any of its samples on, in batches of another size."""
    if isinstance(loader, TensorLoader):
        return True
    return can_be_keyed(loader) and not iterates_in_own_way(loader) and are_numbered(loader.batch_sampler)


def length_after(loader: Any, shift: int) -> int:
    """How many batches there are, all samples but the first `shift` being in them; of what `can_shift`."""
    if isinstance(loader, TensorLoader):
        return batches_in(max(0, loader.samples - shift), loader.batch_size, loader.drop_last)
    return batches_left(unsharded(loader.batch_sampler), shift)


def rounds(
    loader: Any, start: int = 0, size: int = 1, fill: Fill = "none", shift: int = 0, sure: bool = True
) -> int | None:
    """How many rounds `iterate` makes of a user's loader; None where that cannot be told.

    Args:
        loader: The user's loader.
        start: How many batches were passed over, those of all processes together.
        size: The number of processes.
        fill: What becomes of a last round with fewer batches than processes.
        shift: How many samples there are before batch 0.
        sure: Whether the loader's word is taken only where it cannot be wrong.
    """
    length = sure_length(loader) if sure else length_of(loader)
    if length is None or (size > 1 and _is_stream(loader)):
        return None
    if size > 1 and isinstance(loader, DataLoader):  # a sampler for one process of several has the length of its part
        length = len(unsharded(loader.sampler if loader.batch_sampler is None else loader.batch_sampler))
    if shift:
        length = length_after(loader, shift)
    return portions_in(max(0, length - start), Shard(0, size), fill, drops_last(loader))


def _is_stream(loader: Any) -> bool:
    """Whether each process reads a loader of its own: nobody can tell what a stream passes by."""
    return keeps_place(loader) is not None or (
        isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset)
    )


def rekeyed(loader: Any, seed: int, purpose: str) -> Any:
    """A DataLoader or TensorLoader as one that reads by key; any other loader as it is.

    Args:
        loader: The user's loader, which is left as it is.
        seed: The seed of the run.
        purpose: Keeps apart what is read for different ends, such as training and evaluation.
    """
    if isinstance(loader, TensorLoader):
        return KeyedTensors(loader, seed, purpose)
    return KeyedLoader(loader, seed, purpose) if can_be_keyed(loader) else loader


def drop_workers(*loaders: Any) -> None:
    """Has DataLoaders begin with new workers the next time: those that persist may have died, as of a Ctrl-C."""
    for loader in loaders:
        if isinstance(loader, DataLoader) and keeps_place(loader) is None and hasattr(loader, "_iterator"):
            loader._iterator = None  # where torch keeps them from epoch to epoch


def keeps_place(loader: Any) -> Stateful | None:
    """What of a loader saves its place by itself: the loader, or the stream that it reads in this process."""
    if hasattr(loader, "state_dict") and isinstance(loader, Stateful):  # a protocol alone takes longer to ask
        return loader
    stream = getattr(loader, "dataset", None)
    if isinstance(loader, DataLoader) and isinstance(stream, IterableDataset) and loader.num_workers == 0:
        return stream if isinstance(stream, Stateful) else None
    return None


def check_place_kept(loader: Any) -> None:
    """Raises CheckpointError if an interrupted epoch of `loader` could not go on where it was."""
    if has_places(loader) or keeps_place(loader) is not None:
        return
    stream = isinstance(loader, DataLoader)
    raise CheckpointError(
        "train_loader is "
        + ("a DataLoader over a stream" if stream else kind_of(loader))
        + ", which cannot be put back where an interrupted run was",
        expected="a DataLoader over a data set with indices, a TensorLoader, a list, or what has state_dict() and "
        "load_state_dict(state) for its place",
        fix="give the data set these two methods and read it with num_workers=0, or take a loader that has them"
        if stream
        else "give its class these two methods, or put the batches into a list",
    )


def has_places(loader: Any) -> bool:
    """Whether each batch of an epoch can be made by its place: of a sequence, and of what is or can be read by key."""
    by_key = isinstance(loader, (KeyedLoader, KeyedTensors, TensorLoader)) or can_be_keyed(loader)
    return by_key or _is_sequence(loader)


def _is_sequence(loader: Any) -> bool:
    """Whether iterating gives ``loader[0]``, ``loader[1]``, ...: an ``__iter__`` of the user's may shuffle."""
    if not isinstance(loader, Sized) or not hasattr(loader, "__getitem__"):
        return False
    own = getattr(type(loader), "__iter__", None)
    return own is None or any(
        own is kind.__iter__ for kind in (list, tuple, range, deque, Sequence, np.ndarray, Tensor)
    )


def length_of(loader: Any) -> int | None:
    """The number of batches in an epoch, or None where the loader cannot say."""
    if not isinstance(loader, Sized):
        return None
    try:
        return len(loader)
    except (TypeError, NotImplementedError):  # a DataLoader over a stream has the method, and raises
        return None


def sure_length(loader: Any) -> int | None:
    """The length of a loader that cannot be wrong about it; None for all others.

    A length that somebody worked out, such as samples // batch_size, may be one short, and would cut the epoch off. So
    would that of a sampler which has more samples in each epoch, and counts the epochs as it is iterated.
    """
    sure = type(loader) in (list, tuple, TensorLoader)
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        sure = type(loader).__len__ is DataLoader.__len__ and not iterates_in_own_way(loader)
        batches: Any = loader.batch_sampler
        indices = batches.sampler if type(batches) is BatchSampler else loader.sampler if batches is None else None
        sure = sure and type(indices) in (*TORCH_SAMPLERS, list, tuple, range)
    return length_of(loader) if sure else None


def shuffles(loader: Any) -> bool:
    """Whether a loader is known to have another order in each pass: by ``shuffle=True``, or a sampler of torch's."""
    if isinstance(loader, TensorLoader):
        return loader.shuffle
    if not isinstance(loader, DataLoader):
        return False
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    return isinstance(sampler, (RandomSampler, SubsetRandomSampler, WeightedRandomSampler))


def can_be_looked_at(loader: Any) -> bool:
    """Whether to read its first batch uses nothing up: one of an iterator, a stream or a class of the user's might."""
    if sure_length(loader) is not None or _is_sequence(loader):
        return True
    if not can_be_keyed(loader) or iterates_in_own_way(loader):
        return False
    batches: Any = loader.batch_sampler
    return not any(isinstance(one, Iterator) for one in (batches, getattr(batches, "sampler", None), loader.sampler))


def items_of(batch: Any) -> tuple[Any, ...] | list[Any]:
    """The arguments that a batch becomes: a tuple's or list's items, else the batch itself."""
    return batch if isinstance(batch, (tuple, list)) else (batch,)


def batch_weight(batch: Any, axis: int) -> int | None:
    """The size of the batch's first tensor along `axis`, depth first; None where it holds no tensor.

    Raises:
        BatchError: If that tensor has no such axis.
    """
    first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if first.__class__ is not Tensor:
        first = next(iter(tensors_in(batch)), None)
        if first is None:
            return None
    try:
        return first.size(axis)
    except IndexError:
        raise BatchError(
            f"batch_axis={axis}, and the first tensor of the batch has the shape {tuple(first.shape)}",
            expected="an axis of that tensor, along which its samples lie",
            fix="pass the right batch_axis, or put a tensor with a batch axis first",
        ) from None


def describe_batch(batch: Any) -> str:
    """A batch in words, for messages: ``2 items (Tensor (32, 3), Tensor (32,))``."""
    if isinstance(batch, (tuple, list)):
        inside = ", ".join(_describe_item(item) for item in batch[:6]) + (", ..." if len(batch) > 6 else "")
        return f"{len(batch)} item{'' if len(batch) == 1 else 's'} ({inside})"
    return f"one {_describe_item(batch)}"


def _describe_item(item: Any) -> str:
    if isinstance(item, Tensor):
        return f"{type(item).__name__} {tuple(item.shape)}"
    if isinstance(item, dict):
        return f"dict of {', '.join(map(repr, list(item)[:6]))}"
    return type(item).__name__
