"""What is one object in two places of ``trainer.state``: made inside a fit, it would come back as two."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["shared_in"]

_SMALL = {type(None), bool, int, float, str, complex, bytes}


def shared_in(state: Any, parameters: Mapping[int, str] | None = None) -> dict[tuple[str, str], str]:
    """Pairs of places that hold one container or array, with what it is.

    A tensor in two places is left out, since a checkpoint keeps that. So are arrays and tensors that share memory and
    are two objects: parts of one result do, as a rule, and nobody changes one through the other.

    Args:
        state: Nested dicts, lists and what else ``trainer.state`` may hold.
        parameters: Names of the models' parameters by their ids: one that is in `state` too is shared with them.
    """
    known: dict[int, str] = {}
    found: dict[tuple[str, str], str] = {}
    for place, value in _parts_of("", state, set()):
        if isinstance(value, Tensor):
            if parameters and id(value) in parameters:
                found[parameters[id(value)], place] = "parameter of the model"
        elif (first := known.setdefault(id(value), place)) != place:
            found[first, place] = type(value).__name__
    return found


def _parts_of(place: str, value: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """All that can be changed in a value, each with the way to it; what is in a container once."""
    is_container = isinstance(value, (dict, list, tuple, set, deque))
    if isinstance(value, (Tensor, np.ndarray)) or (is_container and not isinstance(value, tuple)):
        yield place, value
    if not is_container or id(value) in seen:
        return
    seen.add(id(value))
    inner = value.values() if isinstance(value, dict) else value
    if not {*map(type, inner)} <= _SMALL:
        for key, item in zip(value if isinstance(value, dict) else count(), inner, strict=False):
            yield from _parts_of(f"{place}.{key}" if place else str(key), item, seen)
