"""What the checks of a training are made of: its first batches, short runs, and a look at what goes through a model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ignition.arguments import check_not_empty
from ignition.check_report import Skipped
from ignition.data import items_of, iterate
from ignition.device import tensors_in
from ignition.errors import BatchError
from ignition.structure import named
from ignition.transfer import transferred

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = [
    "Call",
    "Material",
    "first_outputs",
    "forwards",
    "inputs_of",
    "labels_of",
    "listed",
    "parameters_of",
    "train_on",
]

_BATCHES = 8  # of each loader: enough for a picture, few enough for seconds
_CALLS = 20  # of a model's forward that are kept
_LABELS = ("label", "labels", "target", "targets", "y")


@dataclass(slots=True)
class Material:
    """What each check is given.

    Attributes:
        trainer: Inside `everything_restored`.
        train: Its first training batches, on the device.
        test: The first batches of its test loader; empty without one.
    """

    trainer: Trainer[Any]
    train: list[Any]
    test: list[Any]

    @classmethod
    def of(cls, trainer: Trainer[Any]) -> Material:
        """Reads the first batches of both loaders.

        Raises:
            BatchError: If there is none to train on.
        """
        check_not_empty(trainer.train_loader, "train_loader")
        source = trainer.training.source("eval", trainer.test_loader)
        test = () if trainer.test_loader is None else transferred(iterate(source), trainer.device)
        train = list(islice(trainer.training_batches(), _BATCHES))
        if not train:
            raise BatchError(
                "train_loader gave no batch",
                "at least one",
                "see whether drop_last leaves anything of a small data set",
            )
        return cls(trainer, train, list(islice(test, _BATCHES)))


@dataclass(slots=True)
class Call:
    """One call of a model's forward."""

    model: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


class _Repeated:
    """Batches again and again; each time a copy, as a function may change its batch."""

    def __init__(self, batches: list[Any], count: int) -> None:
        self._batches = batches
        self._count = count

    def __iter__(self) -> Iterator[Any]:
        for place in range(self._count):
            yield _copied(self._batches[place % len(self._batches)])


def _copied(batch: Any) -> Any:
    try:
        return copy.deepcopy(batch)
    except (RuntimeError, TypeError):  # with a graph, or an object that cannot be copied
        return batch


def train_on(
    trainer: Trainer[Any], batches: list[Any] | None, steps: int, **listeners: Callable[[Any], object]
) -> None:
    """Trains with the Trainer's own loop, without evaluation.

    Args:
        trainer: Inside `everything_restored`.
        batches: What to train on, again and again; None for the train loader as it is.
        steps: How many steps.
        listeners: ``step_end=function``: what is called with the trainer at an event.
    """
    trainer.training.eval_signature = trainer._eval_fn = trainer._test_loader = None
    trainer._functions = list(listeners.items())
    if batches is not None:
        # One step more than is taken: a fit that ends inside an epoch needs no record.
        trainer.train_loader = _Repeated(batches, (steps + 1) * trainer.training.rules.accumulate)
    trainer.fit(steps=steps)


@contextmanager
def forwards(trainer: Trainer[Any]) -> Iterator[list[Call]]:
    """Notes the calls of the models inside the block, those of ``model.forward(x)`` too."""
    calls: list[Call] = []
    models = list(dict.fromkeys(named(trainer.model).values()))  # each once, under however many names
    before = [(vars(model), vars(model).get("forward")) for model in models]
    for model in models:
        vars(model)["forward"] = _noted(model, model.forward, calls)
    try:
        yield calls
    finally:
        for attributes, forward in before:
            if forward is None:
                del attributes["forward"]
            else:
                attributes["forward"] = forward


def _noted(model: Any, forward: Callable[..., Any], calls: list[Call]) -> Callable[..., Any]:
    def noting(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if len(calls) < _CALLS:
            calls.append(Call(model, args, kwargs, output))
        return output

    return noting


def inputs_of(batch: Any) -> Any:
    """What of a batch or a sample is input: all but the last item, or all but what has the name of a label."""
    if isinstance(batch, dict):
        return {name: value for name, value in batch.items() if str(name).lower() not in _LABELS}
    items = items_of(batch)
    return items[:-1] if len(items) > 1 else items


def labels_of(batch: Any) -> Any:
    """What of a batch or a sample is label, by its place or its name as in `inputs_of`; None where nothing is."""
    if isinstance(batch, dict):
        return next((value for name, value in batch.items() if str(name).lower() in _LABELS), None)
    items = items_of(batch)
    return items[-1] if len(items) > 1 else None


def parameters_of(models: Any, needing_gradients: bool) -> dict[str, Tensor]:
    """The parameters that are trained, or those that are not, by name."""
    return {
        f"{name}.{path}" if name else path: parameter
        for name, model in named(models).items()
        for path, parameter in model.named_parameters()
        if parameter.requires_grad == needing_gradients
    }


def first_outputs(calls: list[Call]) -> list[Tensor]:
    """The floating-point tensors that models returned.

    Raises:
        Skipped: If there is none.
    """
    outputs = [tensor.detach() for call in calls for tensor in tensors_in(call.output) if tensor.is_floating_point()]
    if not outputs:
        raise Skipped("the functions do not call the model's forward, or it returns no floating-point tensor")
    return outputs


def listed(names: list[str], most: int = 5) -> str:
    """Names as words, the first few of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
