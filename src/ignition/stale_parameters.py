"""Parameters of a model from before it was sharded: whoever still uses them is told so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ignition.errors import OptimizerError

__all__ = ["StaleParameter", "retire"]

_DESCRIBES = {
    *(getattr(Tensor, name) for name in ("numel", "nelement", "size", "dim", "stride", "element_size")),
    *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "requires_grad")),
}
"""What is as true of it as it was before."""


class StaleParameter(nn.Parameter):
    """A parameter that its model has no more: an optimizer would step it, and a norm count it, without any effect.

    Its shape and type can be asked for. All else is an error.
    """

    _ignition_path: str

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What torch calls in the place of any function that gets one."""
        if function in _DESCRIBES:
            with torch._C.DisableTorchFunctionSubclass():
                return function(*args, **(kwargs or {}))
        return _refuse(args)


def retire(parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Makes parameters stale, in place, and lets go of their values.

    Args:
        parameters: Each with the name that it had.
    """
    for path, parameter in parameters:
        if isinstance(parameter, StaleParameter):  # under another name: it was tied
            continue
        parameter.grad = None
        parameter.data = parameter.data.new_zeros(()).expand(parameter.shape)
        vars(parameter)["_ignition_path"] = path
        parameter.__class__ = StaleParameter


def _refuse(args: Iterable[Any]) -> NoReturn:
    given = [one for item in args for one in (item if isinstance(item, (list, tuple)) else [item])]
    path = next((one._ignition_path for one in given if isinstance(one, StaleParameter)), "?")
    raise OptimizerError(
        f"the parameter {path} is used as it was before FSDP has split the model; the model has others now, and this "
        "one is trained no more",
        expected="an optimizer that the Trainer was given, and a list of parameters that was made after",
        fix="give the Trainer each optimizer, Trainer(model, [first, second], ...), and list parameters where they are "
        "used: clip_grad_norm_(model.parameters(), 1.0) in train_fn",
    )
