"""Optimizers from outside: their learning rates, and which of them take steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from ignition.errors import ArgumentError
from ignition.running import running
from ignition.structure import named, suffix

__all__ = ["learning_rates", "set_lr", "watch_steps"]


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Sets the learning rate of every parameter group.

    Args:
        optimizer: A torch optimizer.
        lr: The new learning rate, finite and 0 or more.

    Raises:
        ArgumentError: If `optimizer` is no optimizer, or `lr` no such number.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> set_lr(optimizer, 0.01)
        >>> optimizer.param_groups[0]["lr"]
        0.01
    """
    if not isinstance(optimizer, Optimizer):
        raise ArgumentError(
            f"set_lr was given {type(optimizer).__name__}",
            expected="a torch.optim.Optimizer",
            fix="set_lr(optimizer, 0.01), once for each of several optimizers",
        )
    if isinstance(lr, bool) or not isinstance(lr, Real) or not 0 <= lr < math.inf:
        raise ArgumentError(
            f"set_lr was given lr={lr!r}",
            expected="a finite number of 0 or more",
            fix="for example set_lr(optimizer, 0.01)",
        )
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)  # in place: a captured or compiled step reads this very tensor
        else:
            group["lr"] = float(lr)


def learning_rates(optimizer: Any) -> dict[str, float]:
    """The columns ``lr`` or ``lr_name`` of history: the learning rate of each optimizer's first group."""
    rates = {}
    for name, one in named(optimizer).items():
        groups = getattr(one, "param_groups", None)
        if groups and "lr" in groups[0]:
            rates[f"lr{suffix(name)}"] = float(groups[0]["lr"])
    return rates


@contextmanager
def watch_steps(optimizer: Any = None) -> Iterator[list[Optimizer]]:
    """Collects, inside the ``with`` block, the optimizers that take a step for the current run.

    Args:
        optimizer: Those that the run knows: they count from any thread. Others do only where the run is the current
            one: not in a thread that trains something else, nor in a Trainer inside this one.
    """
    stepped: list[Optimizer] = []
    run, known = running.get(), list(named(optimizer).values())

    def note(stepping: Optimizer, args: Any, kwargs: Any) -> None:
        if running.get() is not run and all(stepping is not one for one in known):
            return
        if all(stepping is not one for one in stepped):
            stepped.append(stepping)

    hook = register_optimizer_step_post_hook(note)
    try:
        yield stepped
    finally:
        hook.remove()
