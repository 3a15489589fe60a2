"""What a process says of its options and settings, so that the others can compare: the same text for the same thing."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ignition.structure import named

__all__ = ["plainly", "settings_of"]


def plainly(value: Any) -> Any:
    """A value as JSON can hold it, without addresses and whatever else differs from process to process.

    Example:
        >>> plainly({"backend": print, "rates": (0.1, float("inf")), "kind": torch.float16})
        {'backend': 'print', 'rates': [0.1, 'inf'], 'kind': 'torch.float16'}
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, numbers.Real):  # numpy's too
        return float(value) if math.isfinite(value) else str(float(value))  # no NaN is equal to another
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if isinstance(value, Tensor):
        return plainly(value.item()) if value.numel() == 1 else f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return {str(key): plainly(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plainly(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: plainly(getattr(value, one.name)) for one in dataclasses.fields(value)}
        return {"": type(value).__name__} | fields
    return getattr(value, "__qualname__", type(value).__qualname__)


def settings_of(optimizers: Any) -> dict[str, Any]:
    """What is set of each group of parameters, such as its learning rate, by where it stands.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> settings_of(optimizer)["optimizer.param_groups[0]['lr']"]
        0.1
    """
    return {
        f"optimizer{f'[{name!r}]' if name else ''}.param_groups[{index}][{key!r}]": plainly(value)
        for name, optimizer in named(optimizers).items()
        for index, group in enumerate(getattr(optimizer, "param_groups", ()))
        for key, value in group.items()
        if key != "params"
    }
