"""What a captured step takes for granted, and what it reads anew: batches and hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["PLAIN", "Granted", "NotPlain", "Numbers", "form_of"]

PLAIN = (type(None), bool, int, float, str, bytes)


class Numbers:
    """Hyperparameters, those that are floats as tensors."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: dict[str, Tensor] = {}
        self._values: dict[str, float] = {}
        self._others: dict[int, Any] = {}  # so that no id is used again

    def bring(self, hyper: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Any, ...]]:
        """What the function is given, and what of it is fixed in a captured step.

        Floats are written, where they have changed, to where a captured step reads them; waits for nothing.
        """
        given: dict[str, Any] = {}
        fixed: list[Any] = []
        for name, value in hyper.items():
            if isinstance(value, (float, np.floating)):
                if name not in self._held:
                    self._held[name] = torch.zeros((), device=self._device)  # of the type that a loss has
                if self._values.get(name) != value:
                    self._held[name].fill_(float(value))
                    self._values[name] = float(value)
                given[name] = self._held[name]
                fixed.append(name)
            elif isinstance(value, PLAIN):
                given[name] = value
                fixed.append((name, type(value), value))
            else:
                given[name] = self._others[id(value)] = value
                fixed.append((name, id(value)))
        return given, tuple(fixed)


class Granted:
    """Where the tensors of models are, their modes, what is trained, and the optimizers' options."""

    def __init__(self, models: list[nn.Module], optimizers: list[Optimizer]) -> None:
        modules = [part for one in models for part in one.modules()]
        self._modes = [(part, part.training) for part in modules]
        self._tensors = [
            (held, name, tensor, tensor.requires_grad, tensor.data_ptr())
            for part in modules
            for held in (part._parameters, part._buffers)
            for name, tensor in held.items()
            if tensor is not None
        ]
        self._groups = [
            (one, place, group, len(group["params"]), _options(group))
            for one in optimizers
            for place, group in enumerate(one.param_groups)
        ]

    def changed(self) -> str | None:
        """What is not so any more, in words."""
        for part, mode in self._modes:
            if part.training is not mode:
                return "the mode of a layer"
        for held, name, tensor, is_trained, place in self._tensors:
            if held.get(name) is not tensor or tensor.data_ptr() != place:
                return f"the tensor {name!r} of a layer"
            if tensor.requires_grad is not is_trained:
                return "what is frozen"
        for one, place_of_group, group, count, items in self._groups:
            groups = one.param_groups
            if place_of_group >= len(groups) or groups[place_of_group] is not group or len(group["params"]) != count:
                return "the optimizer's groups"
            for name, value in items:
                now = group.get(name)
                if now is not value and (isinstance(now, Tensor) or now != value):
                    return f"{name!r} of the optimizer"
        return None


def _options(group: dict[str, Any]) -> list[tuple[str, Any]]:
    """All but the learning rate, which a captured step reads anew."""
    return [(name, value) for name, value in group.items() if name not in ("lr", "params")]


class NotPlain(Exception):
    """A batch holds something that may hold tensors out of sight."""


def form_of(value: Any) -> Any:
    """What of a batch must be the same for a graph to be replayed: all but the tensors' elements."""
    kind = type(value)
    if kind is Tensor:
        return value.shape, value.dtype
    if kind is tuple or kind is list:
        return kind, *map(form_of, value)
    if kind is dict:
        return kind, *((name, form_of(item)) for name, item in value.items())
    if kind in PLAIN:
        return kind, value
    raise NotPlain(f"{kind.__name__}")
