"""Bringing a loader's batches to the device, on an accelerator while it works on the batch before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ignition.device import move, tensors_in

__all__ = ["transferred"]

_TINY = 2**16  # bytes; up to here the driver takes a copy for itself at once, and this thread does not wait
_SMALL = 2**20  # bytes; up to here a stream of its own costs more than it saves (measured on an H200)


def transferred(batches: Iterator[Any], device: torch.device) -> Iterator[Any]:
    """The batches of an iterator on `device`.

    Where the device has streams, large batches of tensors are copied on a stream of their own, out of pinned memory:
    the function for one batch has only launched its work when the next batch is asked for, so the copy and that
    work go on side by side. A small batch is copied in a shorter time than that takes. No batch is read before it is
    asked for.
    """
    streams: Any = getattr(torch, device.type, None)  # torch.cuda, torch.xpu, ...
    if device.type == "cpu" or not hasattr(streams, "Stream"):
        for batch in batches:
            yield move(batch, device)
        return
    copying = streams.Stream(device)
    for batch in batches:
        size = sum(one.numel() * one.element_size() for one in tensors_in(batch) if one.device != device)
        if size < _TINY or not _is_plain(batch):  # what moves itself cannot be told how long its tensors are used
            yield move(batch, device)
            continue
        if size < _SMALL:
            yield move(_pinned(batch), device)
            continue
        with streams.stream(copying):
            there = move(_pinned(batch), device)
        working = streams.current_stream(device)
        working.wait_stream(copying)  # the device waits for the copy, this thread does not
        for tensor in tensors_in(there):
            # Its memory belongs to the copying stream, which must not reuse it before the function's work is done.
            tensor.record_stream(working)
        yield there


def _is_plain(value: Any) -> bool:
    """Whether the value is made of tensors, in tuples, lists and dicts, and of things that stay where they are."""
    kind = type(value)
    if kind is Tensor:
        return True
    if kind is tuple or kind is list:
        return all(_is_plain(item) for item in value)
    if kind is dict:
        return all(_is_plain(item) for item in value.values())
    return isinstance(value, (int, float, str, bytes, type(None)))


def _pinned(value: Any) -> Any:
    """The same nesting with its CPU tensors in pinned memory: a copy out of any other would hold this thread up."""
    kind = type(value)
    if kind is Tensor:
        return value.pin_memory() if value.is_cpu and not value.is_pinned() else value
    if kind is tuple or kind is list:
        return kind(_pinned(item) for item in value)
    if kind is dict:
        return {name: _pinned(item) for name, item in value.items()}
    return value
