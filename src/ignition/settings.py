"""What a script has set: in words, and what of it a fit changes before its first step, so that it can be put back."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ignition.callbacks.base import Callback
from ignition.callbacks.checkpointing import Checkpoint
from ignition.callbacks.lr_schedule import LRSchedule
from ignition.callbacks.saving import SaveModel
from ignition.callbacks.stopping import TerminateOnNaN, TimeLimit
from ignition.data_order import ORDER, SAMPLES, choice_of, order_of
from ignition.modes import modes_of, restore_modes
from ignition.said import plainly
from ignition.structure import named, suffix

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["CALLBACK", "Settings", "options_of", "settings_of"]

CALLBACK = "a callback"
"""What is said of one of Ignition's that is there; that one of the user's is, or is not, need not be told."""

_SCALARS = (type(None), bool, int, float, complex, str, np.generic, torch.dtype, torch.device)
_MOST_ITEMS, _LONGEST = 1000, 120
# What moves as a scheduler ticks, and what follows from the optimizer's own values.
_MOVING = {"last_epoch", "base_lrs", "best", "num_bad_epochs", "cooldown_counter", "T_cur", "T_i", "verbose"}
_WATCHING: dict[type, set[str]] = {
    Checkpoint: {"best", "mode"}, SaveModel: set(), TerminateOnNaN: set(), TimeLimit: set()
}  # fmt: skip
"""Of callbacks that write or only end a fit, what is told: what they leave in files makes no other run."""


class Settings:
    """What a fit changes before its first step, so that a fit that never gets there leaves it as it was."""

    def __init__(self, trainer: Trainer[Any]) -> None:
        self.step = trainer.step
        self._trainer = trainer
        self._modes = modes_of(trainer.model)
        self._hyper = dict(trainer.hyper)
        self._groups = [
            (group, {name: _copied(value) for name, value in group.items() if name != "params"})
            for optimizer in named(trainer.optimizer).values()
            for group in getattr(optimizer, "param_groups", ())
        ]

    def restore(self) -> None:
        """Puts modes, hyperparameters and the values of the optimizers' groups back."""
        restore_modes(self._modes)
        self._trainer.hyper.clear()
        self._trainer.hyper.update(self._hyper)
        for group, values in self._groups:
            for name, value in values.items():
                if isinstance(value, Tensor) and isinstance(group.get(name), Tensor):
                    group[name].detach().copy_(value)  # in place: a captured or compiled step reads this very tensor
                else:
                    group[name] = value


def settings_of(trainer: Trainer[Any]) -> dict[str, str]:
    """What a script has set of what a checkpoint decides, as words that can be compared with another run's.

    Those are the hyperparameters, the values of the optimizers' groups, and what torch's schedulers were made with.
    """
    settings = {name: _repr(value) for name, value in trainer.hyper.items()}
    for name, one in named(trainer.optimizer).items():
        for index, group in enumerate(getattr(one, "param_groups", ())):
            for key, value in group.items():
                if key != "params":
                    settings[f"{type(one).__name__}{suffix(name)}, group {index}, {key}"] = _repr(value)
    for label, callback in _labelled(trainer.callbacks):
        if isinstance(callback, LRSchedule):
            settings |= {f"{label}, {name}": text for name, text in _of_scheduler(callback.state_dict())}
    return settings


def options_of(trainer: Trainer[Any], **of_fit: Any) -> dict[str, str]:
    """What a script has set of what it decides itself, as words that can be compared with another run's.

    Those are options of the Trainer and of the fit, the callbacks with what they were made with (as far as their
    attributes of the same names tell), and the order in which the data are read.

    Args:
        trainer: Between two fits.
        of_fit: Arguments of the fit.
    """
    rules = trainer.training.rules
    options = {
        "accumulate": rules.accumulate, "clip_norm": rules.clip_norm, "precision": trainer._precision,
        "compile": trainer.compile, "batch_axis": trainer.batch_axis, **of_fit,
    }  # fmt: skip
    said = {name: repr(plainly(value)) for name, value in options.items()}
    for label, callback in _labelled(trainer.callbacks):
        is_own = type(callback).__module__.startswith("ignition.")
        said[label] = CALLBACK if is_own else "a callback of the script's"
        said |= {f"{label}, {name}": text for name, text in _made_with(callback)}
    return said | {ORDER: order_of(trainer.train_loader), SAMPLES: choice_of(trainer.train_loader)}


def _labelled(callbacks: list[Callback]) -> Iterator[tuple[str, Callback]]:
    """The callbacks on which a training depends, each with a name of its own."""
    counts: Counter[str] = Counter()
    for one in callbacks:
        if one.main_only or _WATCHING.get(type(one)) == set():
            continue
        label = f"LRSchedule({type(one.scheduler).__name__})" if isinstance(one, LRSchedule) else type(one).__name__
        counts[label] += 1
        yield label if counts[label] == 1 else f"{label} {counts[label]}", one


def _made_with(callback: Callback) -> Iterator[tuple[str, str]]:
    told = _WATCHING.get(type(callback))
    held = getattr(callback, "__dict__", {})
    for name in inspect.signature(type(callback).__init__).parameters:
        value = held.get(name, _NOTHING)
        if told is None or name in told:
            if isinstance(value, Callback):  # what comes after a Warmup
                yield name, f"{type(value).__name__}({', '.join(f'{key}={text}' for key, text in _made_with(value))})"
            elif _is_plain(value):
                yield name, _short(repr(plainly(sorted(value, key=repr) if isinstance(value, frozenset) else value)))


def _of_scheduler(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a scheduler of torch's was made with, out of its state."""
    for name, value in state.items():
        if name == "_schedulers":
            for index, inner in enumerate(value):
                yield from ((f"schedulers[{index}].{key}", text) for key, text in _of_scheduler(inner))
        elif name == "_schedule_phases" and "total_steps" in state:
            # As parts of the whole, of which the number of steps is told by itself.
            yield "phases", repr([round((phase["end_step"] + 1) / state["total_steps"], 6) for phase in value])
        elif name not in _MOVING and (name == "_milestones" or not name.startswith("_")):
            yield name.lstrip("_"), _short(repr(plainly(value)))


_NOTHING = object()


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return len(value) <= _MOST_ITEMS and all(map(_is_plain, [*value, *value.values()]))
    if isinstance(value, (list, tuple, frozenset)):
        return len(value) <= _MOST_ITEMS and all(map(_is_plain, value))
    return isinstance(value, _SCALARS) or (isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta)


def _repr(value: Any) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))  # an address is another in each process


def _short(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2]}... ({hashlib.blake2b(text.encode(), digest_size=4).hexdigest()})"


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
