"""A stand-in for an accelerator, which counts how often it is waited for; it needs no hardware."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class OnDevice(Tensor):
    """A tensor that passes for one on an accelerator, while what it holds is on the CPU."""

    @staticmethod
    def __new__(cls, held):
        return Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device="meta")

    def __init__(self, held):
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError("used outside of its device")


class Accelerator(TorchDispatchMode):
    """Runs the operations of `OnDevice` tensors, and counts what a real accelerator would be waited for."""

    waits = 0

    def tensor(self, *args, **kwargs):
        return OnDevice(torch.tensor(*args, **kwargs))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        there = any(issubclass(kind, OnDevice) for kind in types)
        device = kwargs.get("device")
        if device is not None:
            there = device.type == "meta"
            kwargs["device"] = torch.device("cpu")
        if function is torch.ops.aten._local_scalar_dense.default:
            self.waits += there
            there = False
        elif function is torch.ops.aten._to_copy.default and device is not None:
            self.waits += there is not isinstance(args[0], OnDevice)  # in either direction
        args, kwargs = tree_map_only(OnDevice, lambda tensor: tensor.held, (args, kwargs))
        result = function(*args, **kwargs)
        if not there:
            return result
        return tree_map_only(Tensor, OnDevice, result)
