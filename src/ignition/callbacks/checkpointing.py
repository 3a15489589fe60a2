"""Checkpoint: the callback from whose folder a killed training goes on to the same bits."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ignition import checkpoint, distributed, sharded_checkpoint
from ignition.background import Writer
from ignition.callbacks.base import Callback
from ignition.callbacks.saving import mode_of
from ignition.callbacks.schedule import positive_count
from ignition.checkpoint import Content
from ignition.checkpoint_folder import (
    best_of,
    checked_folder,
    end_of,
    is_name,
    name_of,
    paths_in,
    place_in,
    read_named,
    to_be_removed,
)
from ignition.data import check_place_kept
from ignition.duration import seconds_of
from ignition.errors import ArgumentError, CheckpointError, warn
from ignition.growth import Growth
from ignition.lock import FolderLock
from ignition.ranking import Mode, is_better
from ignition.signals import Signals
from ignition.snapshot import apply, capture
from ignition.state_values import check_memory

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["Checkpoint"]


class Checkpoint(Callback):
    """Writes checkpoints from which ``fit(..., resume=True)`` goes on, to the bits of a run that never stopped.

    Run the same script again: it goes on from the newest whole checkpoint, or begins where there is none. A script
    of several fits passes over those that are finished, with their results loaded, and takes up the interrupted one
    at its own call.

    A checkpoint is a folder in `folder`, named for the fit and the step; see `ignition.checkpoint` for what is in it.
    The training waits for a copy in memory only; a thread writes it, flushes it and gives it its name, one at a time.
    What goes wrong there is raised at the next step. While a fit runs, no other training may write to the folder.

    SIGTERM, SIGUSR1 and SIGINT (Ctrl-C) end the fit after the current step (many processes at one step, within about a
    second; an evaluation is left at once), with a checkpoint; ``on_train_end`` comes as always, and the process exits
    with 128 and the signal's number, or KeyboardInterrupt is raised. A second signal ends it at once.

    With it a Trainer without ``seed=`` takes ``torch.initial_seed()`` for one: the order of the data and the
    randomness of each batch follow from it, and the generators that the model draws from are left as they are.

    Args:
        folder: Where the checkpoints are, one folder for each training.
        every: "epoch", a number of steps, or a time: "10min", "2h". Each fit's end is always written.
        keep: How many of the newest are kept, 1 or more, the last fit's end among them; the best one and the ends of
            earlier fits besides.
        best: A column of history, such as "val_loss": whenever it is better than ever, a checkpoint is written and
            kept until a better one is.
        mode: "min" or "max". Default: what the name of `best` tells.

    Attributes:
        last_path: The newest checkpoint that is whole on the disk, or None.
        best_path: The best one, or None.
        best_value: Its value of `best`.

    Raises:
        ArgumentError: If an argument is none of these.
        CheckpointError: At fit, if the folder is another training's, is in use, cannot be written to, or has
            checkpoints and `resume` is not set; or if the train loader cannot be put back where it was, or
            ``trainer.state`` holds what it cannot. When one is due, if that, the models, `hyper` or a callback hold
            what it cannot; at the next step, or at the fit's end, if it could not be
            written. When ``trainer.train_loader`` is set inside the fit.
        MetricError: Before the first record is written, if it lacks `best`; before the first batch for a metric of an
            evaluation where there is none.

    Example:
        >>> Checkpoint("runs/digits", every="10min", best="val_loss").mode
        'min'
    """

    order: ClassVar[int] = 1

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every: str | int = "epoch",
        keep: int = 3,
        best: str | None = None,
        mode: Mode | None = None,
    ) -> None:
        self.folder = checked_folder(folder)
        if mode is not None and best is None:
            raise ArgumentError(
                f"mode={mode!r} without best",
                "the metric it is about: best='val_acc'",
                "pass best= too, or leave mode= out",
            )
        self.every = every
        self.keep = positive_count("keep of Checkpoint", keep)
        self.best = best
        self.mode = None if best is None else mode_of(best, mode)
        self.save_every: int | None = None
        self._seconds: float | None = None
        if isinstance(every, str) and every != "epoch":
            self._seconds = seconds_of(every, "every of Checkpoint")
        elif every != "epoch":
            self.save_every = positive_count("every of Checkpoint", every)
        self.last_path: Path | None = None
        self.best_path: Path | None = None
        self.best_value: float | None = None
        self._lock: FolderLock | None = None
        self._signals: Signals | None = None
        self._growth: Growth | None = None
        self._writer = Writer()
        self._newest: tuple[Path, Content] | None = None  # what a resumed script has still to come to
        self._trainer: Any = None
        self._saved: tuple[Any, ...] = ()
        self._epochs = 0
        self._recorded = 0
        self._clock = 0.0
        self._listen()

    def _listen(self) -> None:
        if self._seconds is not None:  # steps cost nothing otherwise
            self.on_step_end = self._look_at_clock  # type: ignore[method-assign]

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._listen()  # a copy by itself, and not through the one that it was made of

    def __repr__(self) -> str:
        return f"Checkpoint({os.fspath(self.folder)!r}, every={self.every!r}, keep={self.keep}, best={self.best!r})"

    # Going on

    def take_up(self, trainer: Trainer[Any], resume: bool, goes_on: bool) -> bool:
        """Brings a fit that is about to begin to where an earlier run of the script was.

        Args:
            trainer: Between two fits.
            resume: Whether the checkpoints of an earlier run are wanted.
            goes_on: Whether it is the Trainer's last fit once more.

        Returns:
            Whether this very fit was finished then, with its result loaded now.

        Raises:
            CheckpointError: If the folder is in use or cannot be written to, holds the checkpoints of another training,
                or the train loader cannot be put back where it was.
        """
        check_place_kept(trainer.train_loader)
        main = distributed.is_main()
        if main:
            self._lock = FolderLock(self.folder)
        try:
            before = self._before(trainer)
            if before is None:
                if main:
                    checkpoint.sweep(self.folder)
                    self._newest = self._newest_of(self._refused(paths_in(self.folder), resume))
                self.last_path = self.best_path = self.best_value = None  # of a Trainer before this one
                self._saved = ()
            else:
                if before is not self:
                    self.last_path, self._newest, self._saved = before.last_path, before._newest, before._saved
                    self.load_state_dict(before.state_dict())
                if main:
                    self._look_again(trainer, goes_on)
            self._growth = before._growth if before is not None and goes_on else Growth(trainer)
            if trainer.training.processes.many:
                self._read_as_main()
            self._trainer = trainer
            trainer.training.folders[os.path.realpath(self.folder)] = self
            return self._catch_up(trainer)
        except BaseException:
            self.release()
            raise

    def goes_on(self, trainer: Trainer[Any]) -> bool:
        """Whether the Trainer's last fit wrote to this folder and came to no end: Ctrl-C, or an error."""
        return self._before(trainer) is not None and trainer.training.fit.get("ended") is False

    def release(self) -> None:
        """Lets others have the folder, as soon as nothing is being written: a fit may have been left before that."""
        lock, self._lock = self._lock, None
        if lock is not None:
            self._writer.afterwards(lock.release)

    def _before(self, trainer: Trainer[Any]) -> Checkpoint | None:
        """The Checkpoint that wrote to this folder in this training: this one, or one in its place before."""
        before: Checkpoint | None = trainer.training.folders.get(os.path.realpath(self.folder))
        return before if before is not None and before._trainer is trainer else None

    def _refused(self, paths: list[Path], resume: bool) -> list[Path]:
        if paths and not resume:
            raise CheckpointError(
                f"{self.folder} holds {len(paths)} checkpoints of an earlier run, the newest {paths[-1].name}",
                expected="an empty folder, or resume=True",
                fix="go on from them with fit(..., resume=True), or begin anew in another folder (or delete this one)",
            )
        return paths

    def _look_again(self, trainer: Trainer[Any], goes_on: bool) -> None:
        """Looks at the folder of a training that has written to it: what is there, and where the memory stands."""
        number = trainer.training.fit["number"]
        paths = [path for path in paths_in(self.folder) if place_in(path)[0] >= number]
        if not goes_on:
            # Those of a script that is run again are known; others would be mixed with what is to come.
            self._refused(paths, resume=self._newest is not None)
        elif not trainer.training.ended_in_order or (paths and place_in(paths[-1])[:2] > (number, trainer.step)):
            # An error may strike in the middle of a step: what the memory holds is no place to go on from.
            self._newest = self._newest_of(paths)
            if self._newest is None:
                warn(
                    f"{self.folder} holds no checkpoint of fit {number}, so it goes on from what is in memory, as the "
                    "error left it; to begin anew, run the whole script again"
                )

    def _newest_of(self, paths: list[Path]) -> tuple[Path, Content] | None:
        for path in reversed(paths):
            try:
                return path, read_named(path)
            except checkpoint.OtherVersion:
                raise  # it may be whole: begun anew, the training would be lost in silence
            except CheckpointError as error:
                kept = path.with_name(f"broken-{path.name}")  # out of the way of those that are to come
                checkpoint.remove(kept) if kept.exists() else None
                os.replace(path, kept)
                warn(f"{error}\n  passed over, and renamed {kept.name}")
        return None

    def _read_as_main(self) -> None:
        """Takes the checkpoint that the first process has chosen: all go on from the same one."""
        path = distributed.text_of_main("" if self._newest is None else self._newest[0].name)
        if not distributed.is_main():
            self._newest = None if not path else (self.folder / path, read_named(self.folder / path))

    def _catch_up(self, trainer: Trainer[Any]) -> bool:
        if self._newest is None:
            return False
        path, content = self._newest
        number, fit = trainer.training.fit["number"], content.state["fit"]
        if fit["number"] < number:
            self._newest = None
            return False
        if fit["number"] > number:
            path, content = end_of(number, path)
        apply(trainer.training, content, str(path))
        self.last_path = path
        if self.best is not None and self.mode is not None and self.best_path is None:  # it may be new in the script
            found = best_of(paths_in(self.folder), trainer.history.rows, self.best, self.mode)
            self.best_value, self.best_path = found or (None, None)
        self._saved = self._place(trainer)
        self._epochs, self._recorded = trainer.history.epochs, len(trainer.history)
        return bool(content.state["fit"]["ended"])

    def is_beyond(self, number: int) -> bool:
        """Whether the earlier run had come to a fit after that one."""
        return self._newest is not None and self._newest[1].state["fit"]["number"] > number

    # Events

    def on_train_begin(self, trainer: Trainer[Any]) -> None:
        """Takes over the signals."""
        self._newest = None  # not before: a fit that fails until here can be called once more
        self._signals = Signals(trainer.training.interrupt)
        self._epochs, self._recorded = trainer.history.epochs, len(trainer.history)
        self._clock = time.monotonic()

    def save_point(self, trainer: Trainer[Any]) -> None:
        """Writes a checkpoint if one is due."""
        self._writer.raise_failure()
        history = trainer.history
        improved = self._improves(trainer)
        due = (
            (self.every == "epoch" and history.epochs > self._epochs)
            or (self.save_every is not None and trainer.step % self.save_every == 0)
            or (self._seconds is not None and self._is_time(trainer))
        )
        self._epochs, self._recorded = history.epochs, len(history)
        if (improved or due or trainer.training.signal is not None) and self._place(trainer) != self._saved:
            self._save(trainer, "", improved)
            if trainer.training.signal is not None:
                self._finish()

    def on_train_end(self, trainer: Trainer[Any]) -> None:
        """Writes the checkpoint of the fit's end, gives the signals back, and waits until all is on the disk."""
        try:
            # Where a callback could not do its part, the fit's end is to be gone through once more.
            if trainer.exception is None and not trainer.training.events.raised:
                self._writer.raise_failure()
                improved = self._improves(trainer)
                trainer.training.fit |= {"ended": True, "stop_reason": trainer.stop_reason}
                self._save(trainer, "-end", improved)
                self._finish()
            self._writer.finish()
        except BaseException:
            trainer.training.fit["ended"] = False  # not for the folder
            raise
        finally:
            self.release()  # before the thread is let go of, which may have to do it
            self._writer.free()
            if self._signals is not None:
                self._signals.restore()

    def columns_needed(self) -> tuple[str, ...]:
        """`best`."""
        return () if self.best is None else (self.best,)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, what it is a value of, and the name of its checkpoint."""
        name = None if self.best_path is None else self.best_path.name
        return {"best": self.best, "mode": self.mode, "best_value": self.best_value, "best_name": name}

    def check_state(self, trainer: Trainer[Any], state: dict[str, Any]) -> None:
        """Checks the values, and that the best one is a checkpoint of this folder."""
        check_memory(self, state, best="text or none", mode="text or none", best_value="number or none")
        name = state.get("best_name", 0)
        if name is not None and not (isinstance(name, str) and is_name(name)):
            raise ArgumentError(
                f"the state of {self!r} has best_name={name!r}", "the name of a checkpoint", "use another state"
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned; of another metric the history tells what is best so far."""
        if (state["best"], state["mode"]) != (self.best, self.mode):
            state = {"best_value": None, "best_name": None}
        self.best_value = state["best_value"]
        self.best_path = None if state["best_name"] is None else self.folder / state["best_name"]

    # Saving

    def _look_at_clock(self, trainer: Trainer[Any]) -> None:
        if self._seconds is not None and time.monotonic() - self._clock >= self._seconds:
            trainer.training.pause()

    def _is_time(self, trainer: Trainer[Any]) -> bool:
        """Whether the time is over, by the clock of the first process."""
        over = time.monotonic() - self._clock >= (self._seconds or 0)
        return distributed.text_of_main(str(over)) == "True" if trainer.training.processes.many else over

    def _finish(self) -> None:
        """Waits until all is on the disk, in every process: one that ends ends the others."""
        self._writer.finish()
        distributed.barrier()

    def _improves(self, trainer: Trainer[Any]) -> bool:
        if self.best is None or self.mode is None or len(trainer.history) == self._recorded:
            return False
        value = trainer.history.latest(self.best)
        return is_better(value, float("nan") if self.best_value is None else self.best_value, self.mode)

    def _place(self, trainer: Trainer[Any]) -> tuple[Any, ...]:
        """What tells two states of one training apart."""
        fit, history = trainer.training.fit, trainer.history
        return fit["number"], trainer.step, trainer.epoch_open, len(history), history.epochs

    def _save(self, trainer: Trainer[Any], ending: str, improved: bool) -> None:
        self._writer.finish()  # the copies' memory is used again
        path = self.folder / name_of(trainer.training.fit["number"], trainer.step, ending)
        best = self.best_value, self.best_path
        if improved and self.best is not None:
            self.best_value, self.best_path = trainer.history.latest(self.best), path  # part of what is saved
        try:
            content = capture(trainer.training, self._writer.copy, at_once=False)
        except BaseException:
            self.best_value, self.best_path = best
            raise
        self._saved, self._clock = self._place(trainer), time.monotonic()
        if content is None:  # the first of many processes writes
            return
        if self._growth is not None:
            self._growth.look(trainer, content)
        if self.best is not None and content.state:
            content.state["best"] = {"metric": self.best, "value": self.best_value} if improved else None
        self._writer.start(lambda: self._write(path, content, best), trainer.training.pause)

    def _write(self, path: Path, content: Content, best: tuple[float | None, Path | None]) -> None:
        """On the thread: the new one is whole before an old one goes."""
        try:
            sharded_checkpoint.write(path, content)
        except BaseException:
            self.best_value, self.best_path = best  # the one that is on the disk
            raise
        self.last_path = path
        if not distributed.is_main():
            return
        for one in to_be_removed(paths_in(self.folder), self.keep, [self.best_path, path]):
            checkpoint.remove(one)
