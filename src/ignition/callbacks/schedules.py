"""The kinds of schedules, each a pure function of the number of the epoch or step about to run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

from ignition.callbacks.lr_schedule import LRSchedule
from ignition.callbacks.schedule import Schedule, bind_schedules, finite, positive_count
from ignition.callbacks.warmup import Warmup
from ignition.errors import ArgumentError

__all__ = [
    "CosineAnneal",
    "CosineDecay",
    "ExponentialDecay",
    "LRSchedule",
    "LinearDecay",
    "Schedule",
    "StepDecay",
    "Warmup",
    "bind_schedules",
]


class LinearDecay(Schedule):
    """Moves a value along a straight line, then leaves it at the end.

    Epoch (or step) e has ``start_value + (end_value - start_value) * (e - 1) / (max_epochs - 1)``, and `end_value`
    from `max_epochs` on; with ``max_epochs=1`` that is at once. It may also rise.

    Args:
        name: A hyperparameter, or a value of the optimizer; `Schedule` says which.
        start_value: The value in the first epoch or step.
        end_value: The value in the last one, and after it.
        max_epochs: The epoch that has `end_value`, 1 or more. Either this or `max_steps`.
        max_steps: The step that has `end_value`, 1 or more.
        optimizer: Which of several, as for `Schedule`. Default: the only one.
        group: The one parameter group to move. Default: all, in their ratios.

    Raises:
        ArgumentError: If a value is not finite, the length is no whole number of 1 or more, or not exactly one of
            `max_epochs` and `max_steps` is given; and as `Schedule` does.

    Example:
        >>> lambd = LinearDecay("lambd", start_value=4, end_value=1, max_epochs=4)
        >>> [lambd.fn(epoch) for epoch in (1, 2, 3, 4, 5)]
        [4.0, 3.0, 2.0, 1.0, 1.0]
    """

    def __init__(
        self,
        name: str,
        start_value: float,
        end_value: float,
        max_epochs: int | None = None,
        *,
        max_steps: int | None = None,
        optimizer: str | int | None = None,
        group: int | None = None,
    ) -> None:
        call = f"LinearDecay({name!r})"
        start, end = finite(f"start_value of {call}", start_value), finite(f"end_value of {call}", end_value)
        every, length = _length(call, max_epochs=max_epochs, max_steps=max_steps)

        def line(done: int, whole: int) -> float:
            return start + (end - start) * done / whole  # divided last: whole numbers come out whole

        super().__init__(name, _decay(start, end, length, line), every=every, optimizer=optimizer, group=group)
        self.start_value, self.end_value, self.max_epochs, self.max_steps = start, end, max_epochs, max_steps


class ExponentialDecay(Schedule):
    """Multiplies a value by the same factor each epoch or step until the end, then leaves it there.

    Epoch (or step) e has ``start_value * (end_value / start_value) ** ((e - 1) / (max_epochs - 1))``, and `end_value`
    from `max_epochs` on; with ``max_epochs=1`` that is at once.

    Args:
        name: A hyperparameter, or a value of the optimizer; `Schedule` says which.
        start_value: The value in the first epoch or step; not 0.
        end_value: The value in the last one, and after it; not 0, with the sign of `start_value`.
        max_epochs: The epoch that has `end_value`, 1 or more. Either this or `max_steps`.
        max_steps: The step that has `end_value`, 1 or more.
        optimizer: Which of several, as for `Schedule`. Default: the only one.
        group: The one parameter group to move. Default: all, in their ratios.

    Raises:
        ArgumentError: If a value is 0 or not finite, the signs differ, the length is no whole number of 1 or more, or
            not exactly one of `max_epochs` and `max_steps` is given; and as `Schedule` does.

    Example:
        >>> lr = ExponentialDecay("lr", 8, 1, max_epochs=4)
        >>> [round(lr.fn(epoch), 4) for epoch in (1, 2, 3, 4, 5)]
        [8.0, 4.0, 2.0, 1.0, 1.0]
    """

    def __init__(
        self,
        name: str,
        start_value: float,
        end_value: float,
        max_epochs: int | None = None,
        *,
        max_steps: int | None = None,
        optimizer: str | int | None = None,
        group: int | None = None,
    ) -> None:
        call = f"ExponentialDecay({name!r})"
        start, end = finite(f"start_value of {call}", start_value), finite(f"end_value of {call}", end_value)
        if start == 0 or end == 0 or (start > 0) != (end > 0):
            raise ArgumentError(
                f"{call} got start_value={start_value!r} and end_value={end_value!r}",
                "two numbers of one sign, neither of them 0",
                "for an end of 0 use LinearDecay or CosineDecay",
            )
        every, length = _length(call, max_epochs=max_epochs, max_steps=max_steps)
        sign = math.copysign(1.0, start)

        def power(done: int, whole: int) -> float:
            # Two powers and not one of the quotient, which may overflow.
            return float(sign * abs(start) ** (1 - done / whole) * abs(end) ** (done / whole))

        super().__init__(name, _decay(start, end, length, power), every=every, optimizer=optimizer, group=group)
        self.start_value, self.end_value, self.max_epochs, self.max_steps = start, end, max_epochs, max_steps


class CosineDecay(Schedule):
    """Moves a value along half a cosine: slowly, fast in the middle, slowly again; then leaves it at the end.

    Epoch (or step) e has ``end_value + (start_value - end_value) * (1 + cos(pi * (e - 1) / (max_epochs - 1))) / 2``,
    and `end_value` from `max_epochs` on; with ``max_epochs=1`` that is at once. It is one cycle of Loshchilov and
    Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017), arXiv:1608.03983, equation 5, whose last
    epoch has the end value.

    Args:
        name: A hyperparameter, or a value of the optimizer; `Schedule` says which.
        start_value: The value in the first epoch or step.
        end_value: The value in the last one, and after it. Default 0.
        max_epochs: The epoch that has `end_value`, 1 or more. Either this or `max_steps`.
        max_steps: The step that has `end_value`, 1 or more.
        optimizer: Which of several, as for `Schedule`. Default: the only one.
        group: The one parameter group to move. Default: all, in their ratios.

    Raises:
        ArgumentError: If a value is not finite, the length is no whole number of 1 or more, or not exactly one of
            `max_epochs` and `max_steps` is given; and as `Schedule` does.

    Example:
        >>> lr = CosineDecay("lr", 1.0, max_steps=5)
        >>> [round(lr.fn(step), 4) for step in (1, 2, 3, 4, 5, 6)]
        [1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0]
    """

    def __init__(
        self,
        name: str,
        start_value: float,
        end_value: float = 0.0,
        max_epochs: int | None = None,
        *,
        max_steps: int | None = None,
        optimizer: str | int | None = None,
        group: int | None = None,
    ) -> None:
        call = f"CosineDecay({name!r})"
        start, end = finite(f"start_value of {call}", start_value), finite(f"end_value of {call}", end_value)
        every, length = _length(call, max_epochs=max_epochs, max_steps=max_steps)

        def cosine(done: int, whole: int) -> float:
            return _half_cosine(start, end, done / whole)

        super().__init__(name, _decay(start, end, length, cosine), every=every, optimizer=optimizer, group=group)
        self.start_value, self.end_value, self.max_epochs, self.max_steps = start, end, max_epochs, max_steps


class CosineAnneal(Schedule):
    """Moves a value along half a cosine again and again: SGDR, with warm restarts.

    With T the cycle's length and t = 0, 1, ..., T - 1 the epochs (or steps) since it began, the value is
    ``end_value + (start_value - end_value) * (1 + cos(pi * t / T)) / 2``. Where t would be T the next cycle begins,
    at `start_value` again and `multiplier` times as long. Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient
    Descent with Warm Restarts" (2017), arXiv:1608.03983, equation 5.

    Args:
        name: A hyperparameter, or a value of the optimizer; `Schedule` says which.
        start_value: The value at the start of each cycle (eta_max in the paper).
        end_value: What each cycle goes down to (eta_min). Default 0.
        period_epochs: The length of the first cycle (T_0) in epochs, 1 or more. Either this or `period_steps`.
        period_steps: The length of the first cycle in steps, 1 or more.
        multiplier: How much longer each cycle is than the one before (T_mult), a whole number. Default 1.
        cycles: How many there are; the value stays `end_value` after the last. Default: without end.
        optimizer: Which of several, as for `Schedule`. Default: the only one.
        group: The one parameter group to move. Default: all, in their ratios.

    Raises:
        ArgumentError: If a value is not finite, the period, `multiplier` or `cycles` is no whole number of 1 or more,
            or not exactly one of `period_epochs` and `period_steps` is given; and as `Schedule` does.

    Example:
        >>> lr = CosineAnneal("lr", 1.0, period_epochs=2, multiplier=2)
        >>> [round(lr.fn(epoch), 4) for epoch in range(1, 8)]
        [1.0, 0.5, 1.0, 0.8536, 0.5, 0.1464, 1.0]
    """

    def __init__(
        self,
        name: str,
        start_value: float,
        end_value: float = 0.0,
        *,
        period_epochs: int | None = None,
        period_steps: int | None = None,
        multiplier: int = 1,
        cycles: int | None = None,
        optimizer: str | int | None = None,
        group: int | None = None,
    ) -> None:
        call = f"CosineAnneal({name!r})"
        start, end = finite(f"start_value of {call}", start_value), finite(f"end_value of {call}", end_value)
        every, period = _length(call, period_epochs=period_epochs, period_steps=period_steps)
        factor = positive_count(f"multiplier of {call}", multiplier)
        last = None if cycles is None else positive_count(f"cycles of {call}", cycles)

        def fn(count: int) -> float:
            begun, since, length = 1, max(count, 1) - 1, period
            if factor == 1:
                begun, since = 1 + since // period, since % period
            while since >= length:
                begun, since, length = begun + 1, since - length, length * factor
            if last is not None and begun > last:
                return end
            return start if since == 0 else _between(start, _half_cosine(start, end, since / length), end)

        super().__init__(name, fn, every=every, optimizer=optimizer, group=group)
        self.start_value, self.end_value, self.multiplier, self.cycles = start, end, factor, last
        self.period_epochs, self.period_steps = period_epochs, period_steps


class StepDecay(Schedule):
    """Multiplies a value by `factor` now and then: every so many epochs or steps, or at milestones.

    Epoch (or step) e has ``start_value * factor ** k``. With a period of N, k is ``(e - 1) // N``: it drops after N,
    2N, 3N epochs, and so on without end. With milestones, k is how many of them have been finished: it drops after
    each, and stays after the last.

    Args:
        name: A hyperparameter, or a value of the optimizer; `Schedule` says which.
        start_value: The value before the first drop.
        factor: What it is multiplied by at each drop, between 0 and 1. Default 0.1.
        period_epochs: How many epochs there are from drop to drop, 1 or more. Exactly one of these four.
        period_steps: How many steps there are from drop to drop, 1 or more.
        milestone_epochs: After which epochs it drops: rising whole numbers, 1 or more.
        milestone_steps: After which steps it drops: rising whole numbers, 1 or more.
        optimizer: Which of several, as for `Schedule`. Default: the only one.
        group: The one parameter group to move. Default: all, in their ratios.

    Raises:
        ArgumentError: If `start_value` is not finite, `factor` is not between 0 and 1, the period or a milestone is no
            whole number of 1 or more, the milestones do not rise, or not exactly one of the four is given; and as
            `Schedule` does.

    Example:
        >>> lr = StepDecay("lr", 8.0, factor=0.5, milestone_epochs=[2, 5])
        >>> [lr.fn(epoch) for epoch in (1, 2, 3, 4, 5, 6, 7)]
        [8.0, 8.0, 4.0, 4.0, 4.0, 2.0, 2.0]
    """

    def __init__(
        self,
        name: str,
        start_value: float,
        factor: float = 0.1,
        *,
        period_epochs: int | None = None,
        period_steps: int | None = None,
        milestone_epochs: Sequence[int] | None = None,
        milestone_steps: Sequence[int] | None = None,
        optimizer: str | int | None = None,
        group: int | None = None,
    ) -> None:
        call = f"StepDecay({name!r})"
        start, ratio = finite(f"start_value of {call}", start_value), finite(f"factor of {call}", factor)
        if not 0 < ratio < 1:
            raise ArgumentError(f"factor of {call} is {factor!r}", "a number between 0 and 1", "for example factor=0.1")
        option, given = _only_one(
            call,
            period_epochs=period_epochs,
            period_steps=period_steps,
            milestone_epochs=milestone_epochs,
            milestone_steps=milestone_steps,
        )
        if option.startswith("period"):
            period = positive_count(f"{option} of {call}", given)

            def fn(count: int) -> float:
                return float(start * ratio ** ((max(count, 1) - 1) // period))
        else:
            milestones = _rising(f"{option} of {call}", given)

            def fn(count: int) -> float:
                return float(start * ratio ** sum(milestone < count for milestone in milestones))

        super().__init__(name, fn, every=_unit(option), optimizer=optimizer, group=group)
        self.start_value, self.factor = start, ratio
        self.period_epochs, self.period_steps = period_epochs, period_steps
        self.milestone_epochs, self.milestone_steps = milestone_epochs, milestone_steps


def _decay(start: float, end: float, length: int, curve: Callable[[int, int], float]) -> Callable[[int], float]:
    """`curve` of the counts since the first and of how many there are in all, held to both ends."""

    def fn(count: int) -> float:
        if count >= length or length == 1:
            return end
        return start if count <= 1 else _between(start, curve(count - 1, length - 1), end)

    return fn


def _between(start: float, value: float, end: float) -> float:
    """`value`, but no rounding carries it past either end."""
    return min(max(value, min(start, end)), max(start, end))


def _half_cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def _only_one(call: str, **options: Any) -> tuple[str, Any]:
    given = {option: value for option, value in options.items() if value is not None}
    if len(given) != 1:
        raise ArgumentError(
            f"{call} got {' and '.join(given) or 'no length'}",
            f"exactly one of {', '.join(options)}",
            "leave out all but one" if given else f"pass {next(iter(options))}=, to count by epochs",
        )
    return next(iter(given.items()))


def _length(call: str, **options: Any) -> tuple[Literal["epoch", "step"], int]:
    option, value = _only_one(call, **options)
    return _unit(option), positive_count(f"{option} of {call}", value)


def _unit(option: str) -> Literal["epoch", "step"]:
    return "epoch" if option.endswith("epochs") else "step"


def _rising(what: str, values: Any) -> list[int]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or not values:
        raise ArgumentError(
            f"{what} is {values!r}", "a list of rising whole numbers, 1 or more", "for example [30, 60, 90]"
        )
    counts = [positive_count(f"one of {what}", value) for value in values]
    if not all(before < after for before, after in pairwise(counts)):
        raise ArgumentError(f"{what} is {values!r}", "rising whole numbers, none twice", f"pass {sorted(set(counts))}")
    return counts
