"""Joining the outputs of a predict function over the batches, whatever their nesting."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ignition import distributed
from ignition.errors import FunctionError
from ignition.parting import check_alike
from ignition.weighing import NOTHING

__all__ = ["Predictions"]

_MOST_HELD = 64  # outputs that are copied together, for which torch takes a tenth of the time
_MOST_HELD_BYTES = 1 << 20  # of all of these; copying more at once gains nothing
_LOOKED_AT = 16  # outputs, before more than one is held


class Predictions:
    """Outputs of the same nesting for each batch, joined along the batch axis, on the CPU.

    Where the number of batches is known, each tensor of the nesting is written into one that was made for all of
    them at the first batch, so that hardly more memory than the result is needed.

    Args:
        batch_axis: The axis along which the outputs are joined.
        batches: The number of batches, or None where it is not known.
    """

    def __init__(self, batch_axis: int, batches: int | None) -> None:
        self._axis = batch_axis
        self._batches = batches or 1
        self._joined: Any = None

    def add(self, output: Any, weight: object = None) -> None:
        """Adds the output for one batch: a tensor ``(batch, ...)`` or any nesting of such tensors.

        Raises:
            FunctionError: If it is anything else, or differs from the outputs before in more than the batch's size.
        """
        joined = self._joined
        if joined is None:
            joined = self._joined = self._started(output)
        if weight is NOTHING:  # of a batch that another process has, too
            return
        if joined.__class__ is _Joined and output.__class__ is Tensor:  # what there is most of
            joined.append(output)
        else:
            self._extend(joined, output)

    def result(self) -> Any:
        """All outputs in the order of the data, in the nesting that the function returned: in every process."""
        if distributed.world_size() > 1:
            parts = list(_parts(self._joined))
            check_alike("predict", outputs=[part.kind() for part in parts])
            for part in parts:
                part.gather()
        return self._finished(self._joined)

    def _started(self, output: Any) -> Any:
        if isinstance(output, Tensor):
            if not -output.ndim <= self._axis < output.ndim:
                raise FunctionError(
                    f"the predict function returned a tensor of shape {tuple(output.shape)}",
                    expected=f"tensors with an axis {self._axis}, along which the batches are joined",
                    fix="return a value for each sample of the batch, such as model(x), and pass the right batch_axis",
                )
            return _Joined(output, self._axis, self._batches)
        if isinstance(output, Mapping):
            return {name: self._started(part) for name, part in output.items()}
        if isinstance(output, (tuple, list)):
            return _like(output, [self._started(part) for part in output])
        raise FunctionError(
            f"the predict function returned {type(output).__name__}",
            expected="a tensor, or any nesting of tuples, lists and dicts of tensors",
            fix="return what the model gives for the batch, such as model(x), as tensors",
        )

    def _extend(self, joined: Any, output: Any) -> None:
        if isinstance(joined, _Joined) and isinstance(output, Tensor):
            joined.append(output)
        elif isinstance(joined, dict) and isinstance(output, Mapping) and joined.keys() == output.keys():
            for name, part in joined.items():
                self._extend(part, output[name])
        elif isinstance(joined, (tuple, list)) and isinstance(output, (tuple, list)) and len(joined) == len(output):
            for part, item in zip(joined, output, strict=True):
                self._extend(part, item)
        else:
            raise FunctionError(
                f"the predict function returned {type(output).__name__} in another nesting than for the first batch",
                expected="the same nesting for each batch",
                fix="return the same keys, or as many items, each time",
            )

    def _finished(self, joined: Any) -> Any:
        if isinstance(joined, _Joined):
            return joined.result()
        if isinstance(joined, dict):
            return {name: self._finished(part) for name, part in joined.items()}
        return _like(joined, [self._finished(part) for part in joined])


class _Joined:
    """One tensor that grows along an axis.

    Small outputs are held and copied many at a time, once the function has shown that it leaves them as they are: one
    that writes into the same memory again would have all that are held end as the last.
    """

    def __init__(self, first: Tensor, axis: int, batches: int) -> None:
        self._axis = axis % first.ndim
        self._shape, self._size = first.shape, first.shape[self._axis]  # of the output before
        self._dtype = first.dtype
        self._filled = 0
        self._sizes: list[int] = []  # of each batch
        self._held: list[Tensor] = []  # the last outputs, which are not in the room yet
        self._versions: list[int] = []  # how often each of them had been changed when it was returned
        self._most_held = 1
        # The first outputs, kept so that their memory is not given out again; None for large ones, and after them.
        self._looked_at: list[Tensor] | None = [] if first.nbytes * _LOOKED_AT <= _MOST_HELD_BYTES else None
        self._make_room(first, self._size * batches)

    def append(self, output: Tensor) -> None:
        if output.shape != self._shape or output.dtype is not self._dtype:
            self._check(output)
            self._shape, self._size = output.shape, output.shape[self._axis]
            self._hold_at_most(self._most_held)
        if output.requires_grad:
            output = output.detach()
        self._sizes.append(self._size)
        if self._most_held > 1 and output.is_cpu and not output.is_inference():  # whose changes nobody counts
            self._held.append(output)
            self._versions.append(output._version)
            if len(self._held) >= self._most_held:
                self._copy_held()
        else:
            self._copy_held()
            self._next_place(self._size).copy_(output)  # waits for an accelerator
            if self._looked_at is not None:
                self._look_at(output, self._looked_at)

    def result(self) -> Tensor:
        self._copy_held()
        return self._room.narrow(self._axis, 0, self._filled)

    def _copy_held(self) -> None:
        if not self._held:
            return
        if [output._version for output in self._held] != self._versions:
            raise FunctionError(
                "the predict function changed in place what it had returned for an earlier batch, and had not done so "
                f"in its first {_LOOKED_AT}",
                expected="outputs that stay as they are",
                fix="return a copy, output.clone(), or make a new tensor in the place of changing the old one",
            )
        size = sum(output.shape[self._axis] for output in self._held)
        with torch.no_grad():
            torch.cat(self._held, self._axis, out=self._next_place(size))
        self._held.clear()
        self._versions.clear()

    def _look_at(self, output: Tensor, outputs: list[Tensor]) -> None:
        """Decides by the first outputs whether later ones may be held: nothing writes into their memory again.

        That is so where none is changed later, and where either each has memory of its own or it is the same tensor
        each time; memory that numpy knows too may be changed without torch's counting it.
        """
        if output.__class__ is not Tensor or not output.is_cpu or output.is_inference():
            self._looked_at = None
            self._versions.clear()
            return
        outputs.append(output)
        self._versions.append(output._version)
        if len(outputs) < _LOOKED_AT:
            return
        memories = [one.untyped_storage() for one in outputs]
        if (
            [one._version for one in outputs] == self._versions
            and len({memory.data_ptr() for memory in memories}) == len({*map(id, outputs)})
            and all(memory.resizable() for memory in memories)
        ):
            self._hold_at_most(_MOST_HELD)
        self._looked_at = None
        self._versions.clear()

    def _next_place(self, size: int) -> Tensor:
        """Room for outputs of that size together, after all that there are."""
        filled = self._filled
        self._filled += size
        if self._filled > self._most:
            # Doubled, so that a stream of unknown length is copied a constant number of times.
            before = self._room.narrow(self._axis, 0, filled)
            self._make_room(before, max(self._filled, 2 * self._most))
            self._room.narrow(self._axis, 0, filled).copy_(before)
        return self._room.narrow(self._axis, filled, size)

    def _hold_at_most(self, count: int) -> None:
        size = self._shape.numel() * self._dtype.itemsize
        self._most_held = max(1, min(count, _MOST_HELD_BYTES // max(size, 1)))

    def _make_room(self, like: Tensor, size: int) -> None:
        shape = list(like.shape)
        shape[self._axis] = size
        self._most = size
        self._room = torch.empty(shape, dtype=like.dtype)

    def _check(self, output: Tensor) -> None:
        kept, new = list(self._room.shape), list(output.shape)
        if self._axis < len(new):
            kept[self._axis] = new[self._axis] = 0
        if kept != new or output.dtype is not self._dtype:
            raise FunctionError(
                f"the predict function returned {output.dtype} of shape {tuple(output.shape)} after batches of "
                f"{self._dtype} and shape {tuple(self._shape)}",
                expected=f"tensors that differ in axis {self._axis} alone",
                fix="pad or convert them to one shape and type, or leave out what differs from batch to batch",
            )

    def kind(self) -> str:
        """What has to be the same in every process: type and shape, but for the axis that grows."""
        shape = [":" if axis == self._axis else size for axis, size in enumerate(self._room.shape)]
        return f"{self._room.dtype} {shape}"

    def gather(self) -> None:
        """Brings together what all processes have: batch by batch, as they were dealt out. Waits for all of them."""
        every: list[list[int]] = [json.loads(text) for text in distributed.gather_texts(json.dumps(self._sizes))]
        parts, shape = [], list(self._room.shape)
        for source, sizes in enumerate(every):
            shape[self._axis] = sum(sizes)
            mine = source == distributed.rank()
            room = (self.result() if mine else torch.empty(shape, dtype=self._room.dtype)).contiguous()
            if room.numel():
                distributed.broadcast(room.view(-1).view(torch.uint8), source)  # bytes, so that any type will do
            parts.append(iter(torch.split(room, sizes, self._axis) if sizes else ()))
        turns = max(map(len, every))
        batches = [part for _ in range(turns) for one in parts if (part := next(one, None)) is not None]
        self._room = torch.cat(batches, self._axis)
        self._filled = self._room.shape[self._axis]


def _parts(joined: Any) -> Iterator[_Joined]:
    """The tensors of a nesting, in one order."""
    if isinstance(joined, _Joined):
        yield joined
    else:
        for part in joined.values() if isinstance(joined, dict) else joined:
            yield from _parts(part)


def _like(original: Any, parts: list[Any]) -> Any:
    kind = type(original)
    return kind(*parts) if hasattr(original, "_fields") else kind(parts)
