"""Random generators: seeding them, keeping and putting back their states, and randomness that follows a key.

Three generators count: Python's ``random``, numpy's global one, and torch's (the CPU's and each accelerator's).
"""

from __future__ import annotations

import ctypes
import hashlib
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from ignition.errors import ArgumentError
from ignition.generators import by_place, put_back, put_back_by_place, reseed, state_of
from ignition.structure import by_class, named

__all__ = [
    "Generators",
    "capture",
    "check_seed",
    "key_of",
    "keyed",
    "keyed_blocks",
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


def capture(accelerators: bool = True) -> dict[str, Any]:
    """The states of all generators, or of those on the CPU alone, for `restore`."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    accelerator = torch.accelerator.current_accelerator(check_available=True) if accelerators else None
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


class Generators:
    """All generators of a training: the three, and those that its functions, models and callbacks keep for themselves.

    Args:
        trainer: What has ``train_fn``, ``eval_fn``, ``model`` and ``callbacks``.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._own: dict[str, Any] | None = None

    def look_again(self) -> None:
        """Has the next `capture` look for those that are kept: the functions may be others now."""
        self._own = None

    def capture(self) -> dict[str, Any]:
        """The states of all of them."""
        if self._own is None:
            self._own = self._found()
        kept = {place: (type(one).__name__, state_of(one)) for place, one in self._own.items()}
        return capture() | {"kept": kept}

    def restore(self, states: dict[str, Any]) -> None:
        """Puts them back to what `capture` returned; warns of one that is there no more."""
        self._own = self._found()
        restore(states)
        put_back_by_place(self._own, states.get("kept", {}))

    def _found(self) -> dict[str, Any]:
        roots = {"train_fn": self._trainer.train_fn, "eval_fn": self._trainer.eval_fn}
        roots |= {f"callbacks.{name}": one for name, one in by_class(self._trainer.callbacks)}
        roots |= {f"on.{event}.{place}": one for place, (event, one) in enumerate(self._trainer._functions)}
        for name, model in named(self._trainer.model).items():
            roots |= {".".join(filter(None, ("model", name, path))): one for path, one in model.named_modules()}
        return by_place(roots)


def key_of(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part, and in which neighbours have nothing in common.

    Example:
        >>> key_of(0, "order", 1) == key_of(0, "order", 1), key_of(0, "order", 1) == key_of(0, "order", 2)
        (True, False)
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % _SEEDS


def seed_fetching(key: int, others: Iterable[Any] = ()) -> None:
    """Seeds the generators that a data set draws from, all on the CPU: a tenth of what `seed_everything` costs.

    Others that it keeps get keys of their own, so that no two of them draw the same numbers.
    """
    random.seed(key)
    np.random.seed(key % 2**32)
    torch.default_generator.manual_seed(key)
    for place, generator in enumerate(others):
        reseed(generator, key_of(key, place))


@contextmanager
def keyed(key: int, generators: Sequence[Any] = ()) -> Iterator[None]:
    """Inside the ``with`` block the CPU generators follow `key`; afterwards they are where they were.

    Args:
        key: As `key_of` returns it.
        generators: Others that are to do the same: torch's, numpy's or Python's.
    """
    as_they_were = _kept(generators)
    seed_fetching(key, generators)
    try:
        yield
    finally:
        as_they_were()


def keyed_blocks(key: int, generators: Sequence[Any] = ()) -> Callable[[], AbstractContextManager[None]]:
    """Makes ``with`` blocks as of `keyed`, of which each goes on with the generators where the one before it ended.

    Args:
        key: As `key_of` returns it.
        generators: Others than the CPU's that are to do the same.
    """
    go_on: Callable[[], None] = partial(seed_fetching, key, generators)

    @contextmanager
    def block() -> Iterator[None]:
        nonlocal go_on
        as_they_were = _kept(generators)
        go_on()
        try:
            yield
        finally:
            go_on = _kept(generators)
            as_they_were()

    return block


def _kept(generators: Sequence[Any]) -> Callable[[], None]:
    """Keeps the states of the CPU generators and of some others, and returns what puts them back."""
    python, put_numpy_back, state = random.getstate(), _kept_numpy(), torch.default_generator.get_state()
    others = [(generator, state_of(generator)) for generator in generators]

    def restored() -> None:
        random.setstate(python)
        put_numpy_back()
        torch.default_generator.set_state(state)
        for generator, kept in others:
            put_back(generator, kept)

    return restored


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
