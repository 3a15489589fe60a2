"""TensorBoard: a training as event files in a folder."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignition.callbacks.tracking import Tracker, hyperparameters, require
from ignition.errors import ArgumentError, kind_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

    from ignition.trainer import Trainer

__all__ = ["TensorBoard"]

_EVENTS = "events.out.tfevents."


class TensorBoard(Tracker):
    """Writes a training to a folder that TensorBoard shows: ``tensorboard --logdir runs``.

    Scalars are every record (``train_loss``, ``val_loss``, ``lr``, ``seconds`` and so on) and every so many steps the
    batch's metrics (``batch/loss``), both over the step. The hyperparameters and the metrics of the first record stand
    under HPARAMS, the curves of the loss as a figure under IMAGES at each fit's end.

    A folder is one run. What is written to it goes on from ``trainer.step``: what is there beyond, of a run that was
    killed or of another training, is not shown any more (by TensorBoard's ``purge_step``). The folder's disk may fail
    while it trains: see `ignition.callbacks.tracking`.

    Args:
        folder: The run's folder. It is made at the fit's start.
        every: After how many steps, 1 or more, the batch's metrics are written; None for never.
        hyper: Hyperparameters to note that the Trainer does not know, such as ``{"layers": 3}``.

    Attributes:
        run_id: The folder, from the first fit's start on; None before.
        writer: The ``SummaryWriter`` of the running fit, or None: ``writer.add_histogram(...)``. What it raises is
            raised, other than with `add_figure`.

    Raises:
        ArgumentError: If an argument is none of these.
        IgnitionError: If tensorboard is not installed.
        OSError: At the fit's start, if nothing can be written to the folder.

    Example:
        >>> from ignition.callbacks import TensorBoard
        >>> TensorBoard("runs/digits/first", every=10)
        TensorBoard('runs/digits/first', every=10)
    """

    def __init__(
        self, folder: str | os.PathLike[str], every: int | None = 50, hyper: Mapping[str, Any] | None = None
    ) -> None:
        if not isinstance(folder, (str, os.PathLike)) or not isinstance(os.fspath(folder), str):
            raise ArgumentError(
                f"TensorBoard got {kind_of(folder)} as its folder",
                "the path of a folder",
                "for example TensorBoard('runs/digits')",
            )
        super().__init__(every, hyper)
        require("tensorboard", "tensorboard", "TensorBoard")
        self.folder = Path(folder)
        self.writer: SummaryWriter | None = None

    def __repr__(self) -> str:
        return f"TensorBoard({os.fspath(self.folder)!r}, every={self.every})"

    def add_figure(self, name: str, figure: Figure) -> None:
        """Shows a matplotlib figure under IMAGES, at the step where the training is; for use in the events of a fit.

        Args:
            name: Figures of one name are shown as one that changes with the step.
            figure: It is drawn now, and may be changed or closed after.
        """
        if self.writer is not None:
            trainer = None if self._trainer is None else self._trainer()
            self._attempt(self.writer.add_figure, name, figure, 0 if trainer is None else trainer.step, False)

    def _open(self, trainer: Trainer[Any]) -> tuple[int, int]:
        from torch.utils.tensorboard import SummaryWriter

        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder):  # raises here what would be raised in the writer's thread
            pass
        with suppress(Exception):
            self._close("lost")  # one that has failed
        files = [path.name for path in self.folder.iterdir() if path.name.startswith(_EVENTS)]
        recorded = self._recorded if files else -1
        if files:
            if recorded < 0 and trainer.step:
                recorded = _last_record(self.folder, trainer.step)
            _wait_for_a_later_name(files)
        self.writer = SummaryWriter(str(self.folder), purge_step=trainer.step + 1 if files else None)
        self.writer.flush()
        self.run_id = os.fspath(self.folder)
        return min(recorded, trainer.step), trainer.step

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned; of another folder nothing is known."""
        super().load_state_dict(state)
        if self.run_id != os.fspath(self.folder):
            self._recorded = -1

    def _write(self, step: int, values: dict[str, float], is_record: bool) -> None:
        assert self.writer is not None
        if is_record and self._recorded < 0:
            self._write_hyperparameters(values)
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def _write_hyperparameters(self, values: dict[str, float]) -> None:
        from torch.utils.tensorboard.summary import hparams

        trainer = None if self._trainer is None else self._trainer()
        if trainer is None or self.writer is None:
            return
        known = {name: value for name, value in hyperparameters(trainer, self.hyper).items() if value is not None}
        metrics = {name: value for name, value in values.items() if name.startswith(("train_", "val_"))}
        # Not by add_hparams, which puts them into a run of their own, without the curves.
        for summary in hparams(known, metrics):  # type: ignore[no-untyped-call]
            self.writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]

    def _flush(self) -> None:
        if self.writer is not None:
            self.writer.flush()

    def _finish(self, trainer: Trainer[Any]) -> None:
        if {"train_loss", "val_loss"} & set(trainer.history.columns):
            self.add_figure("loss", trainer.history.plot_loss().figure)  # type: ignore[arg-type]

    def _close(self, outcome: str) -> None:
        writer, self.writer = self.writer, None
        if writer is not None:
            writer.close()


def _last_record(folder: Path, step: int) -> int:
    """The last record in a folder up to a step, or -1: each has its epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    found = [one.step for one in events.Scalars("epoch")] if "epoch" in events.Tags()["scalars"] else []
    return max((one for one in found if one <= step), default=-1)


def _wait_for_a_later_name(files: list[str]) -> None:
    """TensorBoard reads a folder's files in the order of their names, which begin with the second they are from."""
    seconds = {name.removeprefix(_EVENTS).split(".")[0].lstrip("0") for name in files}
    while str(int(time.time())) in seconds:
        time.sleep(0.02)
