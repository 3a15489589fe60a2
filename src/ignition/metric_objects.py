"""What metric objects, as those of torchmetrics, need where several processes compute them together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

__all__ = ["empty", "synchronises"]


def synchronises(metric: Any) -> bool:
    """Whether a metric object counts what all processes have seen."""
    return all(callable(getattr(part, "sync", None)) for part in _parts(metric))


def empty(metric: Any) -> None:
    """Forgets what a metric object has counted, but for how it is counted.

    After a plain reset a metric that gathers outputs has nothing to show of which type and shape they are, and
    torchmetrics would then exchange tensors that do not match.
    """
    rows = [(part, _without_rows(getattr(part, "metric_state", {}))) for part in _parts(metric)]
    metric.reset()
    for part, state in rows:
        for name, tensors in state.items():
            setattr(part, name, tensors)


def _parts(metric: Any) -> Iterable[Any]:
    """A collection of metrics leaves everything to them."""
    return metric.children() if isinstance(metric, nn.ModuleDict) else [metric]


def _without_rows(state: dict[str, Any]) -> dict[str, list[Any]]:
    lists = {name: rows for name, rows in state.items() if isinstance(rows, list)}
    return {name: [(one if one.ndim else one.reshape(1))[:0] for one in rows[:1]] for name, rows in lists.items()}
