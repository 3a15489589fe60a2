"""What torchmetrics' metrics have gathered, which their ``state_dict`` leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["metric_of", "metrics_in", "restore_metrics"]


def metrics_in(module: nn.Module) -> dict[str, Any]:
    """What torchmetrics' metrics in a module (or that it is) have gathered, which their ``state_dict`` leaves out."""
    return {path: found for path, part in module.named_modules() if (found := metric_of(part)) is not None}


def metric_of(part: nn.Module) -> dict[str, Any] | None:
    """What a module has gathered that is one of torchmetrics' metrics; None of any other."""
    if not hasattr(type(part), "metric_state"):  # of the class: a module that lacks it would look for long
        return None
    values: Any = part.metric_state  # that of a collection brings its members up to date
    if not isinstance(values, Mapping) or not hasattr(part, "_update_count"):
        return None
    return {"values": dict(values), "count": part._update_count}


def restore_metrics(module: nn.Module, gathered: Mapping[str, Any]) -> None:
    """Puts back what `metrics_in` returned."""
    parts: dict[str, Any] = dict(module.named_modules())
    for path, one in gathered.items():
        if path in parts:
            for name, value in one["values"].items():
                setattr(parts[path], name, value)
            parts[path]._update_count, parts[path]._computed = one["count"], None
