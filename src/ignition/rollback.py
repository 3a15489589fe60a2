"""All of a checkpoint or nothing of it: a training that is as it was, where a checkpoint cannot be put into it.

What a checkpoint says is checked before anything is changed. But whether an object takes its state back, a callback of
the user's or a loader, shows only when it is asked to.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING

from torch.utils.data import DataLoader

from ignition.data import keeps_place
from ignition.loader_place import load_place
from ignition.memory import Memory
from ignition.sampler_memory import SamplerMemory

if TYPE_CHECKING:
    from ignition.training import Training

__all__ = ["all_or_nothing"]


@contextmanager
def all_or_nothing(training: Training) -> Iterator[None]:
    """Inside the block a checkpoint is put into a training; if anything is raised there, the training is as it was.

    That is, to the bit: models, optimizers, callbacks, ``trainer.state``, hyperparameters, history, generators and the
    place in the data. It takes a copy of them in memory, on the CPU. What lies deeper in objects of the user's than
    attributes, lists and dicts is theirs.

    Args:
        training: The one that is about to change.
    """
    memory, generators = _remembered(training), training.generators.capture()
    try:
        yield
    except BaseException:
        memory.restore()
        training.generators.restore(generators)
        raise


def _remembered(training: Training) -> Memory:
    trainer, position = training.trainer, training.position
    memory = Memory([trainer.model, trainer.optimizer, trainer.hyper, trainer.state, training.means], lazy=True)
    for field in fields(position):
        memory.then(partial(setattr, position, field.name, getattr(position, field.name)))
    for one in (trainer, trainer.history, training, training.processes):
        memory.add_attributes(one)
    memory.add_shallow(training._keyed)
    for callback in trainer.callbacks:
        memory.add(callback)
    _add_loader(memory, training)
    memory.add_attributes(training.epoch_start)
    memory.add_attributes(training.evaluation_start)
    for loader in (trainer.train_loader, trainer.test_loader):
        samplers = SamplerMemory(loader)
        memory.then(partial(samplers.put_back, samplers.now()))
    return memory


def _add_loader(memory: Memory, training: Training) -> None:
    loader, epoch_start = training.trainer.train_loader, training.epoch_start
    stateful = keeps_place(loader)
    if stateful is None:
        return
    # Else not asked for its state: that may start workers, make an iterator that is then given whatever is loaded, or
    # fail where nothing has been read yet.
    if not isinstance(stateful, DataLoader) and epoch_start.has_place(loader):
        place = copy.deepcopy(epoch_start.place(loader)) or {}
        # Opened too, since the pass that is open may read from the one iterator that there is.
        memory.then(lambda: load_place(loader, copy.deepcopy(place), ended=False).open())
    memory.add_attributes(stateful)
