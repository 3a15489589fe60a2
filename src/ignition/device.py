"""Where tensors live: the default device, and how batches and arrays get there."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, MutableMapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ignition.errors import ArgumentError
from ignition.running import running
from ignition.structure import named

__all__ = ["as_device", "default_device", "device_of", "make_var", "move", "move_model", "tensors_in"]


@cache
def default_device() -> torch.device:
    """The accelerator (CUDA, MPS, XPU, ...) if this machine has one, else the CPU.

    Example:
        >>> default_device().type in {"cpu", "cuda", "mps", "xpu"}
        True
    """
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    return _with_index(torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu"))


def as_device(device: str | torch.device) -> torch.device:
    """``"auto"``, a name or a device as one that is there, with its index.

    Raises:
        ArgumentError: If torch does not know the name, or this machine has no such device.
    """
    if isinstance(device, str) and device == "auto":
        return default_device()
    try:
        found = _with_index(torch.device(device))
        torch.empty(0, device=found)  # asks the driver, which a name alone does not
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise ArgumentError(
            f"device={device!r} cannot be used here ({str(error).splitlines()[0]})",
            expected='"auto" or a device that this machine has, such as "cpu"',
            fix=f'pass device="auto", which is {default_device()} here',
        ) from error
    return found


def _with_index(device: torch.device) -> torch.device:
    """``cuda`` as ``cuda:0``: a tensor's own device has the index, and the two would not be equal without it."""
    if device.index is not None or device.type in ("cpu", "meta"):
        return device
    return torch.empty(0, device=device).device


def device_of(model: Any) -> torch.device:
    """The device of the first parameter or buffer of a model or a structure of models; the CPU without any."""
    for module in named(model).values():
        if isinstance(module, nn.Module):
            for tensor in (*module.parameters(), *module.buffers()):
                return tensor.device
    return torch.device("cpu")


def move_model(model: Any, optimizer: Any, device: torch.device) -> None:
    """Moves models in place, and the state of their optimizers after them."""
    if device_of(model) == device:
        return
    for module in named(model).values():
        module.to(device)
    for one in named(optimizer).values():
        if getattr(one, "state", None):
            one.load_state_dict(one.state_dict())  # puts each entry where its parameter is now


def make_var(x: Any, dtype: torch.dtype | None = None) -> Tensor:
    """Turns an array, a number, a list or a tensor into a tensor on the device of the run.

    Inside a train, eval or predict function that is the run's device, elsewhere `default_device`. A tensor that
    is there already is returned as it is.

    Args:
        x: A numpy array ``(...)``, a number, a nested list of numbers, or a tensor ``(...)``.
        dtype: The type of the result; by default that of `x` (a Python float has torch's default type).

    Returns:
        A tensor of the same shape. It may share its memory with a numpy array.

    Raises:
        ArgumentError: If `x` is nothing that a tensor can be made of.

    Example:
        >>> make_var(np.zeros((2, 3))).dtype
        torch.float64
    """
    run = running.get()
    device = default_device() if run is None else run.device
    if not isinstance(x, Tensor):
        if isinstance(x, np.ndarray) and not (x.flags.writeable and all(stride >= 0 for stride in x.strides)):
            x = x.copy()  # torch takes neither without a warning or an error
        try:
            x = torch.as_tensor(x)  # shares the memory of an array
        except (TypeError, ValueError, RuntimeError) as error:
            raise ArgumentError(
                f"make_var was given {type(x).__name__}: {str(error).splitlines()[0]}",
                expected="a number, a nested list of numbers, a numpy array of numbers, or a tensor",
            ) from error
    tensor: Tensor = x
    return tensor.to(device=device, dtype=dtype)  # returns x itself where there is nothing to change


def move(value: Any, device: torch.device) -> Any:
    """The same nesting with every tensor on `device`.

    Goes through tuples, named tuples, lists, dicts and dataclasses; an object with a ``to`` method of its own
    (a packed sequence, a graph, a tokenizer's batch) is asked to move itself; all else stays as it is.
    """
    if isinstance(value, Tensor):
        # Only towards an accelerator: a copy to the CPU that is not waited for would be read too early.
        return value.to(device, non_blocking=device.type != "cpu")
    kind = type(value)
    if kind is tuple or kind is list:
        return kind(move(item, device) for item in value)
    if kind is dict:
        return {name: move(item, device) for name, item in value.items()}
    if callable(getattr(value, "to", None)) and not isinstance(value, nn.Module):
        moved = value.to(device)
        return value if moved is None else moved
    if isinstance(value, tuple):
        items = [move(item, device) for item in value]
        return kind(*items) if hasattr(value, "_fields") else kind(items)
    renewed: Any
    if isinstance(value, list):
        renewed = copy.copy(value)  # keeps the class, and what the object holds besides its items
        renewed[:] = [move(item, device) for item in value]
        return renewed
    if isinstance(value, MutableMapping):
        renewed = copy.copy(value)
        for name in value:
            renewed[name] = move(value[name], device)
        return renewed
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        renewed = copy.copy(value)
        for field in dataclasses.fields(value):
            # Past __setattr__, so that frozen dataclasses are moved too.
            object.__setattr__(renewed, field.name, move(getattr(value, field.name), device))
        return renewed
    return value


def tensors_in(value: Any) -> Iterable[Tensor]:
    """The tensors of a nesting, depth first, in the order of its items."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))
