"""Nested state as JSON and tensors, and back as it was: nothing in it is ever executed.

JSON has no tuples, no keys but strings, no NaN and no tensors. A value that JSON lacks becomes an object with the
one key ``"$"``: ``{"$": [kind, content]}``. Tensors are left out of the JSON and kept by name.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ignition.errors import CheckpointError
from ignition.types import Stateful

__all__ = ["decode", "encode"]

_DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}


def encode(value: Any, tensors: dict[str, Tensor], place: str) -> Any:
    """`value` as something that JSON can hold.

    Takes None, booleans, numbers, strings, bytes, lists, tuples, sets, dicts with any keys, arrays and numbers of
    numpy, dtypes and devices of torch, tensors, and objects with ``state_dict`` (of which the state is kept).

    Args:
        value: What to encode.
        tensors: Receives the tensors, as they are: copies are the caller's.
        place: What the value is called, for the names of the tensors and for messages.

    Raises:
        CheckpointError: If there is anything else in it.
    """
    if value is None or isinstance(value, (bool, str)) or type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else _marked("float", repr(value))
    if isinstance(value, Tensor):
        tensors[place] = value.detach()
        return _marked("tensor", [place, value.requires_grad])
    if type(value) is list:
        return [encode(item, tensors, f"{place}.{index}") for index, item in enumerate(value)]
    if isinstance(value, tuple):
        return _marked("tuple", [encode(item, tensors, f"{place}.{index}") for index, item in enumerate(value)])
    if isinstance(value, (set, frozenset)):
        return _marked("set", [encode(item, tensors, place) for item in sorted(value, key=repr)])
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and "$" not in value:
            return {key: encode(item, tensors, f"{place}.{key}") for key, item in value.items()}
        pairs = [[encode(key, tensors, place), encode(item, tensors, f"{place}.{key}")] for key, item in value.items()]
        return _marked("dict", pairs)
    if isinstance(value, (int, float)):  # a bool, an int or a float of some class of its own
        return encode(int(value) if isinstance(value, int) else float(value), tensors, place)
    if isinstance(value, np.generic):
        return _marked("number", [value.dtype.str, encode(value.item(), tensors, place)])
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return _marked("array", [value.dtype.str, list(value.shape), data])
    if isinstance(value, bytes):
        return _marked("bytes", base64.b64encode(value).decode())
    if isinstance(value, complex):
        return _marked("complex", [encode(value.real, tensors, place), encode(value.imag, tensors, place)])
    if isinstance(value, torch.dtype):
        return _marked("dtype", str(value))
    if isinstance(value, torch.device):
        return _marked("device", str(value))
    if isinstance(value, Stateful):
        return _marked("object", encode(value.state_dict(), tensors, place))
    if isinstance(value, list):
        return encode(list(value), tensors, place)
    raise CheckpointError(
        f"{place} is a {type(value).__name__}, which a checkpoint cannot hold",
        expected="numbers, strings, None, tensors, arrays, lists, tuples and dicts of them, or objects with state_dict "
        "and load_state_dict",
        fix="give its class these two methods, or keep it elsewhere",
    )


def decode(value: Any, tensors: Mapping[str, Tensor], present: Any = None) -> Any:
    """What `encode` was given, with tensors of its own.

    Args:
        value: What `encode` returned, after a way through JSON.
        tensors: The tensors by name.
        present: What stands now where the value belongs: objects in it take their state back and stay.

    Raises:
        CheckpointError: If it is nothing that `encode` returns.
    """
    if isinstance(value, list):
        here = present if isinstance(present, (list, tuple)) and len(present) == len(value) else [None] * len(value)
        return [decode(item, tensors, now) for item, now in zip(value, here, strict=True)]
    if not isinstance(value, dict):
        return value
    if "$" not in value:
        now = present if isinstance(present, Mapping) else {}
        return {key: decode(item, tensors, now.get(key)) for key, item in value.items()}
    try:
        kind, content = value["$"]
        if kind == "object":
            return _restored(content, tensors, present)
        if kind == "tensor":
            name, requires_grad = content
            return tensors[name].clone().requires_grad_(requires_grad)
        if kind == "tuple":
            return tuple(decode(content, tensors, present))
        if kind == "dict":
            now = present if isinstance(present, Mapping) else {}
            keys = [decode(key, tensors) for key, _ in content]
            return {key: decode(item, tensors, now.get(key)) for key, (_, item) in zip(keys, content, strict=True)}
        return _KINDS[kind](content, tensors)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{str(value)[:80]} is nothing that a checkpoint holds ({error!r})") from error


def _restored(content: Any, tensors: Mapping[str, Tensor], present: Any) -> Any:
    state = decode(content, tensors)
    if not isinstance(present, Stateful):
        raise CheckpointError(
            f"the checkpoint holds the state of an object where there is {type(present).__name__} now",
            expected="the object that takes it back, at the same place",
            fix="put it there before fit, as the script did that wrote the checkpoint",
        )
    present.load_state_dict(state)
    return present


_KINDS: dict[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "float": lambda content, tensors: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content],
    "set": lambda content, tensors: set(decode(content, tensors)),
    "number": lambda content, tensors: _plain_dtype(content[0]).type(decode(content[1], tensors)),
    "array": lambda content, tensors: (
        np.frombuffer(base64.b64decode(content[2]), _plain_dtype(content[0])).reshape(content[1]).copy()
    ),
    "bytes": lambda content, tensors: base64.b64decode(content),
    "complex": lambda content, tensors: complex(*decode(content, tensors)),
    "dtype": lambda content, tensors: _DTYPES[content],
    "device": lambda content, tensors: torch.device(content),
}


def _plain_dtype(name: str) -> np.dtype[Any]:
    dtype = np.dtype(name)
    if dtype.kind not in "biufc":
        raise ValueError(f"an array of {name}")
    return dtype


def _marked(kind: str, content: Any) -> dict[str, Any]:
    return {"$": [kind, content]}
