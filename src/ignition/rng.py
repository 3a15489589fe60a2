"""Random generators: seeding them, keeping and putting back their states, and randomness that follows a key.

Three generators count: Python's ``random``, numpy's global one, and torch's (the CPU's and each accelerator's).
"""

from __future__ import annotations

import ctypes
import hashlib
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from ignition.errors import ArgumentError

__all__ = [
    "capture",
    "check_seed",
    "generators_of",
    "key_of",
    "keyed",
    "keyed_blocks",
    "reseed",
    "restore",
    "seed_everything",
    "seed_fetching",
]

_SEEDS = 2**63  # torch takes signed 64-bit seeds; numpy's global generator 32 bits of them


def check_seed(seed: Any) -> int:
    """`seed` itself, if it can be one.

    Raises:
        ArgumentError: If it is no integer from 0 to 2**63 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < _SEEDS:
        raise ArgumentError(f"seed={seed!r}", expected="an integer from 0 to 2**63 - 1", fix="for example seed=0")
    return int(seed)


def seed_everything(seed: int) -> None:
    """Seeds Python's, numpy's and torch's generators, those of all accelerators included.

    Args:
        seed: An integer from 0 to 2**63 - 1.

    Raises:
        ArgumentError: If `seed` is no such integer.

    Example:
        >>> seed_everything(0); a = torch.rand(3)
        >>> seed_everything(0); bool((a == torch.rand(3)).all())
        True
    """
    seed = check_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def capture() -> dict[str, Any]:
    """The states of all generators, for `restore`."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        # Copies each device's state to the CPU: waits on the accelerator.
        states[accelerator.type] = torch.get_device_module(accelerator).get_rng_state_all()
    return states


def restore(states: dict[str, Any]) -> None:
    """Puts all generators back to what `capture` returned."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None and accelerator.type in states:
        torch.get_device_module(accelerator).set_rng_state_all(states[accelerator.type])


def key_of(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part, and in which neighbours have nothing in common.

    Example:
        >>> key_of(0, "order", 1) == key_of(0, "order", 1), key_of(0, "order", 1) == key_of(0, "order", 2)
        (True, False)
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % _SEEDS


def seed_fetching(key: int) -> None:
    """Seeds the generators that a data set draws from, all on the CPU: a tenth of what `seed_everything` costs."""
    random.seed(key)
    np.random.seed(key % 2**32)
    torch.default_generator.manual_seed(key)


def generators_of(value: Any, depth: int = 3) -> Iterator[Any]:
    """The generators that an object keeps as attributes: torch's, numpy's and Python's.

    Goes into objects and short lists among the attributes (a data set's transforms), `depth` levels down.
    """
    if isinstance(value, (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)):
        yield value
    elif depth and isinstance(value, (list, tuple)) and len(value) <= 64:
        for item in value:
            yield from generators_of(item, depth - 1)
    elif depth and hasattr(value, "__dict__") and not isinstance(value, (type, torch.Tensor)):
        for item in list(vars(value).values()):
            yield from generators_of(item, depth - 1)


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


@contextmanager
def keyed(key: int) -> Iterator[None]:
    """Inside the ``with`` block the CPU generators follow `key`; afterwards they are where they were.

    Args:
        key: As `key_of` returns it.
    """
    put_back = _kept(())
    seed_fetching(key)
    try:
        yield
    finally:
        put_back()


def keyed_blocks(key: int, generators: Sequence[torch.Generator] = ()) -> Callable[[], AbstractContextManager[None]]:
    """Makes ``with`` blocks as of `keyed`, of which each goes on with the generators where the one before it ended.

    Args:
        key: As `key_of` returns it.
        generators: Others than the CPU's that are to do the same.
    """

    def begin() -> None:
        seed_fetching(key)
        for generator in generators:
            generator.manual_seed(key)

    go_on: Callable[[], None] = begin

    @contextmanager
    def block() -> Iterator[None]:
        nonlocal go_on
        put_back = _kept(generators)
        go_on()
        try:
            yield
        finally:
            go_on = _kept(generators)
            put_back()

    return block


def _kept(generators: Sequence[torch.Generator]) -> Callable[[], None]:
    """Keeps the states of the CPU generators and of some others, and returns what puts them back."""
    python, put_numpy_back = random.getstate(), _kept_numpy()
    states = [(generator, generator.get_state()) for generator in (torch.default_generator, *generators)]

    def put_back() -> None:
        random.setstate(python)
        put_numpy_back()
        for generator, state in states:
            generator.set_state(state)

    return put_back


_WORDS = 624 * 4
_STATE = _WORDS + ctypes.sizeof(ctypes.c_int)  # the Mersenne twister's words in bytes, and the place among them


def _kept_numpy() -> Callable[[], Any]:
    """Keeps the state of numpy's global generator, and returns what puts it back.

    `np.random.get_state` and `set_state` take the words one by one, which costs more than all else in `keyed`. So they
    are copied as memory, where that is what it should be. The second of a pair of normal numbers, which numpy keeps
    outside the words, shows by drawing one: with it there no word changes.
    """
    generator = np.random.get_bit_generator()  # type: ignore[attr-defined]  # not in numpy's stubs
    if type(generator) is not np.random.MT19937 or not _is_plain_memory():
        return partial(np.random.set_state, np.random.get_state())
    words = ctypes.string_at(generator.ctypes.state_address, _STATE)
    second = np.random.standard_normal()
    if ctypes.string_at(generator.ctypes.state_address, _STATE) == words:
        state: Any = np.random.get_state()
        return partial(np.random.set_state, (*state[:3], 1, second))

    def put_back() -> None:
        np.random.seed(0)  # forgets a second normal number
        ctypes.memmove(generator.ctypes.state_address, words, _STATE)  # holds it: its memory is still there

    return put_back


@cache
def _is_plain_memory() -> bool:
    """Whether the state of a Mersenne twister is laid out in this numpy as `_kept_numpy` takes it to be."""
    generator = np.random.MT19937(0)
    np.random.RandomState(generator).bytes(40)
    memory = ctypes.string_at(generator.ctypes.state_address, _STATE)
    state = generator.state["state"]
    place = int.from_bytes(memory[_WORDS:], sys.byteorder)
    return memory[:_WORDS] == state["key"].astype(np.uint32).tobytes() and place == state["pos"]
