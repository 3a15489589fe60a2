"""The sweep over learning rates, given a way to take steps, and what its curve suggests.

Two methods suggest one: `valley`, which is fastai's, and `steepest`, which names the steepest descent. The second lies
nearer to where the loss diverges, and moves more from run to run.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ignition.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LRSweep", "check_sweep", "steepest", "sweep", "valley"]

_DIVERGED = 4.0
"""How many times its best the smoothed loss may become."""


@dataclass(slots=True, eq=False)
class LRSweep:
    """The loss at learning rates that grow from step to step.

    Attributes:
        lrs: The learning rate of each step that was taken, growing exponentially.
        losses: The loss of each step, as it was measured before the step was taken.
        smoothed: Their exponential moving average, its bias towards the start corrected.
        metric: What the train function calls the loss.
        end: Why the sweep ended, in words.

    Example:
        >>> lr_sweep = sweep(lambda lr: 1.0 / (1.0 + 50.0 * lr), start_lr=1e-4, end_lr=1.0, steps=50)
        >>> len(lr_sweep.lrs), 1e-3 < lr_sweep.suggestion < 1e-1
        (50, True)
    """

    lrs: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)
    metric: str = "loss"
    end: str = "all steps were taken"

    @property
    def suggestions(self) -> dict[str, float | None]:
        """A learning rate by method, ``"valley"`` and ``"steepest"``; None where the loss never fell.

        The first tenth of the steps is left out, where the average is of few losses still.
        """
        first = len(self.lrs) // 10
        lrs, losses = self.lrs[first:], self.smoothed[first:]
        return {"valley": valley(lrs, losses), "steepest": steepest(lrs, losses)}

    @property
    def suggestion(self) -> float | None:
        """That of the valley, the more careful and steadier of the two; None where the loss never fell."""
        return self.suggestions["valley"]

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draws the loss over the learning rate, on a logarithmic axis, with the suggestions marked.

        Args:
            ax: Where to draw; by default a figure of its own, that shows in a notebook.

        Returns:
            The matplotlib ``Axes``; ``.figure.savefig("lr.png")`` writes it to a file.

        Raises:
            ArgumentError: `ax` is no ``Axes``.
            IgnitionError: matplotlib is not installed.
        """
        from ignition.plots import draw_sweep

        marks = {name: lr for name, lr in self.suggestions.items() if lr is not None}
        return draw_sweep(self.lrs, self.losses, self.smoothed, marks, y_label=self.metric, ax=ax)

    def __repr__(self) -> str:
        """In lines: how far it came, and what it suggests."""
        if not self.lrs:
            return f"LRSweep: no step ({self.end})"
        found = [f"{name} {lr:.3g}" for name, lr in self.suggestions.items() if lr is not None]
        lowest = int(np.argmin(self.smoothed))
        swept = f"lr {self.lrs[0]:.3g} to {self.lrs[-1]:.3g}"
        return (
            f"LRSweep: {len(self.lrs)} steps, {swept}; {self.end}\n"
            f"  suggestion: {', '.join(found) or 'none, as the loss never fell'}\n"
            f"  lowest smoothed {self.metric}: {self.smoothed[lowest]:.4g} at lr "
            f"{self.lrs[lowest]:.3g}; .plot() draws the curve"
        )


def sweep(
    step: Callable[[float], float | None],
    *,
    start_lr: float,
    end_lr: float,
    steps: int,
    smoothing: float = 0.9,
    metric: str = "loss",
) -> LRSweep:
    """Takes steps at learning rates that grow exponentially, until they are through or the loss diverges.

    The range test of Smith, "Cyclical Learning Rates for Training Neural Networks" (2015), arXiv:1506.01186, with
    exponential growth. It has diverged when a loss is not finite, or the smoothed loss is more than four times its
    best (of a best b below zero: more than 3 |b| above it).

    Args:
        step: ``step(lr)`` takes one step at a learning rate, and returns the loss; None ends the sweep.
        start_lr: The first learning rate, above 0.
        end_lr: The last one, above `start_lr`.
        steps: How many steps to take, 2 or more.
        smoothing: How much of the moving average each step keeps, from 0 to below 1.
        metric: What the loss is called.

    Returns:
        What was measured, with at least the steps up to the divergence.
    """
    found = LRSweep(metric=metric)
    growth = math.log(end_lr / start_lr) / (steps - 1)
    average, weight, best = 0.0, 0.0, math.inf
    for index in range(steps):
        lr = end_lr if index == steps - 1 else start_lr * math.exp(growth * index)
        loss = step(lr)
        if loss is None:
            found.end = "it was stopped"
            break
        if not math.isfinite(loss):
            found.end = f"the {metric} became {loss} at lr {lr:.3g}"
            break
        average = smoothing * average + (1 - smoothing) * loss
        weight = smoothing * weight + (1 - smoothing)  # 1 - smoothing ** steps: what the average lacks at its start
        smoothed = average / weight
        found.lrs.append(lr)
        found.losses.append(loss)
        found.smoothed.append(smoothed)
        best = min(best, smoothed)
        if smoothed > best + (_DIVERGED - 1) * abs(best):
            found.end = f"the {metric} diverged"
            break
    return found


def steepest(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """The learning rate at which the loss falls fastest, over the logarithm of the learning rate.

    Only on the way to the lowest loss: after it, what falls is what came back from a first divergence. None where it
    never falls, or there are less than two points.

    Example:
        >>> steepest([0.001, 0.01, 0.1, 1.0], [5.0, 4.0, 1.0, 0.5])
        0.01
    """
    if len(lrs) < 2:
        return None
    slopes = np.gradient(np.asarray(losses, dtype=float), np.log(lrs))
    index = int(slopes[: int(np.argmin(losses)) + 1].argmin())
    return float(lrs[index]) if slopes[index] < 0 else None


def valley(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """The learning rate halfway through the longest valley: the longest run of losses, gaps allowed, that only fall.

    As `fastai <https://docs.fast.ai/callback.schedule.html>`_ has it (``SuggestionMethod.Valley``, fastai/fastai#3377):
    a valley of n losses whose last is number e is taken to begin at e - n; with thirds of that length, the point is a
    third and half a third into it, each rounded down. None where no loss is below one before it.

    Example:
        >>> valley([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [9.0, 8.0, 6.0, 4.0, 2.0, 1.0, 7.0])
        0.2
    """
    tails: list[float] = []  # of the falling runs of each length, how high the last loss of one may be, negated
    length, end = 0, 0
    for index, loss in enumerate(losses):
        place = bisect_left(tails, -loss)  # how many losses can fall down to this one
        tails[place : place + 1] = [-loss]
        if place + 1 > length:
            length, end = place + 1, index
    if length < 2:
        return None
    start = max(0, end - length)
    third = (end - start) / 3
    return float(lrs[start + int(third) + int(third / 2)])


def check_sweep(start_lr: Any, end_lr: Any, steps: Any, smoothing: Any, metric: Any) -> None:
    """Raises ArgumentError if the arguments make no sweep."""
    numbers: Mapping[str, Any] = {"start_lr": start_lr, "end_lr": end_lr}
    for name, value in numbers.items():
        if not _is_real(value) or not 0 < value < math.inf:
            raise ArgumentError(f"{name}={value!r}", "a finite number above 0", f"for example {name}=1e-6")
    if start_lr >= end_lr:
        raise ArgumentError(
            f"start_lr={start_lr!r} and end_lr={end_lr!r}",
            "a start below the end, as the learning rate grows",
            "for example find_lr(start_lr=1e-6, end_lr=10)",
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise ArgumentError(f"steps={steps!r}", "an integer of 2 or more", "steps=100")
    if not _is_real(smoothing) or not 0 <= smoothing < 1:
        raise ArgumentError(f"smoothing={smoothing!r}", "a number from 0 to below 1", "smoothing=0.9, or 0 for none")
    if not isinstance(metric, str):
        raise ArgumentError(f"metric={metric!r}", "the name of a metric that train_fn returns", 'metric="loss"')


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float, np.floating)) and not isinstance(value, bool)
