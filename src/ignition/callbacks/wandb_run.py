"""WandB: a training as a run of Weights & Biases, online or offline."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignition.callbacks.tracking import Tracker, hyperparameters, require
from ignition.callbacks.wandb_file import rows
from ignition.errors import ArgumentError

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["WandB"]

_PATIENCE = 300.0  # seconds; by itself wandb tries for hours


class WandB(Tracker):
    """Writes a training to a run of Weights & Biases: the hyperparameters as its config, and metrics by the step.

    Metrics are every record (``train_loss``, ``val_loss``, ``lr``, ``seconds`` and so on) over ``step``, and every so
    many steps the batch's metrics (``batch/loss``) over ``batch/step``.

    Without a run of its own it writes to the one that ``wandb.init()`` has begun, and leaves that open. A training
    that goes on from a checkpoint goes on in the run that it had, by its id; a point that the run has is not written
    again. Offline each fit leaves a folder of its own, all with the run's id, which ``wandb sync`` puts together. A
    process that is killed outright loses what wandb had not written by then, which it does every few seconds; of that
    the records are written again.
    The server may fail while it trains: see `ignition.callbacks.tracking`. The end of a fit waits no more than five
    minutes for it, or as long as ``settings={"finish_timeout": 3600}`` says; what it did not get lies in wandb's
    folder, and ``wandb sync`` brings it there.

    Args:
        project: Its name. Default: what wandb is set to.
        every: After how many steps, 1 or more, the batch's metrics are written; None for never.
        hyper: Hyperparameters to note that the Trainer does not know, such as ``{"layers": 3}``.
        options: For ``wandb.init``: ``name=``, ``entity=``, ``group=``, ``tags=``, ``dir=``, ``settings=``, ``id=`` (by
            which a run that is there is gone on with), and ``mode=``. With ``mode="offline"``, or ``WANDB_MODE`` set
            so, nothing is asked of the network. ``resume=`` and ``config=`` are refused:
            ``fit(..., resume=True)`` and `hyper` are there for that.

    Attributes:
        run_id: The run, from the first fit's start on; None before.
        run: The ``wandb.Run`` of the running fit, or None.

    Raises:
        ArgumentError: If an argument is none of these.
        IgnitionError: If wandb is not installed.
        wandb.Error, TypeError: At the first fit's start, if the run cannot be begun, or `options` has what
            ``wandb.init`` does not know.

    Example:
        >>> from ignition.callbacks import WandB
        >>> WandB("digits", mode="offline", dir="runs")
        WandB('digits', every=50, mode='offline', dir='runs')
    """

    def __init__(
        self, project: str | None = None, every: int | None = 50, hyper: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        if project is not None and not (isinstance(project, str) and project):
            raise ArgumentError(f"WandB got {project!r:.60} as its project", "a name", "for example WandB('digits')")
        for name, instead in (("resume", "fit(..., resume=True) and id="), ("config", "hyper=")):
            if name in options:
                raise ArgumentError(f"WandB got {name}=", f"{instead}, which say it", f"use {instead}")
        super().__init__(every, hyper)
        require("wandb", "wandb", "WandB")
        self.project = project
        self.options = options
        self.run: Any = None
        self._lost: Any = None
        self._is_own = True

    def __repr__(self) -> str:
        shown = {name: value for name, value in self.options.items() if isinstance(value, (str, int))}
        options = "".join(f", {name}={value!r}" for name, value in shown.items())
        return f"WandB({self.project!r}, every={self.every}{options})"

    def _open(self, trainer: Trainer[Any]) -> tuple[int, int]:
        import wandb

        if self.run is not None:  # one that has failed
            self._close("lost")
        self._is_own = wandb.run is None or wandb.run is self._lost
        if not self._is_own:
            self.run = wandb.run
        else:
            options: dict[str, Any] = {"project": self.project} | self.options
            if options.get("mode") == "offline":  # else its telemetry asks the network all the same
                wandb.setup(settings=wandb.Settings(mode="offline"))
            if self.run_id is not None:
                options["id"] = self.run_id
            if wandb.run is not None:  # the lost one, which wandb would try to finish
                options["reinit"] = "create_new"
            options["settings"] = _patient(options.get("settings"))
            self.run = wandb.init(**options, resume=None if options.get("id") is None else "allow")
        self.run_id = self.run.id
        self.run.config.setdefaults(hyperparameters(trainer, self.hyper))
        self._defined: set[str] = set()
        written = [*_earlier_rows(_file_of(self.run)), dict(self.run.summary)]
        if self._is_own and self.run.offline:
            # Offline every fit begins to count at 0, and the same number is the same row to wandb.
            self._next_row: int | None = max((int(row.get("_step", -1)) for row in written), default=-1) + 1
        else:
            self._next_row = None
        return _last(written, "step"), _last(written, "batch/step")

    def _write(self, step: int, values: dict[str, float], is_record: bool) -> None:
        axis = "step" if is_record else "batch/step"
        for name in values.keys() - self._defined:
            self.run.define_metric(name, step_metric=axis)
        self._defined |= values.keys()
        row, self._next_row = self._next_row, None  # it counts on from there
        self.run.log(values | {axis: step}, step=row, commit=True)

    def _close(self, outcome: str) -> None:
        run, self.run = self.run, None
        if run is None or not self._is_own:
            return
        if outcome != "lost":
            path = _file_of(run) if run.offline else None
            self._lost = run  # if this fails; else wandb has another one, or none
            run.finish(exit_code=0 if outcome == "finished" else 1)
            self._lost = None
            if path is not None:
                self._check_written(path)
            return
        import wandb

        self._lost = run
        with suppress(Exception):
            run.finish(exit_code=1)
        with suppress(Exception):  # its service may be gone: the next run starts another
            wandb.teardown()

    def _check_written(self, path: Path) -> None:
        """Raises OSError if the last record is not there: wandb's service says nothing of a disk that failed."""
        last = _last(rows(path, finished=time.time()), "step")
        if last < self._recorded and _last([*_earlier_rows(path)], "step") < self._recorded:
            raise OSError(f"{path} ends with step {last}, and not with {self._recorded}")


def _patient(settings: Any) -> Any:
    """Settings in which the end of a fit does not wait for a server that is gone, other than for some minutes."""
    import wandb

    fields = wandb.Settings.model_fields
    if "finish_timeout" not in fields or "WANDB_FINISH_TIMEOUT" in os.environ:
        return settings
    usual = {"finish_timeout": _PATIENCE, "finish_timeout_raises": True}
    if settings is None or isinstance(settings, Mapping):
        return usual | dict(settings or {})
    return settings.model_copy(update={name: usual[name] for name in usual.keys() - settings.model_fields_set})


def _last(written: list[dict[str, Any]], name: str) -> int:
    return max((int(row[name]) for row in written if name in row), default=-1)


def _file_of(run: Any) -> Path:
    return Path(run.dir).parent / f"run-{run.id}.wandb"


def _earlier_rows(path: Path) -> Iterator[dict[str, Any]]:
    """What earlier fits have left of a run offline; online, the server tells by the summary where the run is."""
    for other in sorted(path.parent.parent.glob(f"*run-*/{escape(path.name)}")):
        if other != path:
            yield from rows(other)
