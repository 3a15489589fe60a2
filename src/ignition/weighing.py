"""What a batch counts: a weight that somebody gave, checked; and the weight of what counts nothing."""

from __future__ import annotations

from numbers import Real
from typing import Any, Final

import torch
from torch import Tensor

from ignition.errors import ArgumentError

__all__ = ["NOTHING", "check_weight", "not_zero"]


class _Nothing(float):
    """A weight of 0 that is told from any other by its identity."""


NOTHING: Final = _Nothing(0.0)
"""The weight of a batch that is another process's: nothing of what the function returns for it counts."""


def check_weight(weight: Any) -> float | Tensor:
    """`weight` as a number, or as a tensor if it is on an accelerator, where it is not looked at.

    Raises:
        ArgumentError: If it cannot weigh a batch.
    """
    given = repr(weight)
    if isinstance(weight, Tensor):
        given = f"a tensor of shape {tuple(weight.shape)} and type {weight.dtype}"
        if weight.ndim == 0 and not weight.is_complex():
            if not weight.is_cpu:
                return weight.detach()
            weight = weight.item()
            given = f"{weight}"
    number = float(weight) if isinstance(weight, Real) and not isinstance(weight, bool) else -1.0
    if 0 <= number < float("inf"):
        return number
    raise ArgumentError(
        f"optimize was given the weight {given}",
        expected="a finite number of 0 or more, or a 0-d tensor: how many samples or tokens the loss is the mean of",
        fix="count them, for example weight=(y != ignored).sum(), or leave it out for the size of the batch",
    )


def not_zero(weight: Any) -> Any:
    """The weight, or 1 in the place of 0: what weighs nothing has gradients of zero already."""
    return torch.where(weight == 0, 1, weight) if isinstance(weight, Tensor) else weight or 1
