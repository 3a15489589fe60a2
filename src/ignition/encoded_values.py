"""The values that JSON lacks: ``{"$": [kind, content]}``, and what of it is made again.

What is in a file chooses from these tables, and names nothing else.
"""

from __future__ import annotations

import base64
import math
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ignition.errors import CheckpointError, warn

__all__ = [
    "COLLECTIONS",
    "CONTAINERS",
    "FACTORIES",
    "KINDS",
    "PLAIN_CONTAINERS",
    "array_mark",
    "check_kind",
    "marked",
    "name_of_generator",
    "new_generator",
    "number_mark",
    "text_of",
    "warn_of_origin",
]

_DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}

CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "complex": lambda parts: complex(*parts),
    "size": torch.Size,
}

_GENERATORS: dict[str, Callable[[], Any]] = {
    "Generator": torch.Generator,
    "RandomState": np.random.RandomState,
    "Random": random.Random,
    **{
        kind.__name__: partial(lambda kind: np.random.Generator(kind(0)), kind)
        for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
    },
}

COLLECTIONS = {torch.Size, deque, OrderedDict, Counter, defaultdict}
PLAIN_CONTAINERS = {dict, list, tuple, set, frozenset}
FACTORIES: dict[str, Any] = {
    "None": None,
    **{kind.__name__: kind for kind in (int, float, complex, bool, str, bytes, list, tuple, dict, set, frozenset)},
    **{kind.__name__: kind for kind in (deque, OrderedDict, Counter)},
}

KINDS: dict[str, Callable[[Any], Any]] = {
    "float": lambda content: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content],
    "number": lambda content: np.frombuffer(_data(content[1]), _plain_dtype(content[0]), 1)[0],
    "array": lambda content: _array(*content),
    "bytes": lambda content: _data(content),
    "dtype": lambda content: _DTYPES[content],
    "device": lambda content: torch.device(content),
}


def check_kind(value: Any, place: str) -> None:
    """Raises CheckpointError if a value is of a class of its own that would come back as what it is made of."""
    kind = type(value)
    for plain in (str, int, float, bytes, complex, Tensor):
        if isinstance(value, plain) and kind is not plain and kind not in (bool, nn.Parameter):
            raise CheckpointError(
                f"{place} is a {kind.__name__}, which would come back as a plain {plain.__name__}",
                expected="what is exactly of a type that Python or torch has",
                fix="put its value there (of an enum: it.value), or an object with state_dict and load_state_dict",
            )


def warn_of_origin(place: str) -> None:
    """Warns of a tensor in ``trainer.state`` that backward would go through, to what it was computed from."""
    warn(
        f"trainer.state holds {place.partition('state.')[2]!r}, a tensor that was computed from trained ones. A "
        "checkpoint has its values alone: after a resume no gradient goes back through it. Put it.detach() there"
    )


def array_mark(value: np.ndarray[Any, Any]) -> Any:
    """An array; its dimensions lie in memory afterwards as they do now, since arithmetic may depend on it."""
    axes = sorted(range(value.ndim), key=lambda axis: -abs(value.strides[axis]))
    order: Any = "C"
    if not value.flags.c_contiguous and value.transpose(axes).flags.c_contiguous:
        order, value = axes, value.transpose(axes)
    return marked("array", [value.dtype.str, list(value.shape), text_of(value.tobytes()), order])


def _array(dtype: str, shape: list[int], text: str, axes: Any = "C") -> np.ndarray[Any, Any]:
    found = np.frombuffer(_data(text), _plain_dtype(dtype)).reshape(shape)
    if axes == "C":
        return found.copy()
    return found.transpose([axes.index(axis) for axis in range(len(axes))]).copy("K")


def number_mark(value: np.generic) -> Any:
    """A number of numpy."""
    return marked("number", [value.dtype.str, text_of(value.tobytes())])


def name_of_generator(generator: Any) -> str | None:
    """What a random generator is made by; None for one of another kind, and for one that has no state."""
    kind = type(generator.bit_generator if isinstance(generator, np.random.Generator) else generator)
    return kind.__name__ if kind.__name__ in _GENERATORS and kind is _kind_made_by(kind.__name__) else None


def new_generator(name: str, like: Any = None) -> Any:
    """A random generator of the kind that has this name, on the device of `like`. Raises KeyError if there is none."""
    return torch.Generator(like.device) if isinstance(like, torch.Generator) else _GENERATORS[name]()


@cache
def _kind_made_by(name: str) -> type:
    made = new_generator(name)
    return type(made.bit_generator if isinstance(made, np.random.Generator) else made)


def _plain_dtype(name: str) -> np.dtype[Any]:
    dtype = np.dtype(name)
    if dtype.kind not in "biufc":
        raise ValueError(f"an array of {name}")
    return dtype


def text_of(data: bytes) -> str:
    """Bytes as text."""
    return base64.b64encode(data).decode()


def _data(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def marked(kind: str, content: Any) -> dict[str, Any]:
    """A value that JSON lacks, as an object with one key."""
    return {"$": [kind, content]}
