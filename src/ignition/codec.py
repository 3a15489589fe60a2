"""Nested state as JSON and tensors, and back as it was: nothing in it is ever executed.

JSON has no tuples, no keys but strings, no NaN and no tensors. A value that JSON lacks becomes an object with the
one key ``"$"``: ``{"$": [kind, content]}``. Tensors are left out of the JSON and kept by name.
"""

from __future__ import annotations

import math
import reprlib
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ignition.encoded_values import (
    COLLECTIONS,
    CONTAINERS,
    FACTORIES,
    KINDS,
    PLAIN_CONTAINERS,
    array_mark,
    check_kind,
    marked,
    name_of_generator,
    new_generator,
    number_mark,
    text_of,
    warn_of_origin,
)
from ignition.errors import CheckpointError, kind_of
from ignition.gathered_metrics import metrics_in, restore_metrics
from ignition.generators import GENERATORS, put_back, state_of
from ignition.in_place import Staying, fill
from ignition.types import Stateful

__all__ = ["decode", "encode", "give_back"]

_STRIDED = torch.strided
_SAME = {int, str, bool, type(None)}  # what JSON holds as it is
_DEEPEST = 100  # what is written can be read: Python's own limits lie well above


def encode(value: Any, tensors: dict[str, Tensor], place: str, exact: bool = False) -> Any:
    """`value` as something that JSON can hold.

    Takes None, booleans, numbers, strings, bytes, lists, tuples, sets, dicts with any keys, the containers of
    ``collections``, arrays and numbers of numpy, dtypes, devices and sizes of torch, tensors, random generators, and
    objects with ``state_dict`` (of which the state is kept; of torchmetrics' metrics what they have gathered so far).

    Args:
        value: What to encode.
        tensors: Receives the tensors, as they are: copies are the caller's.
        place: What the value is called, for the names of the tensors and for messages.
        exact: Whether what is of some class of its own is refused, which would come back as a plain one.

    Raises:
        CheckpointError: If there is anything else in it, or it contains itself.
    """
    return _Encoder(tensors, exact).encode(value, place, 0)


def decode(
    value: Any,
    tensors: Mapping[str, Tensor],
    present: Any = None,
    objects: list[tuple[Any, Any]] | None = None,
    device: torch.device | None = None,
) -> Any:
    """What `encode` was given, with tensors of its own. It changes nothing.

    Args:
        value: What `encode` returned, after a way through JSON.
        tensors: The tensors by name.
        present: What stands now where the value belongs. Where `objects` is given, what can take back what was saved
            stays: objects, containers, tensors and arrays of the same kind and form.
        objects: Receives each of those that stay with what it is to take back, for `give_back`.
        device: Where tensors go that were on an accelerator; None leaves them on the CPU.

    Raises:
        CheckpointError: If it is nothing that `encode` returns, or an object is not there that is to take its state.
    """
    try:
        return _Decoder(tensors, objects, device).decode(value, present)
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{reprlib.repr(value)} is nothing that a checkpoint holds ({error!r})",
            expected="what Ignition wrote",
            fix="use another checkpoint",
        ) from error


def give_back(objects: list[tuple[Any, Any]]) -> None:
    """Has what stays take back what `decode` found for it."""
    for one, state in objects:
        if isinstance(one, GENERATORS):
            put_back(one, state)
            continue
        if not isinstance(state, _State):
            fill(one, state)
            continue
        one.load_state_dict(state["state"])
        if isinstance(one, nn.Module):
            restore_metrics(one, state["metrics"])


class _State(dict[str, Any]):
    """What an object is to take back."""


class _Encoder:
    def __init__(self, tensors: dict[str, Tensor], exact: bool) -> None:
        self.tensors = tensors
        self.exact = exact
        self.known: dict[int, Any] = {}  # the mark of each tensor and generator, by its id
        self.held: list[Tensor] = []  # those that `tensors` does not hold, so that their ids stay their own

    def encode(self, value: Any, place: str, depth: int) -> Any:
        kind = type(value)
        # What there is most of first: the training waits.
        if kind is int or kind is bool or kind is str or value is None:
            return value
        if kind is Tensor:
            return self._tensor(value, place)
        if depth > _DEEPEST:
            raise CheckpointError(
                f"{place[:80]}... is nested deeper than a checkpoint can hold, or contains itself",
                expected=f"at most {_DEEPEST} lists and dicts in each other",
                fix="keep it flatter, or elsewhere",
            )
        if kind is dict or kind is tuple or kind is list:
            return self._container(value, place, depth + 1)
        if (kind is np.ndarray or (kind is np.memmap and not self.exact)) and value.dtype.kind in "biufc":
            return array_mark(value)
        if isinstance(value, np.generic) and kind is value.dtype.type and value.dtype.kind in "biufc":
            return number_mark(value)
        if self.exact:
            check_kind(value, place)
        if isinstance(value, str):
            return str.__str__(value)
        if kind is float:
            return value if math.isfinite(value) else marked("float", repr(value))
        if isinstance(value, Tensor):
            mark = self._tensor(value, place)
            return marked("parameter", mark) if self.exact and kind is nn.Parameter else mark
        if isinstance(value, (list, tuple, set, frozenset, Mapping, deque)):
            return self._container(value, place, depth + 1)
        if isinstance(value, (int, float)):  # of some class of its own
            return self.encode(int(value) if isinstance(value, int) else float(value), place, depth)
        if isinstance(value, bytes):
            return marked("bytes", text_of(value))
        if isinstance(value, complex):
            return marked("complex", [self.encode(part, place, depth) for part in (value.real, value.imag)])
        if isinstance(value, torch.dtype):
            return marked("dtype", str(value))
        if isinstance(value, torch.device):
            return marked("device", str(value))
        if isinstance(value, GENERATORS) and (name := name_of_generator(value)) is not None:
            if id(value) not in self.known:
                state = self.encode(state_of(value), place, depth + 1)
                self.known[id(value)] = marked("generator", [name, state, place])
            return self.known[id(value)]
        if isinstance(value, Stateful) and not isinstance(value, type):
            metrics = metrics_in(value) if isinstance(value, nn.Module) else {}
            state = {"state": value.state_dict(), "metrics": metrics}
            exact, self.exact = self.exact, False  # what it makes of its state is its own affair
            encoded = self.encode(state, place, depth + 1)
            self.exact = exact
            return marked("object", encoded)
        kind_of_array = f" of {value.dtype}" if isinstance(value, (np.ndarray, np.generic)) else ""
        raise CheckpointError(
            f"{place} is {kind_of(value)}{kind_of_array}, which a checkpoint cannot hold",
            expected="numbers, strings, None, tensors, arrays of numbers, random generators, lists, tuples and dicts "
            "of them, or objects with state_dict and load_state_dict",
            fix="put it.tolist() there, or keep it elsewhere"
            if kind_of_array
            else "give its class these two methods, or keep it elsewhere",
        )

    def _container(self, value: Any, place: str, depth: int) -> Any:
        kind: Any = type(value)
        if kind in COLLECTIONS and (self.exact or kind is not OrderedDict):
            return self._collection(value, place, depth)
        if self.exact and kind not in PLAIN_CONTAINERS:
            raise CheckpointError(
                f"{place} is a {kind.__name__}, which would come back from a checkpoint as a plain container",
                expected="dicts, lists, tuples and sets, or those of collections",
                fix="put dict(it), tuple(it) or list(it) there, or an object with state_dict and load_state_dict",
            )
        kinds = {*map(type, value)}  # this takes no step of Python's for each item
        if kind is dict or isinstance(value, Mapping):
            names = kinds <= {str} or (not self.exact and all(issubclass(kind, str) for kind in kinds))
            if names and "$" not in value:
                return {str.__str__(key): self.encode(item, f"{place}.{key}", depth) for key, item in value.items()}
            pairs = []
            for index, (key, item) in enumerate(value.items()):
                name = key if isinstance(key, (str, int)) else index
                pairs.append([self.encode(key, place, depth), self.encode(item, f"{place}.{name}", depth)])
            return marked("dict", pairs)
        if isinstance(value, (set, frozenset)):
            kind = "set" if isinstance(value, set) else "frozenset"
            return marked(kind, [self.encode(item, place, depth) for item in sorted(value, key=repr)])
        if kinds <= _SAME:  # as the 625 of the state of Python's generator
            items = list(value)
        else:
            items = [self.encode(item, f"{place}.{index}", depth) for index, item in enumerate(value)]
        return items if isinstance(value, list) else marked("tuple", items)

    def _collection(self, value: Any, place: str, depth: int) -> Any:
        if isinstance(value, torch.Size):
            return marked("size", list(value))
        if isinstance(value, deque):
            return marked("deque", [value.maxlen, self.encode(list(value), place, depth)])
        pairs = self.encode(tuple(value.items()), place, depth)
        if not isinstance(value, defaultdict):
            return marked("ordered" if isinstance(value, OrderedDict) else "counter", pairs)
        makes = "None" if value.default_factory is None else getattr(value.default_factory, "__name__", "")
        if makes not in FACTORIES or FACTORIES[makes] is not value.default_factory:
            raise CheckpointError(
                f"{place} is a defaultdict of {value.default_factory!r}, which a checkpoint cannot hold",
                expected=f"one of {', '.join(FACTORIES)}",
                fix="use one of these, or a plain dict and setdefault",
            )
        return marked("defaultdict", [makes, pairs])

    def _tensor(self, value: Tensor, place: str) -> Any:
        """The mark of a tensor: its name, whether it asks for a gradient, its device, the order of its dimensions."""
        mark = self.known.get(id(value))
        if mark is not None:  # one tensor in two places comes back as one
            return mark
        if self.exact and value.grad_fn is not None:
            warn_of_origin(place)
        name = place
        if name in self.tensors or not name.isascii():
            name = self._free_name(place)
        requires_grad, order = value.requires_grad, None
        self.tensors[name] = value
        if requires_grad:
            self.tensors[name] = value.detach()
            self.held.append(value)
        if value.layout is _STRIDED and not value.is_contiguous():
            order = sorted(range(value.ndim), key=value.stride().__getitem__, reverse=True)
        device = "cpu" if value.is_cpu else value.device.type  # which costs twenty times as much to ask
        mark = self.known[id(value)] = {"$": ["tensor", [name, requires_grad, device, order]]}
        return mark

    def _free_name(self, place: str) -> str:
        """A name of the place in plain letters that no tensor has yet."""
        name = first = place if place.isascii() else place.encode(errors="backslashreplace").decode()
        count = 1
        while name in self.tensors:  # {"a.b": ...} and {"a": {"b": ...}}, or the keys 1 and "1"
            count += 1
            name = f"{first}~{count}"
        return name


class _Decoder:
    def __init__(
        self, tensors: Mapping[str, Tensor], objects: list[tuple[Any, Any]] | None, device: torch.device | None
    ) -> None:
        self.tensors = tensors
        self.objects = objects
        self.staying = None if objects is None else Staying(objects)
        self.device = device
        self.known: dict[str, Tensor] = {}
        self.generators: dict[str, Any] = {}

    def decode(self, value: Any, present: Any = None) -> Any:
        """The value itself, or what is there and is to take it."""
        found = self._decode(value, present)
        if self.staying is None or not isinstance(value, (dict, list)):
            return found
        if isinstance(found, np.ndarray):
            return self.staying.array(present, found)
        return self.staying.container(present, found, value)

    def _decode(self, value: Any, present: Any) -> Any:
        if isinstance(value, list):
            return self._items(value, present)
        if not isinstance(value, dict):
            return value
        now = present if isinstance(present, Mapping) else {}
        if "$" not in value:
            return {key: self.decode(item, now.get(key)) for key, item in value.items()}
        kind, content = value["$"]
        if kind == "object":
            return self._object(content, present)
        if kind == "tensor":
            return self._tensor(content, present)
        if kind == "parameter":
            return self._parameter(content["$"][1], present)
        if kind == "generator":
            return self._generator(content, present)
        if kind == "dict":
            return self._pairs(content, now)
        if kind == "ordered":
            return OrderedDict(self._pairs(content["$"][1], now, tuples=True))
        if kind == "counter":
            return Counter(self._pairs(content["$"][1], now, tuples=True))
        if kind == "defaultdict":
            return defaultdict(FACTORIES[content[0]], self._pairs(content[1]["$"][1], now, tuples=True))
        if kind == "deque":
            return deque(self._items(content[1], present), content[0])
        if kind in CONTAINERS:
            return CONTAINERS[kind](self._items(content, present))
        return KINDS[kind](content)

    def _items(self, value: list[Any], present: Any) -> list[Any]:
        ordered = isinstance(present, (list, tuple, deque)) and len(present) == len(value)
        return [self.decode(item, now) for item, now in zip(value, present if ordered else repeat(None), strict=False)]

    def _pairs(self, pairs: list[Any], now: Mapping[Any, Any], tuples: bool = False) -> dict[Any, Any]:
        pairs = [pair["$"][1] for pair in pairs] if tuples else pairs
        keys = [self._decode(key, None) for key, _ in pairs]
        return {key: self.decode(item, now.get(key)) for key, (_, item) in zip(keys, pairs, strict=True)}

    def _object(self, content: Any, present: Any) -> Any:
        if not isinstance(present, Stateful) or isinstance(present, type) or self.objects is None:
            raise CheckpointError(
                f"the checkpoint holds the state of an object where there is {type(present).__name__} now",
                expected="the object that takes it back, at the same place",
                fix="put it there before fit, as the script did that wrote the checkpoint",
            )
        state = self.decode(content)
        if not isinstance(state, dict) or state.keys() != {"state", "metrics"}:
            raise ValueError("the state of an object")
        self.objects.append((present, _State(state)))
        return present

    def _generator(self, content: Any, present: Any) -> Any:
        """The generator that is there, if it is of that kind; else a new one."""
        name, state, place = content[0], self.decode(content[1]), content[2]
        if place in self.generators:  # one in two places is one afterwards
            return self.generators[place]
        stays = self.objects is not None and isinstance(present, GENERATORS) and name_of_generator(present) == name
        new = new_generator(name, present if stays else None)
        put_back(new, state)  # raises where it is no state
        self.generators[place] = present if stays else new
        if self.objects is not None and stays:
            self.objects.append((present, state))
        return self.generators[place]

    def _parameter(self, content: Any, present: Any) -> nn.Parameter:
        tensor = self._tensor(content, present if isinstance(present, nn.Parameter) else None)
        if not isinstance(tensor, nn.Parameter):  # one in two places is one afterwards
            tensor = self.known[content[0]] = nn.Parameter(tensor.detach(), tensor.requires_grad)
        return tensor

    def _tensor(self, content: Any, present: Any) -> Tensor:
        name, requires_grad, device, order = content
        if torch.device(str(device)).type != device:
            raise ValueError(f"{device!r} is no kind of device")
        if name not in self.known:
            saved = self.tensors[name]
            tensor = saved.clone(memory_format=torch.contiguous_format)
            if order is not None:
                # An optimizer's arithmetic can depend on how its state lies in memory.
                tensor = tensor.permute(order).contiguous().permute([order.index(axis) for axis in range(len(order))])
            if device != "cpu" and self.device is not None:
                tensor = tensor.to(self.device)
            tensor = tensor.requires_grad_(requires_grad)
            # One tensor in two places is one afterwards: what stands in the first of them.
            self.known[name] = tensor if self.staying is None else self.staying.tensor(present, tensor)
        return self.known[name]
