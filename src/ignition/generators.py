"""Random generators that objects and functions keep for themselves: finding them, their states, and seeding them.

The three that everybody shares are those of `ignition.rng`. Others are attributes of an object, such as a data set's
``numpy.random.default_rng()``, or variables that a function names.
"""

from __future__ import annotations

import copy
import inspect
import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from ignition.errors import warn

__all__ = ["GENERATORS", "by_place", "generators_of", "put_back", "put_back_by_place", "reseed", "state_of", "walk"]

_DEEPEST = 5
_MANY = 64  # items of a container that are looked into: a longer one is data
_LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy", "ignition"}  # whose functions are not looked into
_PLAIN = (type(None), str, bytes, int, float, torch.Tensor, np.ndarray)
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_BOOKKEEPING = vars(nn.Module()).keys() - {"_modules"}  # torch's own: parameters, buffers, hooks
_CALLED = ("__call__", "__getitem__", "__getitems__", "__iter__", "forward")


def generators_of(*roots: Any) -> list[Any]:
    """The generators that objects and functions keep: each once, in an order that is the same in each process.

    See `by_place` for where they are looked for.
    """
    return list(by_place({str(place): root for place, root in enumerate(roots)}).values())


def by_place(roots: Mapping[str, Any]) -> dict[str, Any]:
    """The generators that objects and functions keep, each once, by the way to it: ``{"train_fn.noise": ...}``.

    See `walk` for where they are looked for.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for name, value in walk(roots):
        if isinstance(value, GENERATORS) and not isinstance(value, random.SystemRandom) and id(value) not in seen:
            seen.add(id(value))
            found[name] = value
    return found


def walk(roots: Mapping[str, Any], leave_out: tuple[type, ...] = ()) -> Iterator[tuple[str, Any]]:
    """All that objects and functions hold, by the way to it, what is near first.

    Goes into attributes, into short lists and dicts, and into the functions by which an object is called: what they
    close over, and the globals that they name. Not into those of libraries, nor deeper than a few steps; into each
    object once, by its shortest way.

    Args:
        roots: Where it begins, by name.
        leave_out: Kinds of objects that are left out, with all that they hold.
    """
    seen: dict[int, Any] = {}  # with the objects, so that no id is used again
    level = list(roots.items())
    for _ in range(_DEEPEST + 1):
        inner: list[tuple[str, Any]] = []
        for name, value in level:
            if isinstance(value, leave_out):
                continue
            yield name, value
            if id(value) in seen or isinstance(value, (*_PLAIN, *GENERATORS)):
                continue
            seen[id(value)] = value
            inner.extend((f"{name}.{part}", item) for part, item in _parts(value))
        level = inner


def state_of(generator: Any) -> Any:
    """The state of a generator, of values that a checkpoint can hold."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return copy.deepcopy(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.getstate()


def put_back(generator: Any, state: Any) -> None:
    """Gives a generator the state that `state_of` returned.

    Raises:
        ValueError: Or whatever the generator raises, if it is no state of its kind.
    """
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        _check_place(state)
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        _check_place(state)
        generator.set_state(state)
    else:
        if state[2] is not None and type(state[2]) is not float:
            raise ValueError(f"{state[2]!r} is no second one of two normal numbers")
        generator.setstate(state)


def _check_place(state: Mapping[str, Any]) -> None:
    """Numpy takes any place in the words that are drawn already, and then reads outside of them."""
    inner = state["state"]
    for words, place in ((624, inner.get("pos", 0)), (4, state.get("buffer_pos", 0))):
        if not isinstance(place, (int, np.integer)) or not 0 <= place <= words:
            raise ValueError(f"{place!r} is no place among the {words} words of a generator")


def put_back_by_place(generators: Mapping[str, Any], states: Mapping[str, tuple[str, Any]]) -> None:
    """Puts back those of `by_place`, from ``{place: (kind, state)}``; warns of what is there no more."""
    for place, (kind, state) in states.items():
        if place in generators and type(generators[place]).__name__ == kind:
            put_back(generators[place], state)
        else:
            warn(f"the checkpoint has the state of a random generator ({kind}) at {place}, and there is none now")


def reseed(generator: Any, key: int) -> None:
    """Has a generator that somebody keeps follow `key`."""
    if isinstance(generator, torch.Generator):
        generator.manual_seed(key)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(key).state
    elif isinstance(generator, np.random.RandomState):
        generator.seed(key % 2**32)
    else:
        generator.seed(key)


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    """What an object holds, as far as generators may be in it."""
    if isinstance(value, FunctionType):
        yield from _variables(value)
    elif isinstance(value, partial):
        yield from (("function", value.func), ("arguments", value.args), ("keywords", value.keywords))
    elif isinstance(value, MethodType):
        yield from (("self", value.__self__), ("function", value.__func__))
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value) if len(value) <= _MANY else ()
    elif isinstance(value, dict):
        items = enumerate(value.items()) if len(value) <= _MANY else ()
        yield from ((key if isinstance(key, (str, int)) else place, item) for place, (key, item) in items)
    elif not isinstance(value, (type, ModuleType)) and type(value).__module__.split(".")[0] != "ignition":
        own = _BOOKKEEPING if isinstance(value, nn.Module) else ()
        with suppress(Exception):  # what stands for another object may have none yet, and says so in its own way
            yield from [(name, item) for name, item in vars(value).items() if name not in own]
        yield from _methods(type(value))  # type: ignore[arg-type]  # a class can be hashed


@lru_cache(maxsize=1000)
def _methods(kind: type) -> list[tuple[str, FunctionType]]:
    """The functions by which an object is called, where they are Python's."""
    methods = ((name, inspect.getattr_static(kind, name, None)) for name in _CALLED)
    return [(name, method) for name, method in methods if isinstance(method, FunctionType)]


def _variables(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The variables that a function names, as do the functions inside it; not those of libraries."""
    function = inspect.unwrap(function)
    if not isinstance(function, FunctionType) or str(function.__module__).split(".")[0] in _LIBRARIES:
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not bound yet
            continue
    yield from (("defaults", function.__defaults__), ("keywords", function.__kwdefaults__))
    for name in dict.fromkeys(_names(function.__code__)):
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
