"""Means of whatever metrics a function returns: weighted by what each batch counts, and mergeable."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from ignition import distributed, metric_objects
from ignition.errors import MetricError, warn
from ignition.memory import Memory
from ignition.types import MetricObject
from ignition.weighing import NOTHING

__all__ = ["Means"]

_EXPECTED = (
    "a dict of metrics, one scalar (the loss) or None; a metric is a number, a 0-d tensor, "
    "a (value, weight) pair or an object with update, compute and reset"
)
_FIX = "return, for example, {'loss': loss}; average what has several elements, and leave out what is no number"
_WEIGHT_FIX = "return (value, how many samples or tokens it is the mean of)"
_WEIGHT = "a finite weight of 0 or more"


class Means:
    """Running means of whatever metrics a function returns.

    Each metric is a sum and a weight, so that the mean over a ragged epoch is the mean over its samples, and
    the means of two parts can be merged into the mean of the whole. What is on the CPU is summed as a Python
    float (64 bits); what is on an accelerator is summed there, and waited for only in `compute`.

    Args:
        source: The name of the function whose results are added, for messages.
    """

    def __init__(self, source: str = "the function") -> None:
        self.source = source
        self.last: dict[str, Any] = {}
        """What was added last: floats, detached tensors where they are on an accelerator, and metric objects."""
        self._names: dict[str, None] = {}  # in the order of their first appearance
        self._sums: dict[str, list[float]] = {}  # name: [sum of value * weight, sum of weight]
        self._device_sums: dict[str, _DeviceSum] = {}
        self._objects: dict[str, Any] = {}
        self._kept: Memory | None = None
        self._loaded: set[str] = set()  # sums that may go on on an accelerator, where they were
        self._warned = False

    def add(self, result: Any, weight: float | None) -> None:
        """Adds what a function returned for one batch.

        Args:
            result: A mapping from names to metrics, one scalar (read as ``{"loss": it}``), or None.
            weight: What the batch counts; None where it does not say: it counts 1, with one warning.

        Raises:
            MetricError: If the result holds anything else.
        """
        if result.__class__ is not dict:
            result = self._as_metrics(result)
        if not weight:
            if weight is NOTHING:
                self._forget(result)
                return
            if weight is None:
                weight = self._unknown_weight(result)
            else:  # an empty batch: its values, mostly NaN, count for nothing
                result = {name: (value, 0) if _is_scalar(value) else value for name, value in result.items()}
        sums = self._sums
        last = {}
        for name, value in result.items():
            if value.__class__ is not float:
                if value.__class__ is Tensor and value.is_cpu and (number := value.tolist()).__class__ is not list:
                    value = number  # of a 0-d one, on the CPU: there is no device to wait for
                if value.__class__ is not float:
                    value = self._add_other(name, value, weight)
                    if value is not None:
                        last[name] = value
                    continue
            last[name] = value
            try:
                entry = sums[name]
            except KeyError:
                entry = self._new_sum(name)
            entry[0] += value * weight
            entry[1] += weight
        self.last = last

    def keep_objects(self) -> None:
        """Before the function is called for what counts nothing: metric objects that it updates are put back then."""
        self._kept = Memory(self._objects.values())

    def compute(self, common: bool = False) -> dict[str, float]:
        """The means over all processes, by name; NaN where all weights were 0. Waits once for each accelerator.

        Args:
            common: Whether the processes must have a name in common, as they have where they do the same.

        Raises:
            MetricError: If a metric object computes anything but numbers, or a weight on an accelerator was none; if
                only some of many processes have a metric object, or `common` does not hold.
        """
        if distributed.world_size() == 1:
            return dict(self._all(objects=True))
        every = [json.loads(text) for text in distributed.gather_texts(json.dumps(self.state_dict()))]
        if common and all(every) and not set(every[0]).intersection(*every):
            raise MetricError(
                f"{self.source} returned {', '.join(map(repr, every[0]))} in process 0, and none of these in another, "
                f"but {', '.join(sorted({repr(name) for state in every[1:] for name in state}))}",
                expected="the same names in every process, or some of them",
                fix="name metrics for what they are, and not for the process",
            )
        merged = Means(self.source)
        for name in dict.fromkeys(name for state in every for name in state):
            totals = [state[name] for state in every if name in state]
            if all(entry is not None for entry in totals):
                merged._new_sum(name)[:] = [math.fsum(parts) for parts in zip(*totals, strict=True)]
            else:
                merged._new_name(name, is_object=True)
                merged._objects[name] = self._shared_object(name, len(totals))
        with distributed.one_voice(), metric_objects.levelled(merged._objects.values()):
            return dict(merged._all(objects=True))

    def _shared_object(self, name: str, holders: int) -> Any:
        """A metric object that can count what all processes have seen."""
        metric = self._objects.get(name)
        if metric is None or holders < distributed.world_size():
            raise MetricError(
                f"only {holders} of {distributed.world_size()} processes have returned the metric object {name!r}",
                expected="each metric object in each process, since they compute it together",
                fix="return it for each batch, and not for some",
            )
        if not metric_objects.synchronises(metric):
            raise MetricError(
                f"the metric object {name!r} ({type(metric).__name__}) counts what this process has seen, of "
                f"{distributed.world_size()}",
                expected="an object that synchronises itself, as those of torchmetrics do",
                fix="return (value, weight) pairs, or use torchmetrics",
            )
        return metric

    def running(self) -> dict[str, float]:
        """The means without those of metric objects, whose ``compute`` may be costly: for showing progress."""
        return dict(self._all(objects=False))

    def reset(self) -> None:
        """Forgets everything, metric objects included; what was added last stays."""
        for metric in self._objects.values():
            metric.reset()
        self._names.clear()
        self._sums.clear()
        self._device_sums.clear()
        self._objects.clear()
        self._loaded.clear()

    def merge(self, other: Means) -> None:
        """Adds the sums and weights of `other`: the result is as if all had been added here."""
        for name, (total, weight) in other._totals().items():
            entry = self._sums.get(name) or self._new_sum(name)
            entry[0] += total
            entry[1] += weight

    def state_dict(self) -> dict[str, list[float] | None]:
        """``{name: [sum, weight]}``, those on accelerators included; None for metric objects, which keep their own."""
        totals = self._totals()
        return {name: totals.get(name) for name in self._names}

    def load_state_dict(self, state: Mapping[str, Sequence[float] | None]) -> None:
        """Takes back what `state_dict` returned, in place of what was there."""
        self.reset()
        self.last = {}
        for name, entry in state.items():
            if entry is None:  # it keeps its place until the object comes
                self._names[name] = None
            else:
                self._new_sum(name)[:] = entry
                self._loaded.add(name)

    def _forget(self, result: Any) -> None:
        """Takes no notice of a result, but for the metric objects in it, which the others will compute together."""
        if self._kept is not None:
            self._kept.restore()
        for name, value in result.items() if isinstance(result, Mapping) else ():
            if isinstance(value, MetricObject) and name not in self._objects:
                metric_objects.empty(value)
                self._add_other(name, value, NOTHING)

    def _totals(self) -> dict[str, list[float]]:
        totals = {name: list(entry) for name, entry in self._sums.items()}
        for name, total, weight in _read(self._device_sums, self.source):
            entry = totals.setdefault(name, [0.0, 0.0])
            entry[0] += total
            entry[1] += weight
        return totals

    def _all(self, objects: bool) -> list[tuple[str, float]]:
        state = self._totals()
        means: list[tuple[str, float]] = []
        for name in self._names:
            if name in state:
                total, weight = state[name]
                means.append((name, total / weight if weight else math.nan))
            elif objects and name in self._objects:
                means.extend(_computed(name, self._objects[name].compute(), self.source))
        return means

    def _as_metrics(self, result: Any) -> Mapping[str, Any]:
        if result is None or isinstance(result, Mapping):
            return dict(result or {})
        if isinstance(result, Tensor) or _is_number(result):
            return {"loss": result}
        raise MetricError(f"{self.source} returned {_description(result)}", expected=_EXPECTED, fix=_FIX)

    def _unknown_weight(self, result: Mapping[str, Any]) -> float:
        if not self._warned and any(_is_scalar(value) for value in result.values()):
            self._warned = True
            warn(
                f"the batches for {self.source} hold no tensor whose size could weigh them, so each counts 1; "
                "return (value, weight) pairs if they differ in size"
            )
        return 1.0

    def _new_name(self, name: Any, is_object: bool = False) -> None:
        _check_name(name, self.source)
        others = (self._sums, self._device_sums) if is_object else (self._objects,)
        if any(name in known for known in others):
            raise MetricError(
                f"{self.source} returned {name!r} now as a number and now as a metric object",
                expected="the same kind for each batch",
                fix="return the metric object each time, or give the number a name of its own",
            )
        self._names[name] = None

    def _new_sum(self, name: Any) -> list[float]:
        self._new_name(name)
        return self._sums.setdefault(name, [0.0, 0.0])

    def _add_other(self, name: str, value: Any, weight: float) -> Any:
        """Adds what is not exactly a float, and returns what there is to remember of it; None for nothing."""
        if isinstance(value, tuple) and len(value) == 2:
            value, weight = value
            if not (_is_number(weight) or isinstance(weight, Tensor)):
                self._refuse(name, (value, weight))
            if isinstance(weight, Tensor) and weight.ndim:
                raise MetricError(f"{self.source} weighs by {_description(weight)} in {name!r}", _WEIGHT, _WEIGHT_FIX)
            return self._add_weighted(name, self._scalar(name, value), self._scalar(name, weight))
        if isinstance(value, Tensor):
            return self._add_weighted(name, self._scalar(name, value), weight)
        if _is_number(value):
            return self._add_weighted(name, float(value), weight)
        if value is None:  # as optimize returns in the middle of a window: a key that this batch has not
            return None
        if isinstance(value, MetricObject):
            self._new_name(name, is_object=True)
            if self._objects.setdefault(name, value) is not value:
                raise MetricError(
                    f"{self.source} returned another object as {name!r} than for the batch before",
                    expected="one object, which keeps its state over the batches",
                    fix="make the metric once, outside the function",
                )
            return value
        return self._refuse(name, value)

    def _scalar(self, name: str, value: Any) -> Any:
        """A number or 0-d tensor as a float, or as a detached tensor where that is on an accelerator."""
        if not isinstance(value, Tensor):
            return float(value) if _is_number(value) else self._refuse(name, value)
        if value.ndim:
            raise MetricError(
                f"{self.source} returned a tensor of shape {tuple(value.shape)} as {name!r}",
                expected="a 0-d tensor",
                fix=f"return its mean, {{{name!r}: value.mean()}}, or leave it out",
            )
        if value.is_complex():
            self._refuse(name, value)
        return float(value.item()) if value.is_cpu else value.detach()

    def _add_weighted(self, name: str, value: Any, weight: Any) -> Any:
        if not isinstance(weight, Tensor) and not 0 <= weight < math.inf:
            raise MetricError(f"{self.source} returned the weight {weight} for {name!r}", _WEIGHT, _WEIGHT_FIX)
        if isinstance(value, Tensor) or isinstance(weight, Tensor):
            if name not in self._device_sums:
                self._new_name(name)
                there = self._device_sums[name] = _DeviceSum((value if isinstance(value, Tensor) else weight).device)
                if name in self._loaded:  # in the order in which they were summed: another would round otherwise
                    before, weight_before = self._sums.pop(name)
                    there.begin(before, weight_before, isinstance(weight, Tensor))
            self._device_sums[name].add(value, weight)
            return value
        entry = self._sums.get(name) or self._new_sum(name)
        if not weight:  # counts for nothing, even where the value is NaN
            return None
        entry[0] += value * weight
        entry[1] += weight
        return value

    def _refuse(self, name: str, value: Any) -> NoReturn:
        raise MetricError(f"{self.source} returned {_description(value)} as {name!r}", expected=_EXPECTED, fix=_FIX)


class _DeviceSum:
    """The sum and the weight of one metric on an accelerator, added to there without waiting for it.

    A Python number that is made into a tensor there would be waited for, so numbers stay numbers.
    """

    def __init__(self, device: torch.device) -> None:
        # MPS has no 64-bit floats.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.parts = torch.zeros(3, dtype=dtype, device=device)  # sum of value * weight, of weight; lowest weight
        self.total, self.weight, self.lowest = self.parts[0], self.parts[1], self.parts[2]
        self.known_weight = 0.0  # the sum of those weights that are Python numbers

    def begin(self, total: float, weight: float, weight_is_there: bool) -> None:
        self.total.add_(total)
        if weight_is_there:
            self.weight.add_(weight)
        else:
            self.known_weight = weight

    def add(self, value: Any, weight: Any) -> None:
        if not isinstance(weight, Tensor):
            if weight:  # a weight of 0 counts for nothing, even where the value is NaN
                self.total.add_(value.to(self.total.device), alpha=weight)
                self.known_weight += weight
            return
        # What the weight is cannot be seen without waiting: the lowest one is kept, and judged when it is read.
        weight = weight.to(self.parts)
        if isinstance(value, Tensor):
            value = value.to(self.parts)
        self.total += (weight * value).masked_fill(weight == 0, 0)
        self.weight += weight
        torch.minimum(self.lowest, weight, out=self.lowest)


def _read(sums: Mapping[str, _DeviceSum], source: str) -> Iterator[tuple[str, float, float]]:
    """The name, sum and weight of each metric on an accelerator."""
    names: dict[torch.device, list[str]] = {}
    for name, entry in sums.items():
        names.setdefault(entry.parts.device, []).append(name)
    for there in names.values():
        # The one place where metrics wait for the accelerator.
        rows = torch.stack([sums[name].parts for name in there]).cpu().tolist()
        for name, (total, weight, lowest) in zip(there, rows, strict=True):
            if not (lowest >= 0 and math.isfinite(weight)):
                raise MetricError(
                    f"{source} returned a weight below 0 or not finite for {name!r}", _WEIGHT, _WEIGHT_FIX
                )
            yield name, total, weight + sums[name].known_weight


def _check_name(name: Any, source: str) -> None:
    if not isinstance(name, str):
        raise MetricError(
            f"{source} returned a metric named {name!r}", expected="names that are strings", fix=_FIX
        ) from None
    if "".join(name.splitlines()) != name:  # a record is one line of a log
        raise MetricError(
            f"{source} returned a metric named {name!r}", expected="names of one line", fix="take the line break out"
        ) from None


def _is_number(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "fiub"
    return isinstance(value, (float, int, numbers.Real, np.bool_))  # the quick ones first


def _is_scalar(value: Any) -> bool:
    return _is_number(value) or (isinstance(value, Tensor) and value.ndim == 0)


def _description(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{kind} of shape {tuple(value.shape)} and {value.dtype}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _computed(name: str, value: Any, source: str) -> list[tuple[str, float]]:
    """What a metric object computed, as floats; a collection of metrics gives one for each of its names."""
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _computed(f"{name}_{key}", item, source)]
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()  # waits for the device of the metric
    if _is_number(value):
        _check_name(name, source)  # a collection has names of its own
        return [(name, float(value))]
    raise MetricError(
        f"the metric {name!r} of {source} computed {_description(value)}",
        expected="one number",
        fix="have it average over the classes (torchmetrics: average='macro'), or return its parts by name",
    )
