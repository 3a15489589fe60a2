"""Where the time of a step goes: a trace by torch.profiler, and the operations that take the most."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from ignition.callbacks.base import Callback
from ignition.errors import ArgumentError

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["Profile"]


class Profile(Callback):
    """Records some steps with torch.profiler, writes the trace, and prints the operations that took the most time.

    Once in its life: in the first fit that lasts long enough. The steps recorded are slower for it, all others are
    not. The trace is opened in ui.perfetto.dev or chrome://tracing; each step is a block ``ProfilerStep#...`` in it.

    Args:
        steps: How many steps are recorded, 1 or more.
        folder: Where the trace goes, as ``steps-<first>-<last>.json`` by the Trainer's count of steps.
        wait: How many steps of the fit are let pass before, in which caches fill and kernels are chosen, 0 or more.
        warmup: How many steps after them run under the profiler without being recorded, since it is slow at its
            start, 1 or more.
        top: How many operations are printed, 1 or more, with their milliseconds a step.

    Attributes:
        path: The trace, once it is written.

    Raises:
        ArgumentError: If a number is none of those.
        TypeError: If `folder` is no path.
        OSError: When the fit begins, if the folder cannot be made; when the trace is written, if it cannot be.

    Example:
        >>> profile = Profile(steps=5, folder="runs/profile")  # then trainer.callbacks = [profile]
        >>> profile.path is None  # until the trace is written, in the first fit that lasts long enough
        True
    """

    main_only: ClassVar[bool] = True

    def __init__(
        self,
        steps: int = 5,
        *,
        folder: str | os.PathLike[str] = "profile",
        wait: int = 2,
        warmup: int = 1,
        top: int = 10,
    ) -> None:
        for name, value, least in (("steps", steps, 1), ("wait", wait, 0), ("warmup", warmup, 1), ("top", top, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ArgumentError(
                    f"Profile was given {name}={value!r}",
                    expected=f"an integer of {least} or more",
                    fix=f"for example {name}={max(least, 5)}",
                )
        self.steps = steps
        self.folder = Path(folder)
        self.wait = wait
        self.warmup = warmup
        self.top = top
        self.path: Path | None = None
        self._profiler: Any = None
        self._done = 0  # steps of this fit

    def __repr__(self) -> str:
        return f"Profile(steps={self.steps}, folder={str(self.folder)!r})"

    def on_train_begin(self, trainer: Trainer[Any]) -> None:
        """Starts the profiler, unless a trace was written before."""
        if self.path is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._done = 0
        self._profiler = profile(
            activities=_activities(),
            schedule=schedule(wait=self.wait, warmup=self.warmup, active=self.steps, repeat=1),
            acc_events=True,
        )
        self._profiler.start()

    def on_step_end(self, trainer: Trainer[Any]) -> None:
        """Counts the step, and ends the recording after the last one."""
        if self._profiler is None:
            return
        self._done += 1
        if self._done < self.wait + self.warmup + self.steps:
            self._profiler.step()
        else:
            self._finish(trainer)

    def on_train_end(self, trainer: Trainer[Any]) -> None:
        """Writes what was recorded, if the fit was shorter."""
        if self._profiler is not None:  # the fit was shorter, or something was raised
            self._finish(trainer)

    def _finish(self, trainer: Trainer[Any]) -> None:
        """Closes the profiler, and writes what it has recorded, if anything."""
        profiler, self._profiler = self._profiler, None
        recorded = self._done - self.wait - self.warmup
        profiler.stop()
        say = trainer.training.progress.say
        if recorded < 1:
            say(f"no profile: the fit ended after {self._done} steps, and {self.wait + self.warmup} come before it")
            return
        path = self.folder / f"steps-{trainer.step - recorded + 1}-{trainer.step}.json"
        profiler.export_chrome_trace(str(path))
        self.path = path
        for line in _report(profiler.key_averages(), recorded, self.top):
            say(line)
        say(f"  the whole trace is in {path}, for ui.perfetto.dev or chrome://tracing")


def _activities() -> list[ProfilerActivity]:
    """The CPU, and the accelerator if there is one that the profiler knows."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    other = None if accelerator is None else getattr(ProfilerActivity, accelerator.type.upper(), None)
    return [ProfilerActivity.CPU, *([other] if other is not None else [])]


def _report(events: Any, steps: int, top: int) -> list[str]:
    """The operations that took the most time of their own: on the accelerator if it did anything, else on the CPU."""
    operations = [event for event in events if not event.key.startswith("ProfilerStep")]
    on_device = any(event.self_device_time_total for event in operations)
    times = {
        event: event.self_device_time_total if on_device else event.self_cpu_time_total  # µs
        for event in operations
    }
    total = sum(times.values()) or 1.0
    where = "the accelerator" if on_device else "the CPU"
    lines = [
        f"profile of {steps} step{'s' * (steps > 1)}: {total / 1000 / steps:.2f} ms a step in operations on {where}",
        f"  {'share':>6}  {'ms/step':>8}  {'calls':>6}  operation",
    ]
    for event in sorted(operations, key=lambda one: times[one], reverse=True)[:top]:
        if times[event] > 0:
            share, each = times[event] / total, times[event] / 1000 / steps
            lines.append(f"  {share:>6.1%}  {each:>8.3f}  {event.count:>6}  {event.key[:60]}")
    return lines
