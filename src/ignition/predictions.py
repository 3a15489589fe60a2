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

_AHEAD = 64


class Predictions:
    """Outputs of the same nesting for each batch, joined along the batch axis, on the CPU.

    Where the number of batches is known, each tensor of the nesting is written into one that was made for all of
    them at the first batch, so that no more memory than the result is needed.

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
    """One tensor that grows along an axis."""

    def __init__(self, first: Tensor, axis: int, batches: int) -> None:
        self._axis = axis % first.ndim
        self._shape, self._size = first.shape, first.shape[self._axis]  # of the output before
        self._dtype = first.dtype
        self._filled = 0
        self._sizes: list[int] = []  # of each batch
        self._places: list[Tensor] = []  # in the room, for the next outputs of that shape; the next one is last
        self._make_room(first, self._size * batches)

    def append(self, output: Tensor) -> None:
        if output.shape != self._shape or output.dtype is not self._dtype:
            self._check(output)
            self._shape, self._size = output.shape, output.shape[self._axis]
            self._places.clear()
        if not self._places:
            self._look_ahead()
        # Written at once, since a function may use the memory of an output again; waits for an accelerator.
        self._places.pop().copy_(output.detach() if output.requires_grad else output)
        self._filled += self._size
        self._sizes.append(self._size)

    def result(self) -> Tensor:
        return self._room.narrow(self._axis, 0, self._filled)

    def _look_ahead(self) -> None:
        """The places of the next outputs: many at once, which takes a third of the time."""
        size, filled = self._size, self._filled
        if filled + size > self._most:
            # Doubled, so that a stream of unknown length is copied a constant number of times.
            before = self.result()
            self._make_room(before, max(filled + size, 2 * self._most))
            self._room.narrow(self._axis, 0, filled).copy_(before)
        count = min((self._most - filled) // size, _AHEAD) if size else 1
        ahead = self._room.narrow(self._axis, filled, count * size)
        self._places = list(reversed(torch.split(ahead, size or 1, self._axis)))

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
                f"{self._room.dtype} and shape {tuple(self._room.shape)}",
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
