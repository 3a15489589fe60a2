"""Taking back what a checkpoint holds without making it anew: functions may hold on to what is there."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Staying", "fill"]

_FILLED = (list, dict, set, deque, OrderedDict, Counter, defaultdict)


class Staying:
    """Finds out which of the things that are there can take a saved value, and stay; it changes nothing itself.

    Args:
        found: Receives each of them with the value that it is to take.
    """

    def __init__(self, found: list[tuple[Any, Any]]) -> None:
        self.found = found
        self._taken: dict[int, Any] = {}  # what each is to take, by its id
        self._by_memory: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def container(self, present: Any, value: Any, saved: Any) -> Any:
        """`present`, if it is one of the kind of `value` that can take its items; else `value`.

        Args:
            present: What is there.
            value: What was saved, decoded.
            saved: The same, as it was written: by it two places are known to have held the same.
        """
        if type(present) is not type(value) or type(value) not in _FILLED:
            return value
        if isinstance(present, deque) and present.maxlen != value.maxlen:
            return value
        if id(present) in self._taken:  # one object in two places: as long as both are to take the same
            return present if self._taken[id(present)] == saved else value
        self._taken[id(present)] = saved
        self.found.append((present, value))
        return present

    def array(self, present: Any, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """As `container`, of an array; one that is a part of another stays out of it."""
        if (
            type(present) is not np.ndarray
            or (present.shape, present.dtype) != (value.shape, value.dtype)
            or not (present.flags.owndata and present.flags.writeable)
            or id(present) in self._taken
        ):
            return value
        self._taken[id(present)] = None
        self.found.append((present, value))
        return present

    def tensor(self, present: Any, value: Tensor) -> Tensor:
        """As `container`, of a tensor; those that share memory do so afterwards, if what was saved agrees."""
        if not isinstance(present, Tensor) or id(present) in self._taken or not _fits(present, value):
            return value
        if type(present) is Tensor:
            others = self._by_memory.setdefault(present.untyped_storage().data_ptr(), [])
            if others and not _agree([*others, (present, value)]):
                return value
            others.append((present, value))
        self._taken[id(present)] = None
        self.found.append((present, value))
        return present


def fill(present: Any, value: Any) -> None:
    """Gives a thing that stays the value that `Staying` found for it."""
    if isinstance(present, Tensor):
        with torch.no_grad():
            present.copy_(value)
    elif isinstance(present, np.ndarray):
        np.copyto(present, value)
    elif isinstance(present, list):
        present[:] = value
    else:
        present.clear()
        present.extend(value) if isinstance(present, deque) else present.update(value)


def _fits(present: Tensor, value: Tensor) -> bool:
    if isinstance(present, nn.Parameter):  # an optimizer may hold it
        return present.shape == value.shape
    return (
        type(present) is Tensor
        and (present.shape, present.dtype, present.device.type) == (value.shape, value.dtype, value.device.type)
        and present.requires_grad == value.requires_grad
        and present.is_leaf
        and present.layout is torch.strided
        and not present.is_inference()
        and all(stride or size <= 1 for size, stride in zip(present.shape, present.stride(), strict=True))
    )


def _agree(pairs: list[tuple[Tensor, Tensor]]) -> bool:
    """Whether tensors of one memory can take their values one after the other, and all hold them in the end."""
    memory = pairs[0][0].untyped_storage().clone()  # type: ignore[no-untyped-call]
    twins = [one.detach().new_empty(0).set_(memory, one.storage_offset(), one.shape, one.stride()) for one, _ in pairs]
    for twin, (_, value) in zip(twins, pairs, strict=True):
        twin.copy_(value.detach())
    return all(_bits(twin) == _bits(value) for twin, (_, value) in zip(twins, pairs, strict=True))


def _bits(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
