"""When a fit ends, evaluates and saves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ignition.arguments import check_count
from ignition.errors import ArgumentError

__all__ = ["Goal", "check_goal"]


@dataclass(slots=True, frozen=True)
class Goal:
    """When a fit ends and when it evaluates, in epochs and steps counted from the Trainer's first."""

    last_epoch: int | None
    last_step: int | None
    eval_every: int | None
    max_eval_steps: int | None
    save_every: int | None = None

    def steps_until_due(self, step: int) -> int | None:
        """How many steps there are until the fit ends, evaluates or saves; None where none of it is known."""
        due = [] if self.last_step is None else [self.last_step - step]
        due += [every - step % every for every in (self.eval_every, self.save_every) if every is not None]
        return min(due, default=None)

    def evaluates_at(self, step: int) -> bool:
        """Whether a record is due after that step, besides those at each epoch's end."""
        return self.eval_every is not None and step % self.eval_every == 0

    def epoch_name(self, epoch: int) -> str:
        """What the bar of an epoch is called."""
        return f"epoch {epoch}" if self.last_epoch is None else f"epoch {epoch}/{self.last_epoch}"


def check_goal(epochs: Any, steps: Any, eval_every: Any, max_eval_steps: Any) -> None:
    """Raises ArgumentError if the arguments of a fit make no goal."""
    given = {"epochs": epochs, "steps": steps, "eval_every": eval_every, "max_eval_steps": max_eval_steps}
    for name, count in given.items():
        check_count(count, name)
    if epochs is None and steps is None:
        raise ArgumentError(
            "fit was given neither epochs nor steps", expected="one of them or both", fix="fit(epochs=10)"
        )
