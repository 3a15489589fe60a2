"""The precision of the forward pass: autocast around the user's functions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch

from ignition.errors import ArgumentError

__all__ = ["autocasting", "check_precision", "without_autocast"]

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: Any) -> str:
    """`precision` itself, if it is one.

    Raises:
        ArgumentError: If it is none of "fp32", "bf16" and "fp16".
    """
    if precision not in ("fp32", *_TYPES):
        raise ArgumentError(
            f"precision={precision!r}",
            expected='"fp32", "bf16" or "fp16"',
            fix='"bf16" where the hardware has it; "fp16" scales the loss, and needs optimize(loss, optimizer)',
        )
    return str(precision)


def autocasting(function: Callable[..., Any], precision: str, device: torch.device) -> Callable[..., Any]:
    """`function` under autocast, or as it is for "fp32".

    A plain ``loss.backward()`` or ``optimizer.step()`` inside it runs under autocast too. That changes nothing for
    torch's layers and for optimizers that work element by element; it does for what the function itself keeps out of
    autocast, and for optimizers that multiply matrices (Adafactor). `optimize` leaves autocast for both.
    """
    if precision == "fp32":
        return function
    dtype = _TYPES[precision]

    @wraps(function)
    def autocasted(*args: Any, **kwargs: Any) -> Any:
        # Without the cache of cast weights: it would outlive a step that the function takes, and the forward pass
        # after it (a closure's, SAM's second, a GAN's other half) would still see the weights from before.
        with torch.autocast(device.type, dtype=dtype, cache_enabled=False):
            return function(*args, **kwargs)

    return autocasted


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Turns autocast off for a backward pass, which has the types that the forward pass chose."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
