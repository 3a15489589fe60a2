"""What a user's samplers remember from epoch to epoch: a count, samples left over, an order shuffled in place.

With the seed alone such a sampler would begin anew after a resume; and so would a loader with an iteration of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from ignition.codec import decode, encode, give_back
from ignition.device import tensors_in
from ignition.errors import CheckpointError, warn
from ignition.keyed import iterates_in_own_way
from ignition.shards import TORCH_SAMPLERS
from ignition.types import Stateful

__all__ = ["SamplerMemory", "own_samplers"]

_PLAIN = (type(None), bool, int, float, str, bytes, list, tuple, dict, set, frozenset, deque, Tensor, np.ndarray)
_SMALL = {type(None), bool, int, float, str}
_BATCHES = _SMALL | {list, tuple}
# Items that are not small, batches of indices, and bytes: with more, an attribute holds data.
_MANY, _MANY_BATCHES, _LARGE = 1000, 10_000, 2**26


class _Given:
    """Indices, or batches of them, in the place of a sampler: the training may shuffle them."""

    def __init__(self, indices: Any) -> None:
        self.indices = indices


# Those that draw nothing but what follows from the seed, and what the training may set of them.
_SEEDED = (*TORCH_SAMPLERS, _Given)
_SET: dict[type, tuple[str, ...]] = {
    _Given: ("indices",),
    WeightedRandomSampler: ("weights", "num_samples", "replacement"),
    SubsetRandomSampler: ("indices",),
    RandomSampler: ("_num_samples", "replacement"),
    DistributedSampler: ("epoch",),
}

# An attribute as `encode` writes it, with the tensors in it.
_Kept = tuple[Any, dict[str, Tensor]]


def own_samplers(loader: Any) -> dict[str, Any]:
    """The samplers of a DataLoader that are none of torch's own, by the way to them; and itself, if so is its way."""
    return {path: one for path, one in _remembering(loader).items() if type(one) not in _SEEDED}


def _remembering(loader: Any) -> dict[str, Any]:
    if not isinstance(loader, DataLoader):
        return {}
    itself = {"loader": loader} if iterates_in_own_way(loader) and not isinstance(loader, Stateful) else {}
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    return itself | dict(_samplers_in("sampler", sampler))


def _samplers_in(path: str, sampler: Any) -> Iterator[tuple[str, Any]]:
    own = getattr(sampler, "__dict__", None)
    if isinstance(sampler, (list, np.ndarray, Tensor)):
        yield path, _Given(sampler)
        return
    if type(sampler) in TORCH_SAMPLERS:
        yield path, sampler
        return
    if own is None:
        return
    if type(sampler) is not BatchSampler:
        yield path, sampler
        if isinstance(sampler, Stateful):  # what is inside is its own affair
            return
    for name, value in own.items():
        if name in ("sampler", "batch_sampler") or isinstance(value, Sampler):
            yield from _samplers_in(f"{path}.{name}", value)
        elif isinstance(value, (list, tuple, dict)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, one in items:
                if isinstance(one, Sampler):
                    yield from _samplers_in(f"{path}.{name}.{key}", one)


def _identity(sampler: Any) -> int:
    return id(sampler.indices if type(sampler) is _Given else sampler)


class SamplerMemory:
    """The memory of a loader's samplers: their ``state_dict`` where they have one, else their plain attributes.

    Args:
        loader: Any loader; of most there is nothing to remember.
        place: What its tensors are called in a checkpoint: "order" or "test".
        other: A loader whose samplers are left out.

    Attributes:
        first: What they remember as this is made.
    """

    def __init__(self, loader: Any, place: str = "order", other: Any = None) -> None:
        self._place = place
        others = [*map(_identity, _remembering(other).values())]
        self._samplers = {path: one for path, one in _remembering(loader).items() if _identity(one) not in others}
        self._own = {path: one for path, one in self._samplers.items() if type(one) not in _SEEDED}
        self._lists: dict[tuple[str, str], tuple[list[Any], _Kept]] = {}
        self.first = self.now()
        self._outlines = {(path, name): _outline(value) for path, name, value in self._unkept(self.first)}
        self._warned: set[tuple[str, str]] = set()

    def __bool__(self) -> bool:
        """Whether there is a sampler of the user's."""
        return bool(self._own)

    def now(self) -> dict[str, dict[str, _Kept]]:
        """A copy of what they remember."""
        return {path: dict(self._remembered(path, one)) for path, one in self._samplers.items()}

    def written(
        self, memory: Mapping[str, Mapping[str, _Kept]], tensors: dict[str, Tensor], moment: str = ""
    ) -> dict[str, Any]:
        """What a checkpoint holds of a copy: all that differs from what the script has made.

        Args:
            memory: What `now` returned.
            tensors: Receives the tensors in it.
            moment: Tells those of several copies apart.
        """
        changed: dict[str, Any] = {}
        for path, kept in memory.items():
            differs = {name: one for name, one in kept.items() if not _same(one, self.first[path].get(name))}
            if not differs and path not in self._own:
                continue
            changed[path] = {}
            for name, (encoded, own) in differs.items():
                names = {one: f"{moment}{one}" for one in own}
                tensors |= {names[one]: tensor for one, tensor in own.items()}
                changed[path][name] = _renamed(encoded, names) if moment and own else encoded
        return changed

    def check(self, written: Mapping[str, Any], source: str) -> None:
        """Raises CheckpointError if the loader has other samplers than the one of which `written` was read."""
        if not self.fits(written):
            raise CheckpointError(
                f"the checkpoint {source} has the memory of samplers at {sorted(written)}, and here they are at "
                f"{sorted(self._own)}",
                expected="the same samplers, since the order of the samples is part of the checkpoint",
                fix="use the loader with which it was written, or begin anew in another folder",
            )

    def fits(self, written: Mapping[str, Any]) -> bool:
        """Whether `written` is of such samplers as there are here."""
        return written.keys() >= self._own.keys() and all(map(self._fits, written, written.values()))

    def read(self, values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, _Kept]]:
        """The copy from which `written` made what is in a checkpoint, and was decoded since."""
        return {
            path: kept
            | {name: _encoded(one, f"{self._named(path)}.{name}") for name, one in values.get(path, {}).items()}
            for path, kept in self.first.items()
        }

    def put_back(self, memory: Mapping[str, Mapping[str, _Kept]], inside: bool = False) -> None:
        """Gives the samplers back what `now` or `read` returned. What can take its value stays the same object.

        Args:
            memory: Of these samplers.
            inside: Whether they are half-way through an epoch, to which they have come by drawing it once more. One
                with a ``state_dict`` is there already: taken back, that may have it begin in its middle.
        """
        for path, kept in memory.items():
            sampler = self._samplers[path]
            for name, one in kept.items():
                if isinstance(sampler, Stateful):
                    if not inside:
                        sampler.load_state_dict(decode(*one))
                    elif not _same(one, _encoded(sampler.state_dict(), self._named(path))):
                        warn(
                            f"the state_dict of {type(sampler).__name__} is another than before the checkpoint, at the "
                            "same place of the epoch: what the training changed in it since the epoch began comes only "
                            "with the next checkpoint that is taken between two epochs"
                        )
                elif not _same(one, _now(sampler, name, f"{self._named(path)}.{name}")):
                    filled: list[tuple[Any, Any]] = []
                    present = getattr(sampler, name, None)
                    device = next((tensor.device for tensor in tensors_in(present) if not tensor.is_cpu), None)
                    value = decode(*one, present, filled, device)
                    give_back(filled)
                    vars(sampler)[name] = value

    def warn_of_lost(self, now: Mapping[str, Mapping[str, _Kept]]) -> None:
        """Warns, once of each, of what a sampler keeps or has changed that no checkpoint can hold.

        Args:
            now: What `now` has just returned.
        """
        whose = "test" if self._place == "test" else "train"
        for path, sampler in self._own.items():
            for name, value in [] if isinstance(sampler, Stateful) else _attributes(sampler):
                if isinstance(value, Iterator) and (path, name) not in self._warned:
                    self._warned.add((path, name))
                    warn(
                        f"the {whose} loader's {type(sampler).__name__} keeps an iterator, {name!r}, which a "
                        "checkpoint cannot hold: if it goes on from epoch to epoch, the order after a resume is "
                        "another. Give its class state_dict() and load_state_dict(state)"
                    )
        for path, name, value in self._unkept(now):
            if (path, name) not in self._warned and not _is_outline(_outline(value), self._outlines.get((path, name))):
                self._warned.add((path, name))
                sampler = self._samplers[path]
                which = "sampler" if type(sampler) is _Given else type(sampler).__name__
                warn(
                    f"the {whose} loader's {which} has changed {name!r}, which a checkpoint cannot hold (a "
                    f"{type(value).__name__}): the order after a resume is another if it follows from that. Keep it "
                    f"in numbers, plain containers of at most {_MANY_BATCHES} lists, tensors or arrays; or give the "
                    "class state_dict() and load_state_dict(state)"
                )

    def _remembered(self, path: str, sampler: Any) -> Iterator[tuple[str, _Kept]]:
        if isinstance(sampler, Stateful):
            yield "", _encoded(sampler.state_dict(), self._named(path))
            return
        for name, value in _attributes(sampler):
            # A list of indices may be long: it is looked through again only when it has changed.
            before, kept = self._lists.get((path, name), ([], None))
            if type(value) is not list or kept is None or not _is_outline(value, before):
                kept = _now(sampler, name, f"{self._named(path)}.{name}")
                if type(value) is list and kept is not None and {*map(type, value)} <= {int}:
                    self._lists[path, name] = [*value], kept
            if kept is not None:
                yield name, kept

    def _fits(self, path: str, values: Any) -> bool:
        """Whether there is a sampler that can have remembered these values."""
        if path in self._own or path not in self._samplers or not values:
            return path in self._own
        return set(values) <= set(_SET.get(type(self._samplers[path]), ()))

    def _named(self, path: str) -> str:
        return f"{self._place}.{path}"

    def _unkept(self, memory: Mapping[str, Mapping[str, _Kept]]) -> Iterator[tuple[str, str, Any]]:
        """The attributes that may be memory, and are not in a copy of it."""
        for path, sampler in self._samplers.items():
            for name, value in [] if isinstance(sampler, Stateful) else _attributes(sampler):
                if name not in memory[path] and (isinstance(value, _PLAIN) or is_dataclass(value)):
                    yield path, name, value


def _renamed(encoded: Any, names: Mapping[str, str]) -> Any:
    """What `encode` returned, with other names for its tensors."""
    if isinstance(encoded, list):
        return [_renamed(item, names) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if set(encoded) == {"$"} and encoded["$"][0] == "tensor":
        name, *rest = encoded["$"][1]
        return {"$": ["tensor", [names[name], *rest]]}
    return {key: _renamed(item, names) for key, item in encoded.items()}


def _attributes(sampler: Any) -> list[tuple[str, Any]]:
    """The attributes of a sampler, or of a loader; not those that torch gives every loader."""
    if type(sampler) in _SEEDED:
        return [(name, getattr(sampler, name)) for name in _SET.get(type(sampler), ())]
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
    items = _items(value)
    if len(items) > _MANY and not (kinds := {*map(type, items)}) <= _SMALL:
        may_be_memory = len(items) <= _MANY_BATCHES and kinds <= _BATCHES
        if not may_be_memory:
            return None
    try:
        return _encoded(value, place, exact=True)
    except CheckpointError:
        return None


def _items(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple, deque, set, frozenset)) else ()


def _outline(value: Any) -> list[Any]:
    """The value and what is directly in it, to see whether it is another one later."""
    return [value, *(vars(value).values() if is_dataclass(value) and hasattr(value, "__dict__") else _items(value))]


def _is_outline(one: list[Any], other: list[Any] | None) -> bool:
    return other is not None and len(one) == len(other) and all(map(is_, one, other))


def _encoded(value: Any, place: str, exact: bool = False) -> _Kept:
    tensors: dict[str, Tensor] = {}
    encoded = encode(value, tensors, place, exact)
    return encoded, {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _same(one: _Kept, other: _Kept | None) -> bool:
    if one is other:
        return True
    if other is None or one[0] != other[0] or one[1].keys() != other[1].keys():
        return False
    return all(torch.equal(tensor, other[1][name]) for name, tensor in one[1].items())
