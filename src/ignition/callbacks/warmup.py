"""The warm-up: a schedule that raises, step by step, what another schedule or the optimizer itself gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ignition.callbacks.schedule import Schedule, finite, positive_count
from ignition.errors import ArgumentError

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["Warmup"]


class Warmup(Schedule):
    """Starts a value low and raises it, step by step, to where another schedule begins or to what it was.

    In step s of the first `steps` the value is its target times ``start_factor + (1 - start_factor) * s / steps``,
    so that step `steps` has all of it. With `then` by step, the target is the first value of `then`, whose own steps
    are counted from the end of the warm-up. With `then` by epoch, the target is its value in the running epoch;
    its epochs are counted as those of any schedule. Without `then`, the target is what the optimizer (or
    ``trainer.hyper``) had at first sight, and once the warm-up is over the value is left alone. Source: Goyal et al.,
    "Accurate, Large Minibatch SGD" (2017), arXiv:1706.02677, section 2.2 (gradual warm-up).

    Args:
        steps: How many steps it takes, 1 or more.
        then: The schedule that follows; it is not itself put into the list of callbacks. Default: none.
        name: What to move. Default: what `then` moves, else "lr".
        start_factor: The part of the target that it rises from, 0 to 1. Default 0.
        optimizer: Which of several, as for `Schedule`. Default: that of `then`, else the only one.
        group: The one parameter group to move. Default: that of `then`, else all, in their ratios.

    Raises:
        ArgumentError: At once if `steps` or `start_factor` is wrong, `then` is no schedule or itself a Warmup, or the
            two disagree on what to move; at the fit's start if there is no `then`, and no value or only 0.

    Example:
        >>> from ignition.callbacks.schedules import CosineDecay
        >>> warmup = Warmup(4, then=CosineDecay("lr", 0.1, max_steps=1000))
        >>> [warmup.fn(step) for step in (1, 2, 3, 4, 5)]  # what the target is multiplied by
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def __init__(
        self,
        steps: int,
        then: Schedule | None = None,
        *,
        name: str | None = None,
        start_factor: float = 0.0,
        optimizer: str | int | None = None,
        group: int | None = None,
    ) -> None:
        length, low = positive_count("steps of Warmup", steps), finite("start_factor of Warmup", start_factor)
        if not 0 <= low <= 1:
            raise ArgumentError(
                f"start_factor of Warmup is {start_factor!r}",
                "a number from 0 to 1",
                "leave it out for 0, or pass for example start_factor=0.1",
            )
        if then is not None:
            if not isinstance(then, Schedule) or isinstance(then, Warmup):
                raise ArgumentError(
                    f"Warmup got {then!r} as then=",
                    "a schedule such as CosineDecay, and no second Warmup",
                    "a torch scheduler is warmed up by torch's own LinearLR in a SequentialLR",
                )
            for argument, own, others in (
                ("name", name, then.name),
                ("optimizer", optimizer, then.optimizer),
                ("group", group, then.group),
            ):
                if own is not None and own != others:
                    raise ArgumentError(
                        f"Warmup got {argument}={own!r}, and the schedule after it has {others!r}",
                        "the same of both",
                        f"give {argument}= to {then!r} alone",
                    )
            name, optimizer, group = then.name, then.optimizer, then.group

        def fn(count: int) -> float:
            return 1.0 if count >= length else low + (1 - low) * max(count, 1) / length

        super().__init__("lr" if name is None else name, fn, every="step", optimizer=optimizer, group=group)
        self.steps, self.start_factor = length, low
        self.then = then

    def _value(self, epochs: int, steps: int, own: float | None) -> float | None:
        target = own
        if self.then is not None:
            target = self.then._value(epochs, max(1, steps - self.steps), own)
        elif steps > self.steps:
            return None
        return None if target is None else target * self.fn(steps)

    def _first_of_groups(self, values: list[float]) -> list[float]:
        if self.then is None and not any(values):
            raise ArgumentError(
                f"{self!r} warms up {self.name!r} of the optimizer, which is 0",
                "a value to rise to",
                "make the optimizer with the value to rise to, or give a schedule as then=",
            )
        return super()._first_of_groups(values)

    def _first_of_hyper(self, trainer: Trainer[Any]) -> list[float]:
        if self.then is not None:
            return []
        if self.name not in trainer.hyper:
            raise ArgumentError(
                f"{self!r} warms up a hyperparameter that has no value",
                "a value to rise to",
                f'set trainer.hyper["{self.name}"], or give a schedule as then=',
            )
        value = finite(f"the hyperparameter {self.name!r} of {self!r}", trainer.hyper[self.name])
        if value == 0:
            raise ArgumentError(
                f"{self!r} warms up a hyperparameter that is 0",
                "a value to rise to",
                f'set trainer.hyper["{self.name}"] to it, or give a schedule as then=',
            )
        return [value]
