"""One way through a loader: what is called for each batch, where the pass stands, and its first batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from time import perf_counter
from typing import Any

import torch
from torch.utils.data import DataLoader

from ignition import rng
from ignition.data import batch_weight, items_of, keeps_place
from ignition.device import tensors_in
from ignition.errors import BatchError, warn
from ignition.position import Position
from ignition.progress import Progress
from ignition.signature import Signature
from ignition.transfer import transferred
from ignition.window import Window

__all__ = ["Hook", "Pass", "begun_anew", "checking", "has_ended", "meet_first_batch", "warn_if_short", "with_known_end"]

_NOTHING = object()

Hook = Callable[[], Any] | None


@dataclass(slots=True)
class Pass:
    """What `run_batches` needs for one way through a loader.

    Attributes:
        function: Called as ``function(model, *batch, **hyper)``.
        batches: What is left of the loader.
        total: The number of batches of the whole pass, as far as the loader says.
        length: The same, where the loader is one whose word is sure: the pass then ends with it.
        take: Receives each result and the weight of its batch.
        shown: The means that the bar shows.
        window: The rules of the updates, where a step is more than one call of the function.
        weigh: What a batch weighs.
        check: Raises FunctionError if the function cannot be called with a batch.
        may_be_empty: Whether the pass may have no batch at all, since other processes have some.
        stopped: Set to have the pass end after the current batch.
        data_seconds: How long was waited on the loader.
    """

    function: Callable[..., Any]
    model: Any
    hyper: Mapping[str, Any]
    batches: Iterator[Any]
    total: int | None
    batch_axis: int
    take: Callable[[Any, float | None], Any]
    shown: Callable[[], Mapping[str, float]]
    progress: Progress
    position: Position = field(default_factory=Position)
    length: int | None = None
    on_batch_begin: Hook = None
    on_batch_end: Hook = None
    on_step_end: Hook = None
    window: Window | None = None
    weigh: Callable[[Any, int], float | None] = batch_weight
    check: Callable[[Any], object] = lambda batch: None
    may_be_empty: bool = False
    stopped: bool = False
    data_seconds: float = 0.0


def meet_first_batch(this: Pass, signature: Signature, device: torch.device, items: int | None = None) -> None:
    """Looks at the next batch of a pass before the function gets it, and puts it back.

    Args:
        this: The pass; its batches are moved to `device` from here on, where that is needed.
        signature: What the function takes.
        device: Where the model is.
        items: How many of the batch's items the function receives; None for all.

    Raises:
        BatchError: If there is no batch, or it has not the batch axis.
        FunctionError: If the function cannot be called with it.
        HyperparameterError: If a hyperparameter has the name of a parameter that the batch fills.
    """
    asked = perf_counter()
    first = next(this.batches, _NOTHING)
    if first is _NOTHING:
        if this.may_be_empty or this.position.batch or this.position.offset or this.position.shift:
            return  # or one that was left open, and whose loader has nothing more
        if this.total:
            raise BatchError(
                f"the loader for {signature.role} gave no batch, and its length is {this.total}",
                expected="as many batches as it says",
                fix="look for a StopIteration that the data set, the sampler or the collate function raises: Python "
                "takes it for the end of the loader; and an iterator can be read only once",
            )
        raise BatchError(
            f"the loader for {signature.role} gave no batch",
            expected="at least one batch in each epoch and each evaluation",
            fix="an iterator or generator can be read only once: pass a list, a DataLoader or an object whose __iter__ "
            + f"starts anew{', or train by fit(steps=...)' if signature.role == 'train_fn' else ''}; "
            + "and see whether drop_last leaves anything of a small data set",
        )
    this.data_seconds += perf_counter() - asked
    this.batches = chain([first], this.batches)
    this.check = checking(this, signature, items)
    this.check(first)
    batch_weight(first, this.batch_axis)
    if device.type != "cpu" or any(tensor.device != device for tensor in tensors_in(first)):
        this.batches = transferred(this.batches, device)


def checking(this: Pass, signature: Signature, items: int | None = None) -> Callable[[Any], object]:
    """What raises FunctionError for a batch that the pass's function cannot be called with."""
    model, hyper = this.model, this.hyper  # not the pass itself: in a cycle it would hold on to the loader's workers
    return lambda batch: signature.check_batch(model, items_of(batch)[:items], hyper)


def has_ended(this: Pass) -> bool:
    """Whether a loader has ended that has given as many batches as it says; one more that it has is put back."""
    if this.total is None or this.position.batch != this.total:
        return False
    asked = perf_counter()
    more = next(this.batches, _NOTHING)
    this.data_seconds += perf_counter() - asked
    if more is not _NOTHING:
        this.batches = chain([more], this.batches)
    return more is _NOTHING


def with_known_end(this: Pass, loader: Any, batches: Iterator[Any]) -> Iterator[Any]:
    """The batches of a loader, read one ahead where nobody knows how many there are: its last one is then known as it.

    Not those of any iterable: an environment would have to go a step ahead of the function, and so would what keeps
    its place.
    """
    is_known = this.length is not None or not isinstance(loader, DataLoader) or keeps_place(loader) is not None
    return batches if is_known else _looking_ahead(this, batches)


def _looking_ahead(this: Pass, batches: Iterator[Any]) -> Iterator[Any]:
    read, waiting = this.position.batch, _NOTHING
    for batch in batches:
        if waiting is not _NOTHING:
            yield waiting
        read, waiting = read + 1, batch
    this.length = read
    if waiting is not _NOTHING:
        yield waiting


def begun_anew(loader: Iterable[Any], note: Callable[[Iterator[Any]], object]) -> Iterator[Iterable[Any]]:
    """The next epoch of a loader whose state is that of an epoch's end, which it may show once more before it.

    Args:
        loader: The loader.
        note: Called with the iterator that the batches come from.

    Yields:
        Its batches, in parts.
    """
    generators = rng.capture()
    batches = iter(loader)
    first = next(batches, _NOTHING)
    if first is _NOTHING:
        rng.restore(generators)
        batches = iter(loader)
    note(batches)
    if first is not _NOTHING:
        yield (first,)
    yield batches


def warn_if_short(this: Pass) -> None:
    """Warns where a loader that knows its length ended before it."""
    if this.total is not None and this.position.batch < this.total:
        warn(
            f"the loader ended after {this.position.batch} batches, and its length is {this.total}; where a data set "
            "raises StopIteration, Python takes that for the end of the loader"
        )
