"""Writing a record: the training's means, an evaluation, and what was set meanwhile, as one row of history."""

from __future__ import annotations

from ignition.goal import Goal
from ignition.loader_advice import give_advice
from ignition.optimizers import learning_rates
from ignition.records import plain_values
from ignition.signature import check_names
from ignition.training import EvaluationStopped, Training

__all__ = ["begin_record", "write_record"]


def begin_record(training: Training, epoch_ended: bool) -> None:
    """Notes that a record is due, unless this step has one: eval_every may meet the epoch's end."""
    if training.trainer.history.last.get("step") == training.position.step:
        return
    # Read before the evaluation: a metric object may serve both functions.
    train = {f"train_{name}": value for name, value in training.means.compute(common=True).items()}
    training.processes.warn_if_unequal()
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
    if trainer.eval_fn is not None:
        record |= {f"val_{name}": mean for name, mean in trainer.evaluate(max_steps=goal.max_eval_steps).items()}
    record |= learning_rates(trainer.optimizer) | plain_values(trainer.hyper) | training.take_seconds()
    check_names(trainer.hyper)  # a callback may have added to them
    row = training.processes.row_of_main({"epoch": position.epoch, "step": position.step, **record})
    trainer.history.append(row, epoch_ended=training.pending["epoch_ended"])
    training.pending = None
    training.progress.record(trainer.history.last, goal.last_epoch)
    give_advice(training)
    training.events.fire("record")
