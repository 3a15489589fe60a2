"""How the batches of an epoch are dealt to several processes.

All processes know the same order of the epoch's batches, and each takes its own of them. A round is as many batches
as there are processes, one for each; the last round of an epoch may have fewer. Nothing is communicated here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, count, islice, repeat
from typing import Any, Literal, NamedTuple

from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

__all__ = [
    "TORCH_SAMPLERS",
    "WHOLE",
    "Borrowed",
    "Fill",
    "Numbered",
    "Portion",
    "Shard",
    "are_numbered",
    "batches_in",
    "deal",
    "drops_last",
    "portions_in",
]

TORCH_SAMPLERS = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler)
"""Those of torch: they change nothing in themselves as they are read, and give as many indices as they say."""

Fill = Literal["none", "borrow", "split"]
"""What becomes of a last round with fewer batches than processes.

``"none"``: the processes without a batch get none, unless they had none at all.
``"borrow"``: each of them gets a `Borrowed` copy of the round's first batch, so all have as many batches.
``"split"``: where batches are lists of indices, the round's samples are split over all processes as evenly as
possible; elsewhere as ``"borrow"``. A loader that drops a last batch with fewer samples drops such a round.
"""


class Shard(NamedTuple):
    """Which part of the batches a process reads: of each round of `size` batches number `rank`."""

    rank: int
    size: int


WHOLE = Shard(0, 1)


class Borrowed(tuple[Any, ...]):
    """A batch of another process, for one that has none left: the function is called with it, and it counts nothing.

    It is always a tuple of the function's arguments, also where the loader gives one object a batch.
    """

    __slots__ = ()

    @classmethod
    def of(cls, batch: Any) -> Borrowed:
        """A batch of any kind as a borrowed one."""
        return cls(batch if isinstance(batch, (tuple, list)) else (batch,))


class Portion(NamedTuple):
    """What a process gets in one round.

    Attributes:
        place: The number of the batch among all of the epoch; for a part of a split round a number in that round.
        item: The batch, or what it is made of.
        borrowed: Whether it is another process's too, and counts nothing here.
    """

    place: int
    item: Any
    borrowed: bool


class Numbered:
    """The batches of an epoch, each made when it is asked for by its number.

    One of many processes takes few of them: to make the others' too would cost it more the more there are.
    """

    def __init__(self, indices: Sequence[Any], size: int, drop_last: bool) -> None:
        self._indices = indices
        self._size = size
        self._count = batches_in(len(indices), size, drop_last)

    @classmethod
    def of(cls, order: Any, shift: int = 0) -> Numbered | None:
        """The batches of a batch sampler, without the first `shift` samples; None where `are_numbered` says no."""
        if not are_numbered(order):
            return None
        inner: Any = order.sampler
        # As torch does when their iteration begins.
        indices: Sequence[Any] = range(len(inner)) if type(inner) is SequentialSampler else list(inner)
        return cls(indices[shift:], order.batch_size, order.drop_last)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> list[Any]:
        return list(self._indices[number * self._size : (number + 1) * self._size])

    def joined(self, numbers: list[int]) -> list[Any]:
        """The indices of some batches, one after the other."""
        return [index for number in numbers for index in self[number]]


def are_numbered(order: Any) -> bool:
    """Whether the batches of a batch sampler can be made by their numbers, and drawing all indices is not much."""
    inner: Any = order.sampler if type(order) is BatchSampler else None
    if type(inner) is RandomSampler:
        return not inner.replacement and inner.num_samples <= len(inner.data_source)
    return type(inner) in TORCH_SAMPLERS


def batches_in(samples: int, size: int, drop_last: bool) -> int:
    """How many batches so many samples make."""
    return samples // size if drop_last else -(-samples // size)


def deal(
    items: Iterable[Any],
    start: int,
    shard: Shard,
    fill: Fill,
    drop_last: bool = False,
    join: Callable[[list[Any]], Sequence[Any] | None] | None = None,
) -> Iterator[Portion]:
    """What one process gets of the batches that are left in an epoch, one portion a round.

    Args:
        items: The batches from number `start` on, or what each is made of. No more of them is read than the round
            asks for.
        start: The number of the first of them in the epoch.
        shard: Which process of how many.
        fill: What becomes of a last round with fewer batches than processes.
        drop_last: Whether such a round is dropped. Only for ``fill="split"``.
        join: Gives all samples of some items in their order, which can be sliced, or None if they cannot be told
            apart. Only for ``fill="split"``, and by default they cannot.
    """
    if fill != "split" or not (drop_last or join is not None):
        return _in_turn(items, start, shard, fill)
    if not isinstance(items, range):
        return _in_whole_rounds(items, start, shard, drop_last, join)
    # Which rounds are whole is known: nothing is read to see it.
    whole = len(items) // shard.size * shard.size
    mine = zip(count(start + shard.rank, shard.size), items[shard.rank : whole : shard.size], repeat(False))
    # Made without a call in Python for each.
    return chain(
        map(partial(tuple.__new__, Portion), mine),
        _in_whole_rounds(items[whole:], start + whole, shard, drop_last, join),
    )


def _in_turn(items: Iterable[Any], start: int, shard: Shard, fill: Fill) -> Iterator[Portion]:
    """Hands out each item when it is read: they may be batches, too large to hold a round of them."""
    rank, size = shard
    turn, first, served = size - 1, Portion(start, None, borrowed=True), False
    for place, item in enumerate(items, start):
        turn = (place - start) % size
        if turn == 0:
            first = Portion(place, item, borrowed=True)
        if turn == rank:
            yield Portion(place, item, borrowed=False)
            served = True
    if turn < rank and (fill != "none" or not served):
        yield first


def _in_whole_rounds(
    items: Iterable[Any],
    start: int,
    shard: Shard,
    drop_last: bool,
    join: Callable[[list[Any]], Sequence[Any] | None] | None,
) -> Iterator[Portion]:
    """Hands out the items of a round when all of it is read, since only then its last one is known."""
    rank, size = shard
    items = iter(items)
    for place in count(start, size):
        this_round = list(islice(items, size))
        if len(this_round) < size:
            break
        yield Portion(place + rank, this_round[rank], borrowed=False)
    if drop_last or not this_round:
        return
    samples = None if join is None else join(this_round)
    if samples is None:
        yield from _in_turn(this_round, place, shard, "borrow")
        return
    part = samples[_even_part(len(samples), shard)]
    yield Portion(place + rank, part if len(part) else samples[:1], borrowed=not len(part))


def _even_part(samples: int, shard: Shard) -> slice:
    """A process's part of some samples that are split as evenly as possible: the earlier ones have one more."""
    rank, size = shard
    each, more = divmod(samples, size)
    begin = rank * each + min(rank, more)
    return slice(begin, begin + each + (rank < more))


def portions_in(batches: int, shard: Shard, fill: Fill, drop_last: bool = False) -> int:
    """How many portions `deal` gives a process of so many batches."""
    rank, size = shard
    rounds, rest = divmod(batches, size)
    if rest == 0 or (fill == "split" and drop_last):
        return rounds
    return rounds + (fill != "none" or rank < rest or rounds == 0)


def drops_last(loader: Any) -> bool:
    """Whether a loader, or what makes batches of indices for it, leaves out a last batch with fewer samples."""
    sampler = getattr(loader, "sampler", None)  # one of batches where batch_size is None
    parts = [loader, getattr(loader, "batch_sampler", None), sampler if isinstance(sampler, BatchSampler) else None]
    return any(bool(getattr(part, "drop_last", False)) for part in parts)
