"""What a process says of its options and settings, so that the others can compare: the same text for the same thing."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ignition.structure import named

__all__ = ["memory_of", "plainly", "settings_of", "sum_of_all", "weights_of"]


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


def sum_of_all(tensors: Iterable[Tensor]) -> float:
    """The sum of all numbers in some tensors: the same where they hold the same. Waits for accelerators.

    Those of types that torch cannot add up count nothing.

    Example:
        >>> sum_of_all([torch.ones(2), torch.tensor([1 + 2j])])
        5.0
    """
    sums = []
    for one in tensors:
        values = one.detach()
        values = values.coalesce().values() if values.is_sparse else values
        values = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
        with contextlib.suppress(RuntimeError, TypeError):
            sums.append(values.sum(dtype=torch.float64).cpu())
    return torch.stack(sums).sum().item() if sums else 0.0


def weights_of(models: Any) -> dict[str, Any]:
    """What the parameters of models hold, by the models' names; of sharded ones each process has its rows alone."""
    return {
        name: plainly(
            sum_of_all(one for one in model.parameters() if not (hasattr(one, "device_mesh") or is_lazy(one)))
        )
        for name, model in named(models).items()
        if isinstance(model, nn.Module)
    }


def memory_of(optimizers: Any) -> dict[str, Any]:
    """What optimizers remember, by their names: of how many parameters, and what it adds up to."""
    found: dict[str, Any] = {}
    for name, optimizer in named(optimizers).items():
        state = getattr(optimizer, "state", None)
        states = [one for one in state.values() if isinstance(one, Mapping)] if isinstance(state, Mapping) else []
        values = [value for state in states for value in state.values()]
        tensors = [one for one in values if isinstance(one, Tensor) and not hasattr(one, "device_mesh")]
        found[name] = [len(states), plainly(sum_of_all(tensors))]
    return found


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
