"""What a user's samplers remember from epoch to epoch: a count, samples left over, an order shuffled in place.

With the seed alone such a sampler would begin anew after a resume; and so would a loader with an iteration of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, TensorDataset

from ignition.codec import decode, encode
from ignition.errors import CheckpointError, warn
from ignition.keyed import iterates_in_own_way
from ignition.shards import TORCH_SAMPLERS
from ignition.types import Stateful

__all__ = ["SamplerMemory", "own_samplers"]

_PLAIN = (type(None), bool, int, float, str, bytes, list, tuple, dict, set, frozenset, deque, Tensor, np.ndarray)
_SMALL = {type(None), bool, int, float, str}
_MANY, _LARGE = 1000, 2**26  # items that are not small, and bytes: with more, an attribute holds data

# An attribute as `encode` writes it, with the tensors in it.
_Kept = tuple[Any, dict[str, Tensor]]


def own_samplers(loader: Any) -> dict[str, Any]:
    """The samplers of a DataLoader that are none of torch's own, by the way to them; and itself, if so is its way."""
    if not isinstance(loader, DataLoader):
        return {}
    itself = {"loader": loader} if iterates_in_own_way(loader) and not isinstance(loader, Stateful) else {}
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    return itself | dict(_samplers_in("sampler", sampler))


def _samplers_in(path: str, sampler: Any) -> Iterator[tuple[str, Any]]:
    own = getattr(sampler, "__dict__", None)
    if type(sampler) in TORCH_SAMPLERS or own is None:
        return
    if type(sampler) is not BatchSampler:
        yield path, sampler
        if isinstance(sampler, Stateful):  # what is inside is its own affair
            return
    for name, value in own.items():
        if name in ("sampler", "batch_sampler") or isinstance(value, Sampler):
            yield from _samplers_in(f"{path}.{name}", value)


class SamplerMemory:
    """The memory of a loader's samplers: their ``state_dict`` where they have one, else their plain attributes.

    Args:
        loader: Any loader; of most there is nothing to remember.
    """

    def __init__(self, loader: Any) -> None:
        self._samplers = own_samplers(loader)
        self._warned = False
        self._first = self.now()

    def __bool__(self) -> bool:
        return bool(self._samplers)

    def now(self) -> dict[str, dict[str, _Kept]]:
        """A copy of what they remember."""
        return {path: dict(_remembered(path, one)) for path, one in self._samplers.items()}

    def written(self, memory: Mapping[str, Mapping[str, _Kept]], tensors: dict[str, Tensor]) -> dict[str, Any]:
        """What a checkpoint holds of a copy: all that differs from what the script has made.

        Args:
            memory: What `now` returned.
            tensors: Receives the tensors in it.
        """
        changed: dict[str, Any] = {}
        for path, kept in memory.items():
            differs = {name: one for name, one in kept.items() if not _same(one, self._first[path].get(name))}
            for _, own in differs.values():
                tensors |= own
            changed[path] = {name: encoded for name, (encoded, _) in differs.items()}
        return changed

    def check(self, written: Mapping[str, Any], source: str) -> None:
        """Raises CheckpointError if the loader has other samplers than the one of which `written` was read."""
        if written.keys() != self._samplers.keys():
            raise CheckpointError(
                f"the checkpoint {source} has the memory of samplers at {sorted(written)}, and here they are at "
                f"{sorted(self._samplers)}",
                expected="the same samplers, since the order of the samples is part of the checkpoint",
                fix="use the loader with which it was written, or begin anew in another folder",
            )

    def read(self, values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, _Kept]]:
        """The copy from which `written` made what is in a checkpoint, and was decoded since."""
        return {
            path: kept | {name: _encoded(one, f"order.{path}.{name}") for name, one in values[path].items()}
            for path, kept in self._first.items()
        }

    def put_back(self, memory: Mapping[str, Mapping[str, _Kept]]) -> None:
        """Gives the samplers back what `now` or `read` returned."""
        for path, kept in memory.items():
            sampler = self._samplers[path]
            for name, one in kept.items():
                if isinstance(sampler, Stateful):
                    sampler.load_state_dict(decode(*one))
                elif not _same(one, _now(sampler, name, f"order.{path}.{name}")):
                    setattr(sampler, name, decode(*one))  # what has its value still stays, and of its own class

    def warn_of_iterators(self) -> None:
        """Warns once of an iterator that a sampler keeps, and no checkpoint can hold."""
        for sampler in () if self._warned else self._samplers.values():
            kept = [] if isinstance(sampler, Stateful) else _attributes(sampler)
            for name in [name for name, one in kept if isinstance(one, Iterator)][:1]:
                self._warned = True
                warn(
                    f"the train loader's {type(sampler).__name__} keeps an iterator, {name!r}, which a checkpoint "
                    "cannot hold: if it goes on from epoch to epoch, the order after a resume is another. Give its "
                    "class state_dict() and load_state_dict(state)"
                )


def _remembered(path: str, sampler: Any) -> Iterator[tuple[str, _Kept]]:
    if isinstance(sampler, Stateful):
        yield "", _encoded(sampler.state_dict(), f"order.{path}")
        return
    for name, _ in _attributes(sampler):
        kept = _now(sampler, name, f"order.{path}.{name}")
        if kept is not None:
            yield name, kept


def _attributes(sampler: Any) -> list[tuple[str, Any]]:
    """The attributes of a sampler, or of a loader; not those that torch gives every loader."""
    of_torch = _of_every_loader() if isinstance(sampler, DataLoader) else ()
    return [(name, value) for name, value in vars(sampler).items() if name not in of_torch]


@cache
def _of_every_loader() -> frozenset[str]:
    nothing: Dataset[Any] = TensorDataset()
    return frozenset(vars(DataLoader(nothing)))


def _now(sampler: Any, name: str, place: str) -> _Kept | None:
    value = vars(sampler).get(name, sampler)
    return _kept(value, place) if isinstance(value, _PLAIN) else None


def _kept(value: Any, place: str) -> _Kept | None:
    """A copy of an attribute; None if it holds data, or anything that is not plain."""
    if isinstance(value, (Tensor, np.ndarray)) and value.nbytes > _LARGE:
        return None
    items: Collection[Any] = value.values() if isinstance(value, dict) else ()
    items = value if isinstance(value, (list, tuple, deque)) else items
    if len(items) > _MANY and not {*map(type, items)} <= _SMALL:
        return None
    try:
        return _encoded(value, place)
    except CheckpointError:
        return None


def _encoded(value: Any, place: str) -> _Kept:
    tensors: dict[str, Tensor] = {}
    encoded = encode(value, tensors, place)
    return encoded, {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _same(one: _Kept, other: _Kept | None) -> bool:
    if other is None or one[0] != other[0] or one[1].keys() != other[1].keys():
        return False
    return all(torch.equal(tensor, other[1][name]) for name, tensor in one[1].items())
