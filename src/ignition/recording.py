"""Writing a record: the training's means, an evaluation, and what was set meanwhile, as one row of history."""

from __future__ import annotations

from typing import Any

from ignition.errors import MetricError
from ignition.goal import Goal
from ignition.optimizers import learning_rates
from ignition.records import plain_values, unknown_column
from ignition.signals import EvaluationStopped
from ignition.signature import check_names
from ignition.training import Training

__all__ = ["begin_record", "check_columns_can_come", "write_record"]


def check_columns_can_come(trainer: Any) -> None:
    """Raises MetricError if a callback needs a column of an evaluation, and there is none."""
    if trainer.eval_fn is not None:
        return
    for callback in trainer.callbacks:
        for name in callback.columns_needed():
            if name.startswith("val_") and name not in trainer.history.columns:
                raise MetricError(
                    f"{callback!r} needs the column {name!r}, and the Trainer evaluates nothing",
                    expected="a column that a record will have",
                    fix="give the Trainer an eval_fn and a test_loader, or name a train_ metric",
                )


def begin_record(training: Training, epoch_ended: bool) -> None:
    """Notes that a record is due, unless this step has one: eval_every may meet the epoch's end."""
    if training.trainer.history.last.get("step") == training.position.step:
        return
    # Read before the evaluation: a metric object may serve both functions.
    train = {f"train_{name}": value for name, value in training.means.compute(common=True).items()}
    training.processes.warn_if_unequal()
    training.processes.check_settings(training.trainer)  # which schedules and functions have changed
    training.means.reset()
    training.pending = {"epoch_ended": epoch_ended, "train": train}


def write_record(training: Training, goal: Goal) -> None:
    """Evaluates, and writes the row of history that is due.

    Raises:
        EvaluationStopped: If a signal came; the record stays due.
    """
    if training.pending is None:
        return
    trainer, record, position = training.trainer, dict(training.pending["train"]), training.position
    if training.signal is not None:
        raise EvaluationStopped
    if training.savers:  # where the evaluation begins, once more if it has to begin anew
        training.pending["generators"] = training.generators.capture()
        training.evaluation_start.begin(trainer.test_loader)
    if trainer.eval_fn is not None:
        record |= {f"val_{name}": mean for name, mean in trainer.evaluate(max_steps=goal.max_eval_steps).items()}
    record |= learning_rates(trainer.optimizer) | plain_values(trainer.hyper) | _take_seconds(training)
    check_names(trainer.hyper)  # a callback may have added to them
    row = training.processes.row_of_main({"epoch": position.epoch, "step": position.step, **record})
    _check_columns(trainer, row)  # before history changes
    ended = training.pending["epoch_ended"]
    trainer.history.append(row, epoch_ended=ended)
    training.pending = None
    training.evaluation_start.end()
    training.progress.record(trainer.history.last, goal.last_epoch)
    advice = training.advisor.after(trainer.history.last, trainer.train_loader)
    if advice is not None:
        training.progress.say(advice)
    try:
        training.events.fire("record")
    except BaseException:
        if ended:
            training.open_pass = None  # the epoch has its record: the next fit begins the next one
        raise


def _check_columns(trainer: Any, row: dict[str, Any]) -> None:
    columns = list(dict.fromkeys([*trainer.history.columns, *row]))
    for callback in trainer.callbacks:
        callback.check_columns(columns)
        for name in callback.columns_needed():
            if name not in columns:
                error = unknown_column(name, columns)
                error.add_note(f"{callback!r} needs it")
                raise error


def _take_seconds(training: Training) -> dict[str, float]:
    """The seconds since the record before, and how many of them were spent waiting on the loader."""
    this = training.open_pass
    waited = 0.0
    if this is not None:
        waited, this.data_seconds = this.data_seconds, 0.0
    return {"seconds": training.clock.take(), "data_seconds": waited}
