"""Where tensors live: the default device, and how batches and arrays get there."""

from __future__ import annotations

import copy
import dataclasses
from collections import UserDict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ignition import distributed
from ignition.errors import ArgumentError
from ignition.running import running
from ignition.structure import named

__all__ = ["as_device", "default_device", "device_of", "make_var", "move", "move_model", "tensors_in"]


@cache
def default_device() -> torch.device:
    """The accelerator (CUDA, MPS, XPU, ...) if this machine has one, else the CPU.

    Returns:
        The device, with its index where it has one: ``cuda:0``; of several processes on a machine each has one of its
        own. Found once in a process.

    Example:
        >>> default_device().type in {"cpu", "cuda", "mps", "xpu"}
        True
    """
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    accelerator = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if distributed.world_size() > 1:  # one for each process of this machine
        return torch.device(accelerator.type, distributed.local_rank() % torch.accelerator.device_count())
    return _with_index(accelerator)


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
            f"device={device!r} cannot be used here ({_first_line(error)})",
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
    elsewhere = [module for module in named(model).values() if _is_elsewhere(module, device)]
    if not elsewhere:
        return
    for module in elsewhere:
        module.to(device)
    for one in named(optimizer).values():
        if getattr(one, "state", None):
            one.load_state_dict(one.state_dict())  # puts each entry where its parameter is now


def _is_elsewhere(module: nn.Module, device: torch.device) -> bool:
    """Whether a model is to be moved. One spread over several devices of that type is so on purpose."""
    devices = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
    return any(one.type != device.type for one in devices) or (len(devices) == 1 and device not in devices)


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
        ArgumentError: If `x` is nothing that a tensor can be made of, or `dtype` no type of torch.

    Example:
        >>> make_var(np.zeros((2, 3))).dtype
        torch.float64
    """
    run = running.get()
    device = default_device() if run is None else run.device
    if not isinstance(x, Tensor):
        if isinstance(x, np.ndarray) and not _can_be_shared(x):
            x = np.array(x, dtype=x.dtype.newbyteorder("="), order="C")
        try:
            x = torch.as_tensor(x)  # shares the memory of an array
        except (TypeError, ValueError, RuntimeError) as error:
            raise ArgumentError(
                f"make_var was given {type(x).__name__}: {_first_line(error)}",
                expected="a number, a nested list of numbers, a numpy array of numbers, or a tensor",
                fix="make one of those of it first, for example with numpy.stack or torch.stack",
            ) from error
    tensor: Tensor = x
    try:
        return tensor.to(device=device, dtype=dtype)  # returns x itself where there is nothing to change
    except TypeError as error:
        raise ArgumentError(
            f"make_var was given dtype={dtype!r}",
            expected="a torch.dtype, or None for the type of what is given",
            fix="for example make_var(x, dtype=torch.float32)",
        ) from error


def _can_be_shared(array: np.ndarray[Any, Any]) -> bool:
    """Whether torch takes the array as it is; of others it warns, or refuses them."""
    return array.flags.writeable and array.dtype.isnative and all(stride >= 0 for stride in array.strides)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def move(value: Any, device: torch.device) -> Any:
    """The same nesting with every tensor on `device`.

    Goes through tuples, named tuples, lists, dicts and other mappings, and dataclasses; an object with a ``to``
    method of its own (a packed sequence, a graph, a tokenizer's batch) is asked to move itself; all else stays as
    it is. What was given is not changed, unless by such a ``to``.
    """
    if isinstance(value, Tensor):
        # Only towards an accelerator: a copy to the CPU that is not waited for would be read too early.
        return value.to(device, non_blocking=device.type != "cpu")
    kind = type(value)
    if kind is tuple or kind is list:
        return kind(move(item, device) for item in value)
    if kind is dict:
        return {name: move(item, device) for name, item in value.items()}
    if callable(getattr(value, "to", None)) and not isinstance(value, (nn.Module, type)):
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
    if isinstance(value, (dict, UserDict)):
        renewed = copy.copy(value)  # a default factory and other attributes included
        for name in value:
            renewed[name] = move(value[name], device)
        return renewed
    if isinstance(value, Mapping):
        moved = {name: move(item, device) for name, item in value.items()}
        try:
            return kind(moved)
        except TypeError:  # not made from a dict: at least it reads the same
            return moved
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        renewed = copy.copy(value)
        for name, item in _fields_of(value):
            object.__setattr__(renewed, name, move(item, device))  # past __setattr__, which a frozen one forbids
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
        for _, item in _fields_of(value):
            yield from tensors_in(item)


def _fields_of(value: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a dataclass object that are set."""
    for field in dataclasses.fields(value):
        if hasattr(value, field.name):
            yield field.name, getattr(value, field.name)
