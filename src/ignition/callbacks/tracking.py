"""What every tracker notes of a training, when, and that one which fails never ends it."""

from __future__ import annotations

import random
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

from ignition.callbacks.base import Callback
from ignition.callbacks.schedule import positive_count
from ignition.errors import ArgumentError, IgnitionError, warn
from ignition.records import plain_values
from ignition.state_values import check_memory
from ignition.structure import named, suffix

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["Tracker", "hyperparameters", "require"]

RETRY_SECONDS = 60.0
_NOTHING = -1  # the step of the last point where there is none


class Tracker(Callback, ABC):
    """What the trackers have in common. Each of them says how its run is opened, written to and closed.

    Every record goes to the tracker when it is written, under the names of history's columns; what the train function
    returned goes there every so many steps, as ``batch/loss`` and so on. The values are read only at those steps: on
    an accelerator that is where they are waited for. All points are placed by ``trainer.step``.

    A fit begins with writing the records that the run does not have. So nothing is missing where the tracker was
    added late or could not write for a while, and a point that the run has is not written again: a training that goes
    on from a checkpoint goes on in its run, with each step once. Where a run is begun anew by another Trainer, it is
    another run.

    What goes wrong at the start of the first fit is an error. After that the training goes on whatever the tracker
    does: there is one warning a fit, and it is tried again at a later record, so that no more than a tenth of the time
    is spent on that.

    Args:
        every: After how many steps the batch's metrics are written; None for never.
        hyper: Hyperparameters to note that the Trainer does not know, such as ``{"layers": 3}``.
    """

    main_only: ClassVar[bool] = True

    def __init__(self, every: int | None, hyper: Mapping[str, Any] | None) -> None:
        name = type(self).__name__
        if hyper is not None and not (isinstance(hyper, Mapping) and all(isinstance(key, str) for key in hyper)):
            raise ArgumentError(
                f"{name} got {hyper!r:.60} as hyper",
                "hyperparameters by name, that the Trainer does not know",
                f"for example {name}(..., hyper={{'layers': 3}})",
            )
        self.hyper = dict(hyper or {})
        self.every = None if every is None else positive_count(f"every of {name}", every)
        if self.every is not None:
            self.on_step_end = self._look_at_batch  # type: ignore[method-assign]  # costs nothing otherwise
        self.run_id: str | None = None
        self._trainer: weakref.ref[Any] | None = None
        self._is_open = self._warned = self._restored = False
        self._retry_at: float | None = None  # None where nothing has failed
        self._recorded = self._batched = _NOTHING  # the steps of the last record and the last batch in the run

    # What each tracker does

    @abstractmethod
    def _open(self, trainer: Trainer[Any]) -> tuple[int, int]:
        """Opens the run `run_id`, or a new one where it is None; the steps of the last record and batch in it."""

    @abstractmethod
    def _write(self, step: int, values: dict[str, float], is_record: bool) -> None:
        """Writes the values of a record or of a batch, by their names in the run."""

    def _flush(self) -> None:
        """Has all that was written reach the disk or the server."""

    def _finish(self, trainer: Trainer[Any]) -> None:
        """What comes at the end of a fit, when all records are written."""

    @abstractmethod
    def _close(self, outcome: str) -> None:
        """Lets go of the run; `outcome` is "finished", "failed" or, where the run cannot be reached, "lost"."""

    # Events

    def on_train_begin(self, trainer: Trainer[Any]) -> None:
        """Opens the run, and writes the records that it does not have."""
        self._warned, self._retry_at = False, None
        if not _is_logged():
            return
        is_known = self._trainer is not None and self._trainer() is trainer
        if not self._restored and not is_known:
            self.run_id, self._recorded = None, _NOTHING  # another training is another run
        self._trainer, self._restored = weakref.ref(trainer), False
        if is_known:
            self._attempt(self._begin, trainer)
        else:
            self._begin(trainer)

    def on_record(self, trainer: Trainer[Any]) -> None:
        """Writes the record."""
        if self._retry_at is not None and time.monotonic() >= self._retry_at:
            self._attempt(self._begin, trainer)
        elif self._is_open:
            self._attempt(self._catch_up, trainer)

    def on_train_end(self, trainer: Trainer[Any]) -> None:
        """Writes what is left, and closes the run; the next fit goes on in it."""
        if self._is_open:
            self._attempt(self._catch_up, trainer)
        if self._is_open:
            self._attempt(self._finish, trainer)
        failed = trainer.exception is not None
        outcome = "lost" if not self._is_open else "failed" if failed else "finished"
        self._is_open = False
        self._attempt(self._close, outcome)

    def state_dict(self) -> dict[str, Any]:
        """The run, and the step of the last record in it; all until there is written when a checkpoint says so."""
        if self._is_open:
            self._attempt(self._flush)
        return {"run_id": self.run_id, "recorded": self._recorded}

    def check_state(self, trainer: Trainer[Any], state: dict[str, Any]) -> None:
        """Checks the values."""
        check_memory(self, state, run_id="text or none", recorded="number")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned."""
        self.run_id, self._recorded, self._restored = state["run_id"], state["recorded"], True

    # Inside

    def _begin(self, trainer: Trainer[Any]) -> None:
        drawn = random.getstate()
        try:
            self._recorded, self._batched = self._open(trainer)
        finally:
            random.setstate(drawn)  # MLflow draws the name of a run; a training does not depend on its trackers
        self._is_open, self._retry_at = True, None
        self._catch_up(trainer)

    def _catch_up(self, trainer: Trainer[Any]) -> None:
        for row in trainer.history.rows:
            step = int(row["step"])
            if step > self._recorded:
                values = {name: float(value) for name, value in row.items() if isinstance(value, Real)}
                del values["step"]  # it is where the others are
                self._write(step, values, is_record=True)
                self._recorded = step
        self._flush()

    def _look_at_batch(self, trainer: Trainer[Any]) -> None:
        step = trainer.step
        if self.every is not None and step % self.every == 0 and self._is_open and step > self._batched:
            metrics = plain_values(trainer.batch_metrics)
            values = {f"batch/{name}": float(value) for name, value in metrics.items() if isinstance(value, Real)}
            if values:
                self._attempt(self._write, step, values, False)
                self._batched = step

    def _attempt(self, action: Any, *arguments: Any) -> None:
        started = time.monotonic()
        try:
            action(*arguments)
        except Exception as error:  # of whatever kind: each library has its own, and what it stands on has more
            now = time.monotonic()
            self._is_open, self._recorded = False, _NOTHING  # what of the last points has arrived is to be looked up
            self._retry_at = now + max(RETRY_SECONDS, 9 * (now - started))
            if not self._warned:
                self._warned = True
                reason = _reason(error)
                warn(
                    f"{self} could not be written: {reason}; the training goes on. It is tried "
                    f"again at a record after {self._retry_at - now:.0f} s or more, and at the next fit; then the "
                    "records that it lacks are written too",
                )


def _reason(error: BaseException) -> str:
    """One line: of the error that the others were raised from, as MLflow wraps what its database says in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__


def _is_logged() -> bool:
    """Whether this process writes to trackers: the one place that decides it."""
    return True


def require(module: str, extra: str, name: str) -> None:
    """Finds out, without importing it, whether the library of a callback is installed.

    Raises:
        IgnitionError: If it is not.

    Example:
        >>> require("torch", "torch", "TensorBoard")
    """
    if find_spec(module) is None:
        raise IgnitionError(
            f"{name} needs {module}, which is not installed",
            f"{module} beside Ignition",
            f'pip install "torch-ignition[{extra}]"',
        )


def hyperparameters(trainer: Trainer[Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is known by: numbers, strings and switches.

    Args:
        trainer: Its optimizers' kinds and numbers (of their first groups), its loader's batch size, its options where
            they are not the usual ones, and ``trainer.hyper``.
        more: Others; what is no plain value is written as it shows itself.
    """
    found: dict[str, Any] = {}
    for name, one in named(trainer.optimizer).items():
        found[f"optimizer{suffix(name)}"] = type(one).__name__
        groups = getattr(one, "param_groups", None) or [{}]
        numbers = plain_values(groups[0])
        found |= {
            f"{key}{suffix(name)}": value
            for key, value in numbers.items()
            if isinstance(value, Real) and not isinstance(value, bool) and key != "initial_lr"
        }
    rules = trainer.training.rules
    options = {
        "batch_size": getattr(trainer.train_loader, "batch_size", None),
        "accumulate": rules.accumulate if rules.accumulate > 1 else None,
        "clip_norm": rules.clip_norm,
        "seed": trainer.seed,
    }
    found |= {name: value for name, value in options.items() if value is not None}
    found |= plain_values(trainer.hyper)
    return found | {name: plain_values({name: value}).get(name, str(value)) for name, value in more.items()}
