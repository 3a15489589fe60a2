"""Batches of tensors that are in memory already, by one index operation a tensor."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ignition.device import as_device
from ignition.errors import ArgumentError
from ignition.rng import key_of
from ignition.shards import WHOLE, Borrowed, Fill, Shard, batches_in, deal

__all__ = ["KeyedTensors", "TensorLoader"]


class TensorLoader:
    """Yields batches ``(tensor[indices], ...)`` of tensors that are in memory already.

    What a DataLoader over a TensorDataset yields, without taking single samples and putting them together again:
    a slice of each tensor, or with `shuffle` one index operation on each. A slice shares its memory with the tensor: a
    function that changes its batch in place changes the data, unless there is `shuffle`.

    The order is drawn on the CPU, so it is the same for the same seed wherever the tensors are: without a seed of
    the Trainer from torch's global generator, anew for each epoch.

    Args:
        *tensors: Tensors ``(samples, ...)`` of as many samples each.
        batch_size: Samples in a batch, 1 or more.
        shuffle: Whether each epoch has an order of its own.
        drop_last: Whether a last batch with fewer samples is left out.
        device: Where the tensors are put, once; by default they stay where they are.

    Attributes:
        tensors: The tensors, on `device`.
        samples: How many samples they have.
        batch_size, shuffle, drop_last: As given; what is set later holds from the next epoch on.

    Raises:
        ArgumentError: If there is no tensor, one is none or is 0-d, they differ in samples, `batch_size` is no positive
            integer, or this machine has not `device`.

    Example:
        >>> loader = TensorLoader(torch.arange(5), torch.zeros(5, 2), batch_size=2)
        >>> [x.tolist() for x, _ in loader], len(loader)
        ([[0, 1], [2, 3], [4]], 3)
    """

    def __init__(
        self,
        *tensors: Tensor,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        device: str | torch.device | None = None,
    ) -> None:
        wrong = [tensor for tensor in tensors if not isinstance(tensor, Tensor) or tensor.ndim == 0]
        if wrong or not tensors:
            what = type(wrong[0]).__name__ if wrong else "no tensor"
            what = "a 0-d tensor" if what == "Tensor" else what
            raise ArgumentError(
                f"TensorLoader was given {what}",
                expected="one or more tensors (samples, ...)",
                fix="turn arrays into tensors with torch.as_tensor(array)",
            )
        counts = [len(tensor) for tensor in tensors]
        if len(set(counts)) != 1:
            raise ArgumentError(
                f"TensorLoader was given tensors of {', '.join(map(str, counts))} samples",
                expected="as many samples in each, along the first axis",
                fix="see which of them has another order of axes, or lacks samples",
            )
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ArgumentError(
                f"TensorLoader was given batch_size={batch_size!r}",
                expected="an integer of 1 or more",
                fix="for example batch_size=32",
            )
        self.tensors = tensors if device is None else tuple(tensor.to(as_device(device)) for tensor in tensors)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.samples = counts[0]

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return batches_in(self.samples, self.batch_size, self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """The batches of one epoch; the order is drawn from torch's global generator."""
        return self.batches(torch.default_generator)

    def batches(
        self, generator: torch.Generator, start: int = 0, shard: Shard = WHOLE, fill: Fill = "none", shift: int = 0
    ) -> Iterator[tuple[Tensor, ...]]:
        """The batches of one epoch from number `start` on, or those of them that fall to one process.

        Args:
            generator: What the order is drawn from, if the loader shuffles: a generator of the CPU.
            start: How many batches, of all processes together, to pass over; nothing is indexed for them.
            shard: Which process of how many.
            fill: What becomes of a last round with fewer batches than processes, "none", "borrow" or "split":
                `ignition.shards.Fill`.
            shift: How many samples there are before batch 0.

        Returns:
            An iterator of tuples of tensors ``(batch, ...)``.
        """
        size = self.batch_size
        count = (self.samples - shift) // size * size + shift if self.drop_last else self.samples
        order = None
        if self.shuffle:
            order = torch.randperm(self.samples, generator=generator)[:count].to(self.tensors[0].device)
        if shard.size > 1:
            return self._dealt(order, range(shift + start * size, count, size), start, shard, fill)
        if order is not None:
            # All indices of the epoch are cut into batches at once: a split costs less than as many slices.
            parts = torch.split(order[shift:], size) if count > shift else ()
            return self._indexed(parts[start:])
        return self._sliced(range(shift + start * size, count, size))

    def _dealt(
        self, order: Tensor | None, firsts: range, start: int, shard: Shard, fill: Fill
    ) -> Iterator[tuple[Tensor, ...]]:
        batches = (range(first, min(first + firsts.step, firsts.stop)) for first in firsts)
        for _, places, borrowed in deal(batches, start, shard, fill, self.drop_last, _joined):
            where = slice(places.start, places.stop)
            if order is None:
                batch = tuple([tensor[where] for tensor in self.tensors])
            else:
                batch = tuple([tensor.index_select(0, order[where]) for tensor in self.tensors])
            yield Borrowed.of(batch) if borrowed else batch

    def _indexed(self, parts: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
        tensors = self.tensors
        for indices in parts:
            yield tuple([tensor.index_select(0, indices) for tensor in tensors])  # half the cost of tensor[indices]

    def _sliced(self, starts: range) -> Iterator[tuple[Tensor, ...]]:
        tensors, batch_size = self.tensors, self.batch_size
        for start in starts:
            yield tuple([tensor[start : start + batch_size] for tensor in tensors])


def _joined(batches: list[range]) -> range:
    """The places of neighbouring batches in the order of an epoch."""
    return range(batches[0].start, batches[-1].stop)


class KeyedTensors:
    """A TensorLoader whose order follows a seed and the epoch.

    Args:
        loader: The user's loader.
        seed: The seed of the run.
        purpose: Keeps apart what is read for different ends, such as training and evaluation.
    """

    def __init__(self, loader: TensorLoader, seed: int, purpose: str) -> None:
        self._loader = loader
        self._seed = seed
        self._purpose = purpose

    def iterate(
        self, epoch: int, start: int = 0, shard: Shard = WHOLE, fill: Fill = "none", shift: int = 0
    ) -> Iterator[tuple[Tensor, ...]]:
        """The batches of `epoch` from number `start` on that fall to a process; as `ignition.data.iterate`."""
        generator = torch.Generator().manual_seed(key_of(self._seed, self._purpose, "order", epoch))
        return self._loader.batches(generator, start, shard, fill, shift)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return self.iterate(1)

    def __len__(self) -> int:
        return len(self._loader)
