"""Optimizers while a step of theirs is captured: what changes from step to step is on the accelerator then."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

__all__ = ["CapturableOptimizers", "why_not"]


def why_not(optimizers: Iterable[Any]) -> str | None:
    """Why the steps of one of these cannot be captured; None where they can.

    A captured step reads learning rate and step number on the accelerator. Those of torch's optimizers can that have an
    option ``capturable``, and so can SGD where it is fused.
    """
    for one in optimizers:
        groups = one.param_groups if isinstance(one, Optimizer) else []
        if isinstance(one, Optimizer) and all("capturable" in group for group in groups):
            continue
        if type(one) is SGD and all(_is_fusible(parameter) for group in groups for parameter in group["params"]):
            continue
        return f"{type(one).__name__} has no capturable step (SGD and Adam's kin have, for floating-point parameters)"
    return None


def _is_fusible(parameter: Tensor) -> bool:
    return parameter.is_cuda and parameter.is_floating_point()


class CapturableOptimizers:
    """Has optimizers step in a way that can be captured, and what they are seen to be otherwise stays plain.

    Between two steps their groups have the learning rates and options that the user gave them: schedules, history and
    checkpoints see numbers.

    Args:
        optimizers: Such as `why_not` has nothing against.
        device: Where their parameters are.
    """

    def __init__(self, optimizers: Iterable[Optimizer], device: torch.device) -> None:
        self._optimizers = list(optimizers)
        self._device = device
        self._rates: dict[int, tuple[dict[str, Any], Tensor]] = {}  # with the group, so that no id is used again
        self._values: dict[int, float] = {}
        for one in self._optimizers:
            # torch warns of steps that could be captured and are not, as the first ones are here.
            setattr(one, "_warned_capturable_if_run_uncaptured", True)  # noqa: B010

    def bring_rates(self) -> None:
        """Writes the learning rates that have changed to where captured steps read them; waits for nothing."""
        for one in self._optimizers:
            for group in one.param_groups:
                lr = group["lr"]
                if isinstance(lr, Tensor) and not lr.is_cpu:
                    continue  # a captured step reads the user's own
                value, known = float(lr), self._values.get(id(group), math.nan)
                if value != known:
                    self._rate(group).fill_(value)
                    self._values[id(group)] = value

    @contextmanager
    def capturable(self) -> Iterator[None]:
        """Inside the ``with`` block steps can be captured."""
        changed: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = []
        for one in self._optimizers:
            _move_step_numbers(one, self._device)
            for group in one.param_groups:
                inside: dict[str, Any] = (
                    {"capturable": True} if "capturable" in group else {"fused": True, "foreach": False}
                )
                if id(group) in self._rates:
                    inside["lr"] = self._rates[id(group)][1]
                changed.append((group, {name: group[name] for name in inside}, inside))
                group.update(inside)
        try:
            yield
        finally:
            for group, before, inside in changed:  # but for what the function has set itself
                group.update({name: value for name, value in before.items() if group[name] is inside[name]})

    def give_back(self) -> None:
        """Leaves the optimizers as if their steps had never been captured."""
        for one in self._optimizers:
            if not any(group.get("capturable") or group.get("fused") for group in one.param_groups):
                _move_step_numbers(one, torch.device("cpu"))

    def states(self) -> dict[tuple[int, str], Any]:
        """What the optimizers keep, by the parameter's id and by name."""
        return {
            (id(parameter), name): value
            for one in self._optimizers
            for parameter, state in one.state.items()
            for name, value in state.items()
        }

    def forget_new(self, before: dict[tuple[int, str], Any]) -> None:
        """Takes back what has come into the state since `states` was `before`."""
        for one in self._optimizers:
            for parameter, state in list(one.state.items()):
                for name in list(state):
                    if (id(parameter), name) in before:
                        state[name] = before[id(parameter), name]
                    else:
                        del state[name]
                if not state:
                    del one.state[parameter]

    def _rate(self, group: dict[str, Any]) -> Tensor:
        if id(group) not in self._rates:
            # Of the type that fused steps read.
            self._rates[id(group)] = group, torch.zeros((), dtype=torch.float32, device=self._device)
        return self._rates[id(group)][1]


def _move_step_numbers(optimizer: Optimizer, device: torch.device) -> None:
    for state in optimizer.state.values():
        number = state.get("step")
        if isinstance(number, Tensor) and number.device != device:
            state["step"] = number.to(device)
