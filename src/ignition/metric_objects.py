"""What metric objects, as those of torchmetrics, need where several processes compute them together."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ignition import distributed

__all__ = ["empty", "levelled", "synchronises"]


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


@contextmanager
def levelled(metrics: Collection[Any]) -> Iterator[None]:
    """Inside the ``with`` block what metrics have gathered in lists has as many items in every process.

    torchmetrics exchanges them item by item. A process with fewer of them, as one with fewer batches has, would leave
    the others waiting; so empty ones are added, which change nothing where the items are joined. A number becomes a
    row with one value then. Waits for all processes.

    Args:
        metrics: The same in every process, in the same order.
    """
    if not metrics:
        yield
        return
    lists = [found for metric in metrics for found in _exchanged_lists(metric)]
    mine = [[_items_sent(part, name), *_form_of(getattr(part, name))] for part, name in lists]
    every = [json.loads(text) for text in distributed.gather_texts(json.dumps(mine))]
    before: list[tuple[Any, str, list[Any]]] = []
    for (part, name), theirs in zip(lists, zip(*every, strict=True), strict=True):
        forms = [(dtype, shape) for _, dtype, shape in theirs if dtype is not None]
        if not forms or len({(count, len(shape)) for count, _, shape in theirs}) == 1:
            continue
        rows, (dtype, shape) = getattr(part, name), forms[0]
        before.append((part, name, rows))
        missing = max(count for count, _, _ in theirs) - _items_sent(part, name)
        empty_row = torch.empty((0, *shape[1:]), dtype=getattr(torch, dtype), device=part.device)
        setattr(part, name, [_as_rows(one) for one in rows] + [empty_row] * missing)
    try:
        yield
    finally:
        for part, name, rows in before:
            setattr(part, name, rows)


def _exchanged_lists(metric: Any) -> Iterator[tuple[Any, str]]:
    """The metrics in a metric object, each with the name of a list of tensors that torchmetrics exchanges."""
    torchmetrics: Any = sys.modules.get("torchmetrics")
    if torchmetrics is None or not isinstance(metric, nn.Module):
        return
    for part in metric.modules():
        if isinstance(part, torchmetrics.Metric) and type(part)._sync_dist is torchmetrics.Metric._sync_dist:
            for name, rows in part.metric_state.items():
                if isinstance(rows, list):
                    yield part, name


def _items_sent(part: Any, name: str) -> int:
    """How many items torchmetrics sends of a list: where they are joined after that, it joins them before."""
    count = len(getattr(part, name))
    joins = getattr(part._reductions[name], "__name__", None) == "dim_zero_cat"
    return min(count, 1) if joins else count


def _form_of(rows: list[Any]) -> tuple[str | None, list[int]]:
    """The name of the first item's type, and its shape; no name where there is no tensor."""
    if not rows or not isinstance(rows[0], Tensor):
        return None, []
    return str(rows[0].dtype).removeprefix("torch."), list(rows[0].shape)


def _as_rows(one: Tensor) -> Tensor:
    return one if one.ndim else one.reshape(1)


def _parts(metric: Any) -> Iterable[Any]:
    """A collection of metrics leaves everything to them."""
    return metric.children() if isinstance(metric, nn.ModuleDict) else [metric]


def _without_rows(state: dict[str, Any]) -> dict[str, list[Any]]:
    lists = {name: rows for name, rows in state.items() if isinstance(rows, list)}
    return {name: [_as_rows(one)[:0] for one in rows[:1]] for name, rows in lists.items()}
