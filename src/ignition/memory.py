"""Objects as they were, to the bit: remembered in memory, and put back in place.

A checkpoint makes a training that goes on the same. This is for the other case: the very objects that are there
now, which functions hold on to, are to be what they were.
"""

from __future__ import annotations

import copy
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from ignition.errors import ArgumentError
from ignition.types import MetricObject, Stateful

__all__ = ["Memory", "has_memory"]

_CONTAINERS = {dict, list, tuple, set, frozenset, deque, OrderedDict, defaultdict}
"""What has no memory of its own beside its items: to ask takes long, and a module has a dozen of them."""


def has_memory(value: Any) -> bool:
    """Whether an object changes as it is used, and can be asked for what it holds: a module, an optimizer, ..."""
    if isinstance(value, (type, DataLoader)):
        return False
    return isinstance(value, (nn.Module, Optimizer, LRScheduler, Stateful, MetricObject))


class Memory:
    """What objects hold now, so that they can be given it back.

    Goes into modules, optimizers, schedulers, metrics and all else that has a state dict, into dicts, lists, tuples,
    sets and deques. Tensors keep their identity and their memory, and get back their values, gradients and whether
    they need any. Copies are kept on the CPU. Generators get back their state.

    Args:
        roots: Objects to remember; what they refer to is remembered with them.
        lazy: Whether lazy parameters, which have no values yet, may be among it: they have none again afterwards. The
            modules that they belong to must not be called meanwhile.

    Raises:
        ArgumentError: If there is a lazy parameter where none may be.
    """

    def __init__(self, roots: Iterable[Any], lazy: bool = False) -> None:
        self._lazy = lazy
        self._restorers: list[Callable[[], object]] = []
        self._known: dict[int, Any] = {}  # by id; the objects themselves too, so that no id is used again
        for root in roots:
            self.add(root)

    def restore(self) -> None:
        """Puts everything back; may be called any number of times."""
        for restore in self._restorers:
            restore()

    def add(self, value: Any) -> None:
        """Remembers one more object, and what it refers to."""
        if id(value) in self._known or value is None or isinstance(value, (bool, int, float, str, bytes)):
            return
        self._known[id(value)] = value
        if isinstance(value, Tensor):
            self._add_tensor(value)
        elif isinstance(value, np.ndarray):
            self.then(_array_restorer(value))
        elif isinstance(value, (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)):
            self.then(_generator_restorer(value))
        elif type(value) not in _CONTAINERS and has_memory(value):
            self._add_object(value)
        elif isinstance(value, (dict, list, set, deque)):
            self.add_shallow(value)
            for item in value.values() if isinstance(value, dict) else value:
                self.add(item)
        elif isinstance(value, (tuple, frozenset)):
            for item in value:
                self.add(item)

    def add_attributes(self, value: Any) -> None:
        """Remembers which attributes an object has, and not what is in them."""
        if hasattr(value, "__dict__") and not isinstance(value, (type, ModuleType)):
            self.add_shallow(vars(value))

    def add_shallow(self, value: Any) -> None:
        """Remembers which items a dict, list, set or deque has, and not what is in them."""
        items = dict(value) if isinstance(value, dict) else list(value)
        put = value.update if isinstance(value, (dict, set)) else value.extend
        self.then(value.clear)
        self.then(lambda: put(items))

    def then(self, restore: Callable[[], object]) -> None:
        """Has something called when the rest is put back."""
        self._restorers.append(restore)

    def _add_object(self, value: Any) -> None:
        attributes = getattr(value, "__dict__", None)
        if attributes is not None:
            self.add(attributes)
        elif isinstance(value, Stateful):
            state = copy.deepcopy(value.state_dict())
            self.then(lambda: value.load_state_dict(copy.deepcopy(state)))

    def _add_tensor(self, value: Tensor) -> None:
        if is_lazy(value) and self._lazy:
            self.then(_lazy_restorer(value))
            return
        if is_lazy(value):
            raise ArgumentError(
                "the model has a lazy parameter, which has no shape before its first batch",
                expected="a model all of whose parameters have values, as they are to be put back",
                fix="run one batch through the model first: model(x)",
            )
        if value.is_inference() or value.device.type == "meta":
            return  # nothing outside inference_mode can change the first, and the second has no values
        data, gradient = value.data, value.grad if value.is_leaf else None
        content = data.detach().to("cpu", copy=True)
        needed = value.requires_grad
        self.add(gradient)

        def restore() -> None:
            if value.data.shape != data.shape or value.data.dtype != data.dtype or value.device != data.device:
                value.data = data
            with torch.no_grad():
                _write(value.data if value.layout is torch.strided else value, content)  # data of a sparse one: a copy
            if value.is_leaf:
                value.requires_grad_(needed)
                value.grad = gradient

        self.then(restore)


def _lazy_restorer(value: Any) -> Callable[[], object]:
    kind, data = type(value), value.data

    def restore() -> None:
        if type(value) is not kind:  # it has been given values
            value.data = data
            value.__class__ = kind

    return restore


def _write(tensor: Tensor, content: Tensor) -> None:
    """Copies into a tensor, of an expanded one only what really is there."""
    if tensor.layout is torch.strided:
        for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
            if size > 1 and stride == 0:
                tensor, content = tensor.narrow(axis, 0, 1), content.narrow(axis, 0, 1)
    tensor.copy_(content)


def _array_restorer(array: np.ndarray[Any, Any]) -> Callable[[], object]:
    content = array.copy()

    def restore() -> None:
        if array.flags.writeable:
            array[...] = content

    return restore


def _generator_restorer(generator: Any) -> Callable[[], object]:
    if isinstance(generator, torch.Generator):
        state = generator.get_state()
        return lambda: generator.set_state(state)
    if isinstance(generator, np.random.Generator):
        now = generator.bit_generator.state
        return lambda: setattr(generator.bit_generator, "state", now)
    if isinstance(generator, np.random.RandomState):
        legacy = generator.get_state()
        return lambda: generator.set_state(legacy)
    plain = generator.getstate()
    return lambda: generator.setstate(plain)
