"""What a function changes in Python when it is called: things outside itself, and random generators on the CPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from ignition import rng
from ignition.generators import by_place, state_of, walk

__all__ = ["SideEffects"]

_CONTAINERS = (list, dict, set, deque)
_NOTHING = object(), None


class SideEffects:
    """Looks at what functions can reach, and later says what of it is another object than before.

    Seen are variables that the functions name, attributes and items, a few steps deep; not what is written into a
    tensor or an array in place.

    Args:
        roots: Functions, and whatever else they may write to, by name.
    """

    def __init__(self, roots: Mapping[str, Any]) -> None:
        self._roots = roots
        self._before = self._look()
        self._drawn = self._generators()

    def found(self) -> list[str]:
        """What has changed since, in words: ``["train_fn.count"]``; each once, and what is nearest first."""
        after = self._look()
        changed = [
            name
            for name in {**self._before, **after}
            if not _is_same(self._before.get(name, _NOTHING), after.get(name, _NOTHING))
        ]
        # Of a list that has grown, the list says it all.
        changed = [name for name in changed if not any(name.startswith(f"{other}.") for other in changed)]
        drawn = self._generators()
        return changed + [name for name, state in drawn.items() if not _is_equal(state, self._drawn.get(name))]

    def _look(self) -> dict[str, tuple[Any, int | None]]:
        """Every value that is reached, by the way to it, with its length where it may grow."""
        return {
            name: (value, len(value) if isinstance(value, _CONTAINERS) else None)
            for name, value in walk(self._roots, leave_out=(Optimizer,))
        }

    def _generators(self) -> dict[str, Any]:
        shared = {
            f"the random numbers of {name}": state
            for name, state in rng.capture().items()
            if name in ("python", "numpy", "torch")
        }
        own = by_place(self._roots)
        return shared | {f"the generator {name}": state_of(one) for name, one in own.items() if not _is_there(one)}


def _is_there(generator: Any) -> bool:
    """Whether a generator is on an accelerator."""
    return isinstance(generator, torch.Generator) and generator.device.type != "cpu"


def _is_same(before: tuple[Any, int | None], after: tuple[Any, int | None]) -> bool:
    return before[0] is after[0] and before[1] == after[1]


def _is_equal(state: Any, other: Any) -> bool:
    return torch.equal(state, other) if isinstance(state, torch.Tensor) else repr(state) == repr(other)
