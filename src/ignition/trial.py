"""Training for a look: inside the block a Trainer may be used at will, and afterwards nothing has happened."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ignition import rng
from ignition.callbacks.lr_schedule import LRSchedule
from ignition.callbacks.schedule import Schedule
from ignition.captured import variables_of
from ignition.data import keeps_place
from ignition.epoch_start import EpochStart, EvaluationStart
from ignition.errors import ArgumentError, kind_of
from ignition.generators import GENERATORS, generators_of, walk
from ignition.history import History
from ignition.loader_advice import Advisor
from ignition.means import Means
from ignition.memory import Memory, has_memory
from ignition.progress import Progress

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["everything_restored"]


@contextmanager
def everything_restored(trainer: Trainer[Any]) -> Iterator[Callable[[], None]]:
    """Inside the block the Trainer can be trained and changed; afterwards, in every case, all is as it was.

    That is, to the bit: models (parameters, gradients, buffers, modes, what is frozen), optimizers, generators
    (those that loaders and data sets keep as attributes too), the place in the data with an epoch left open,
    hyperparameters, history, callbacks, ``trainer.state``, and the modules, optimizers and variables that the
    functions hold on to, where they name them themselves, with the tensors, arrays and generators in these. What else
    lies deeper, as the memory of a data set or a simulator's, cannot be put back.

    Inside, the Trainer is silent, its history is empty and no epoch is open. Of the callbacks only the schedules are
    there, as they may supply hyperparameters: nothing is written. The loaders' workers are others than those of a fit.

    Args:
        trainer: A Trainer that is not inside a fit.

    Yields:
        A function that puts everything back, for a fresh start inside the block.

    Raises:
        ArgumentError: If it is inside a fit or an evaluation, or a loader can be read only once.
    """
    _check(trainer)
    generators = rng.capture()  # before a loader is asked for its state, for which some draw
    memory = _remembered(trainer)

    def put_back() -> None:
        memory.restore()
        rng.restore(generators)

    def begin_again() -> None:
        put_back()
        _set_apart(trainer)

    try:
        _set_apart(trainer)
        yield begin_again
    finally:
        try:
            put_back()
        except KeyboardInterrupt:  # from somebody impatient; what is put back in part is put back again
            put_back()
            raise


def _check(trainer: Trainer[Any]) -> None:
    if trainer.training.is_fitting or trainer.training.is_measuring:
        raise ArgumentError(
            "it was called inside a fit",
            expected="a Trainer that is not training, since all that it has is put back afterwards",
            fix="call it before fit",
        )
    for role, loader in (("train_loader", trainer.train_loader), ("test_loader", trainer.test_loader)):
        if isinstance(loader, Iterator) and keeps_place(loader) is None:
            raise ArgumentError(
                f"{role} is {kind_of(loader)}, which can be read only once",
                expected="a loader that can be read again, as its batches would be lost to the training",
                fix="give the Trainer a list, a DataLoader, or an object whose __iter__ starts anew",
            )


def _remembered(trainer: Trainer[Any]) -> Memory:
    """All that training may change. What `_set_apart` replaces needs no copy: the objects themselves come back."""
    memory = Memory([trainer.model, trainer.optimizer, trainer.hyper, trainer.state, _schedules(trainer)])
    memory.add_attributes(trainer.training)
    memory.add_attributes(trainer.training.processes)
    memory.add_attributes(trainer)
    for function in (trainer.train_fn, trainer.eval_fn):
        _add_function(memory, function)
    for _, value in walk({"train_fn": trainer.train_fn, "eval_fn": trainer.eval_fn}, (DataLoader, Dataset)):
        if isinstance(value, (Tensor, np.ndarray, *GENERATORS)):
            memory.add(value)
    for loader in (trainer.train_loader, trainer.test_loader):
        _add_loader(memory, loader)
    return memory


def _set_apart(trainer: Trainer[Any]) -> None:
    """Gives the Trainer fresh parts in the place of those that belong to its real training."""
    training = trainer.training
    training.position = copy.copy(training.position)
    if training.open_pass is not None:  # as `drop_pass` does, which would reset the means that are to come back
        training.position.epoch -= 1
        training.position.batch = training.position.offset = 0
    training.open_pass = training.pending = None
    training.epoch_start, training.evaluation_start = EpochStart(), EvaluationStart()
    training.means = Means(training.train_signature.role)
    training.progress, training.advisor = Progress(False), Advisor()
    training.fit = dict(training.fit)
    training._keyed = {}
    trainer.history = History()
    trainer.callbacks = _schedules(trainer)
    trainer._functions = []
    trainer.train_loader = _with_own_workers(trainer.train_loader)
    if trainer.test_loader is not None:
        trainer.test_loader = _with_own_workers(trainer.test_loader)


def _schedules(trainer: Trainer[Any]) -> list[Any]:
    return [callback for callback in trainer.callbacks if isinstance(callback, (Schedule, LRSchedule))]


def _with_own_workers(loader: Any) -> Any:
    """A loader that leaves an open epoch alone, whose lasting workers or place a new pass would take."""
    if not isinstance(loader, DataLoader) or not (loader.persistent_workers or keeps_place(loader) is loader):
        return loader
    apart = copy.copy(loader)
    vars(apart).update(_iterator=None, persistent_workers=False)  # and they end with each pass
    return apart


def _add_loader(memory: Memory, loader: Any) -> None:
    generators = Memory(generators_of(loader, getattr(loader, "dataset", None)))
    stateful = keeps_place(loader)
    if stateful is not None and not (stateful is loader and isinstance(loader, DataLoader)):  # a copy is read of that
        state = copy.deepcopy(stateful.state_dict())
        memory.then(lambda: stateful.load_state_dict(copy.deepcopy(state)))
    memory.then(generators.restore)
    for name in ("sampler", "batch_sampler"):  # one of the user's may count its epochs
        memory.add_attributes(getattr(loader, name, None))


def _add_function(memory: Memory, function: Any) -> None:
    """What a function holds on to: objects with a memory, the items of containers, and to what its names are bound."""
    for _, value in variables_of(function):
        if has_memory(value) or not isinstance(value, (dict, list, set)):
            memory.add(value)
        else:  # not what is in them: a list may be the whole of the data
            memory.add_shallow(value)
            for item in value.values() if isinstance(value, dict) else value:
                if has_memory(item):
                    memory.add(item)
    holder = getattr(function, "__self__", function)
    if not inspect.isfunction(holder):
        memory.add_attributes(holder)
    plain = inspect.unwrap(getattr(function, "__func__", function)) if callable(function) else None
    if inspect.isfunction(plain):
        for cell in plain.__closure__ or ():
            _add_cell(memory, cell)
        names = [name for name in plain.__code__.co_names if name in plain.__globals__]
        known = {name: plain.__globals__[name] for name in names}
        memory.then(lambda: plain.__globals__.update(known))


def _add_cell(memory: Memory, cell: Any) -> None:
    try:
        content = cell.cell_contents
    except ValueError:  # empty: the name is bound later
        return
    memory.then(lambda: setattr(cell, "cell_contents", content))
