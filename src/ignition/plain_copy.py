"""Copies of nested plain values, which can be encoded while the training goes on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

from torch import Tensor

__all__ = ["plain_copy"]

_CONSTANT = {int, float, str, bool, type(None)}
_IS_TRAINED = attrgetter("requires_grad")


def plain_copy(value: Any, tensors: dict[int, Tensor]) -> Any:
    """`value` with dicts, lists and tuples of its own, so that it can be encoded while the training goes on.

    That takes a fraction of the time of encoding it.

    Args:
        value: Nested dicts, lists and tuples.
        tensors: Receives the tensors in it, which are not copied, by their ids.

    Raises:
        TypeError: If there is anything in it but tensors, none of them trained, and what nobody can change.
    """
    kind = type(value)
    if kind is dict and {*map(type, value)} <= _CONSTANT:
        copied = value.copy()
        for key, item in value.items():  # most hold tensors and numbers, for which a call each would take too long
            if type(item) is Tensor and not item.requires_grad:
                tensors[id(item)] = item
            elif type(item) not in _CONSTANT:
                copied[key] = plain_copy(item, tensors)
        return copied
    if kind is Tensor and not value.requires_grad:
        tensors[id(value)] = value
        return value
    if kind in _CONSTANT:
        return value
    if kind is list or kind is tuple:
        return kind(_flat_copies(value, tensors) or [plain_copy(item, tensors) for item in value])
    raise TypeError(f"{kind.__name__} is no plain value")


def _flat_copies(values: Sequence[Any], tensors: dict[int, Tensor]) -> list[Any]:
    """Copies of dicts if there is nothing else, in no loop of Python's: what an optimizer has for each parameter."""
    if {*map(type, values)} != {dict} or not {*map(type, chain.from_iterable(values))} <= _CONSTANT:
        return []
    items = [*chain.from_iterable(map(dict.values, values))]
    found = [item for item in items if type(item) is Tensor]
    if not {*map(type, items)} <= {Tensor, *_CONSTANT} or any(map(_IS_TRAINED, found)):
        return []
    tensors.update(zip(map(id, found), found, strict=True))
    return [*map(dict.copy, values)]
