"""What a script has set: in words, and what of it a fit changes before its first step, so that it can be put back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ignition.modes import modes_of, restore_modes
from ignition.structure import named, suffix

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["Settings", "settings_of"]


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


def settings_of(trainer: Any) -> dict[str, str]:
    """What a script has set of hyperparameters and optimizers, as words that can be compared with another run's."""
    settings = {name: repr(value) for name, value in trainer.hyper.items()}
    for name, one in named(trainer.optimizer).items():
        for index, group in enumerate(getattr(one, "param_groups", ())):
            for key, value in group.items():
                if key != "params":
                    settings[f"{type(one).__name__}{suffix(name)}, group {index}, {key}"] = repr(value)
    return settings


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
