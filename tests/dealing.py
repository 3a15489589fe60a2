"""What each of several processes must read, told from what one process reads.

Each check is given `shares`: the batches of each process, by rank, and each batch as a list of its samples' numbers;
a borrowed one as a `Lent` list.
"""

from __future__ import annotations

from itertools import zip_longest

from ignition.data import Borrowed


class Lent(list):
    """The samples of a borrowed batch."""


def as_numbers(batch):
    """A batch as the numbers of its samples, which are what it holds, or the first of what it holds."""
    first = batch[0] if isinstance(batch, (tuple, list)) else batch
    samples = first.tolist() if hasattr(first, "tolist") else first
    return (Lent if isinstance(batch, Borrowed) else list)(samples if isinstance(samples, list) else [samples])


def own(share):
    return [batch for batch in share if not isinstance(batch, Lent)]


def lent(share):
    return [batch for batch in share if isinstance(batch, Lent)]


def check_none(shares, batches):
    """`batches`: those of one process. Each is read once, in turn; a process without any has the first borrowed."""
    turns = zip_longest(*(own(share) for share in shares))
    assert [batch for turn in turns for batch in turn if batch is not None] == batches
    for share in shares:
        assert lent(share) == ([] if own(share) or not batches else batches[:1])


def check_borrow(shares, batches):
    """As `check_none`, but all have as many batches: in an incomplete last round those without one have its first."""
    turns = list(zip(*shares, strict=True))
    assert [batch for turn in turns for batch in turn if not isinstance(batch, Lent)] == batches
    for turn in turns:
        assert all(batch == turn[0] for batch in lent(turn))
    for turn in turns[:-1]:
        assert not lent(turn)


def check_split(shares, rounds):
    """`rounds`: the batches of one process, of as many samples as all of ours together.

    Round k has the samples of batch k, each once and in their order.
    """
    turns = list(zip(*shares, strict=True))
    assert [[number for batch in own(turn) for number in batch] for turn in turns] == rounds
    for turn in turns:
        assert all(batch == turn[0][:1] for batch in lent(turn))


def check_even(turn):
    """A split round: its parts differ by one sample at most, and the earlier ones are the larger."""
    sizes = [0 if isinstance(batch, Lent) else len(batch) for batch in turn]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1
