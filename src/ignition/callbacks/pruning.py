"""Ending a trial of a search for hyperparameters early, by Optuna."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ignition.callbacks.base import Callback
from ignition.callbacks.tracking import require
from ignition.errors import ArgumentError, kind_of

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["OptunaPruning"]


class OptunaPruning(Callback):
    """Reports a metric to a trial of Optuna, and ends the fit where the study's pruner gives the trial up.

    Each record is reported under its number among the trainer's records, so that trials with batches of other sizes
    can be compared. ``optuna.TrialPruned`` is then raised out of ``fit``, as Optuna wants it; model, optimizer and
    history are as after any fit. A record without the metric is not reported.

    Args:
        trial: The trial that the objective function received.
        metric: A column of history, such as "val_loss". Whether less or more of it is better is the study's affair.

    Raises:
        ArgumentError: If `trial` is no trial or `metric` no name.
        IgnitionError: If optuna is not installed.
        MetricError: Before the first record is written, if it lacks the metric; before the first batch for one of an
            evaluation where there is none.
        optuna.TrialPruned: At a record, if the pruner says so.

    Example:
        >>> import optuna
        >>> from ignition.callbacks import OptunaPruning
        >>> OptunaPruning(optuna.trial.FixedTrial({}), "val_acc")
        OptunaPruning(metric='val_acc')

        It is given to the Trainer in the objective function::

            trainer.callbacks = [OptunaPruning(trial, "val_loss")]
    """

    def __init__(self, trial: Any, metric: str = "val_loss") -> None:
        require("optuna", "optuna", "OptunaPruning")
        if not callable(getattr(trial, "report", None)) or not callable(getattr(trial, "should_prune", None)):
            raise ArgumentError(
                f"OptunaPruning got {kind_of(trial)} as its trial",
                "the trial that Optuna gave to the objective function",
                "def objective(trial): ...; trainer.callbacks = [OptunaPruning(trial, 'val_loss')]",
            )
        if not isinstance(metric, str) or not metric:
            raise ArgumentError(
                f"OptunaPruning got {metric!r:.60} as its metric",
                "a column of history, such as 'val_loss'",
                "pass it as history has it: what eval_fn returns as 'loss' is 'val_loss'",
            )
        self.trial = trial
        self.metric = metric

    def __repr__(self) -> str:
        return f"OptunaPruning(metric={self.metric!r})"

    def columns_needed(self) -> tuple[str, ...]:
        """The metric."""
        return (self.metric,)

    def on_record(self, trainer: Trainer[Any]) -> None:
        """Reports the metric, and asks whether that was enough."""
        from optuna import TrialPruned

        history = trainer.history
        value = history.latest(self.metric)
        if math.isnan(value) and self.metric not in history.last:
            return
        self.trial.report(value, len(history))
        if self.trial.should_prune():
            raise TrialPruned(f"pruned at record {len(history)}, with {self.metric} {value:.4g}")
