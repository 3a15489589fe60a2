"""Ending a training before its time: nothing improves, numbers are broken, the clock has run out."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ignition.callbacks.base import Callback
from ignition.callbacks.saving import mode_of
from ignition.callbacks.schedule import finite, positive_count
from ignition.duration import seconds_of
from ignition.errors import ArgumentError, MetricError, NotFiniteError
from ignition.ranking import Mode, is_better
from ignition.state_values import check_memory
from ignition.weights import Weights, check_fit, copy_weights, restore_weights

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["EarlyStopping", "TerminateOnNaN", "TimeLimit"]


class EarlyStopping(Callback):
    """Stops the training when a metric has not improved for some records (those of ``eval_every`` count too).

    A record improves if it is better by more than `min_delta` than the last one that did; small steps add up until they
    are more than that. NaN is no improvement, 0.0 is a value like others. A record that lacks the metric counts as NaN.

    Each fit starts its patience afresh, so a fit after an early stop trains for at least `patience` records more; the
    best value and its weights are kept from fit to fit. A Trainer without history starts again. A fit resumed from a
    checkpoint goes on with the patience that was left.

    Source: Prechelt 1998, "Early stopping - but when?", which compares such criteria.

    Args:
        metric: A column of history, such as "val_loss".
        patience: How many records in a row may pass without improvement; the training stops at the last of them.
        min_delta: By how much a record must be better, 0 or more, in the metric's own unit.
        mode: "min" or "max". Default: what the metric's name tells.
        restore_best: Keep a copy of the weights (buffers too) on the CPU whenever the metric is best, and put it back
            at each fit's end, unless something was raised. With it go the averages of the model that were there
            (``trainer.averaged["ema"]``), so that what "val_ema_loss" was measured on is there again. The optimizer
            keeps its own state.

    Attributes:
        best_value: The best value so far, or None.
        best_epoch: The epoch (1-based) it was measured in, or None.
        waited: How many records have passed without improvement.

    Raises:
        ArgumentError: At once if an argument is out of its range, or `mode` is missing where the name does not tell.
        MetricError: Before the first record is written, if it lacks the metric; the message lists what there is. Before
            the first batch for a metric of an evaluation where there is none.

    Example:
        >>> from ignition.callbacks import EarlyStopping
        >>> stopping = EarlyStopping("val_loss", patience=5, restore_best=True)
        >>> stopping.mode
        'min'
    """

    def __init__(
        self,
        metric: str,
        patience: int,
        min_delta: float = 0,
        mode: Mode | None = None,
        restore_best: bool = False,
    ) -> None:
        self.mode = mode_of(metric, mode)
        self.metric = metric
        self.patience = positive_count("patience of EarlyStopping", patience)
        self.min_delta = finite("min_delta of EarlyStopping", min_delta)
        if self.min_delta < 0:
            raise ArgumentError(
                f"min_delta of EarlyStopping is {min_delta}",
                "0 or more, also when less is better",
                "leave it out for 0, or pass for example min_delta=0.001",
            )
        self.restore_best = restore_best
        self.waited = 0
        self.best_value: float | None = None
        self.best_epoch: int | None = None
        self._reference: float | None = None  # the last value that improved by more than min_delta
        self._best_weights: dict[str, Weights] | None = None  # by the average's name; the model's own has none

    def __repr__(self) -> str:
        return f"EarlyStopping({self.metric!r}, patience={self.patience}, mode={self.mode!r})"

    def columns_needed(self) -> tuple[str, ...]:
        """The metric."""
        return (self.metric,)

    def on_train_begin(self, trainer: Trainer[Any]) -> None:
        """Forgets what belongs to another training; stops at once if a resumed one had come to its stop."""
        if not len(trainer.history):
            self.waited = 0
            self.best_value = self.best_epoch = self._reference = self._best_weights = None
        if self.waited >= self.patience:
            trainer.stop(self._reason())

    def on_record(self, trainer: Trainer[Any]) -> None:
        """Compares the record with the best, and stops the training if the patience is at its end."""
        value = trainer.history.latest(self.metric)
        if is_better(value, _nan_for_none(self.best_value), self.mode):
            self.best_value, self.best_epoch = value, trainer.epoch
            if self.restore_best:
                copied = {"": trainer.model, **trainer.averaged}
                self._best_weights = {name: copy_weights(models) for name, models in copied.items()}  # waits for a GPU
        if self._improves(value):
            self._reference, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            trainer.stop(self._reason())

    def on_train_end(self, trainer: Trainer[Any]) -> None:
        """Puts the best weights back, and has the next fit start its patience afresh."""
        self.waited = 0
        if self._best_weights is not None and trainer.exception is None:
            for name, models in {"": trainer.model, **trainer.averaged}.items():
                if name in self._best_weights:
                    restore_weights(models, self._best_weights[name])

    def state_dict(self) -> dict[str, Any]:
        """The best value with its epoch and weights, and how many records have passed since the last improvement."""
        best = self._best_weights
        return {
            "waited": self.waited,
            "reference": self._reference,
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
            "best_weights": None if best is None else {name: _plain(weights) for name, weights in best.items()},
        }

    def check_state(self, trainer: Trainer[Any], state: dict[str, Any]) -> None:
        """Checks the values, and that the best weights are those of these models."""
        check_memory(
            self, state, waited="count", reference="number or none", best_value="number or none",
            best_epoch="count or none", best_weights="object or none",
        )  # fmt: skip
        if state["best_value"] is not None and state["best_epoch"] is None:
            check_memory(self, state, best_epoch="count")
        for name, weights in (state["best_weights"] or {}).items():
            check_memory(self, state["best_weights"], **{name: "object"})
            check_fit(trainer.model, weights, f"of the best weights of {self!r} {name or 'the model'}")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned."""
        self.waited = int(state["waited"])
        self._reference = state["reference"]
        self.best_value, self.best_epoch = state["best_value"], state["best_epoch"]
        self._best_weights = state["best_weights"]

    def _improves(self, value: float) -> bool:
        if self._reference is None:
            return not math.isnan(value)
        delta = self.min_delta if self.mode == "max" else -self.min_delta
        return is_better(value, self._reference + delta, self.mode)

    def _reason(self) -> str:
        records = f"{self.patience} record{'s' if self.patience > 1 else ''}"
        if self.best_value is None:
            return f"{self.metric} was NaN for {records}"
        by = f" by more than {self.min_delta:g}" if self.min_delta else ""
        best = f"the best was {self.best_value:.6g} in epoch {self.best_epoch}"
        return f"{self.metric} has not improved{by} for {records}; {best}"


class TerminateOnNaN(Callback):
    """Ends the training with an error, before the next step, when a metric becomes NaN or infinite.

    Looks at what the train function returns for each batch, and at the ``train_*`` and ``val_*`` of each record. Where
    metrics are on an accelerator this waits for every batch to be done, which takes the overlap away: use it to find
    out what is wrong, or name one metric.

    Args:
        metrics: Which to look at, as the functions name them ("loss") or as history does ("val_loss"); one name or
            several. Default: all.

    Raises:
        ArgumentError: At once if `metrics` is no name and no collection of names.
        MetricError: At the first record, if nobody returns a metric that is named here.
        NotFiniteError: When one is NaN or infinite; the message names the metric, its value and the step.

    Example:
        >>> from ignition.callbacks import TerminateOnNaN
        >>> everything, one = TerminateOnNaN(), TerminateOnNaN("loss")
    """

    def __init__(self, metrics: str | Collection[str] | None = None) -> None:
        names = (metrics,) if isinstance(metrics, str) else metrics
        if names is not None:
            valid = isinstance(names, Collection) and all(isinstance(name, str) and name for name in names)
            if not valid or not names:
                raise ArgumentError(
                    f"TerminateOnNaN got metrics={metrics!r:.60}",
                    "names of metrics, such as ['loss'], or None for all",
                    "pass metrics=['loss'], for example, or leave it out",
                )
        self.metrics = None if names is None else frozenset(names)
        self._unseen = self.metrics or frozenset()

    def __repr__(self) -> str:
        return f"TerminateOnNaN({'' if self.metrics is None else sorted(self.metrics)})"

    def on_train_begin(self, trainer: Trainer[Any]) -> None:
        """Has the names checked at the first record."""
        self._unseen = self.metrics or frozenset()

    def on_batch_end(self, trainer: Trainer[Any]) -> None:
        """Looks at what the train function has just returned."""
        for name, value in trainer.batch_metrics.items():
            if self.metrics is not None and self.metrics.isdisjoint((name, f"train_{name}")):
                continue
            number = value.item() if isinstance(value, Tensor) else value  # waits for an accelerator
            # An object that is a metric itself has no value yet: its record has.
            if isinstance(number, (float, int)) and not math.isfinite(number):
                raise _not_finite(name, number, f"in step {trainer.step + 1} (epoch {trainer.epoch})")

    def on_record(self, trainer: Trainer[Any]) -> None:
        """Looks at the record, evaluation included."""
        record = trainer.history.last
        for column, value in record.items():  # only what was returned: one that is missing is not NaN here
            if not column.startswith(("train_", "val_")):
                continue
            if self.metrics is not None and self.metrics.isdisjoint((column, *_returned_as(column))):
                continue
            if not math.isfinite(value):
                raise _not_finite(column, value, f"in the record after step {trainer.step} (epoch {trainer.epoch})")

    def check_columns(self, columns: list[str]) -> None:
        """Checks that somebody returns each metric that is named: before the first record is written."""
        there = [column for column in columns if column.startswith(("train_", "val_"))]
        unknown = sorted(self._unseen.difference(there, *map(_returned_as, there)))
        if unknown:
            raise MetricError(
                f"TerminateOnNaN looks at {', '.join(map(repr, unknown))}, which nobody returns",
                f"metrics among {', '.join(there) or 'none: the functions returned nothing'}",
                "name one of these, leave metrics= out to look at all, or return the metric from train_fn or eval_fn",
            )
        self._unseen = frozenset()


class TimeLimit(Callback):
    """Stops the training at the end of the first step that ends after a given time.

    Many processes stop up to two seconds later, all after the same step. The clock starts with each fit and runs on
    while it evaluates; an evaluation is not cut short.

    Args:
        limit: Seconds, or a text such as "30s", "10min", "2h", "1d", "1h30min".

    Raises:
        ArgumentError: If it is neither, or not finite and more than 0.

    Attributes:
        seconds: The limit in seconds.

    Example:
        >>> from ignition.callbacks import TimeLimit
        >>> TimeLimit("1h30min").seconds
        5400.0
    """

    def __init__(self, limit: float | str) -> None:
        self.seconds = seconds_of(limit, "the limit of TimeLimit")
        self.limit = limit
        self._end = math.inf

    def __repr__(self) -> str:
        return f"TimeLimit({self.limit!r})"

    def on_train_begin(self, trainer: Trainer[Any]) -> None:
        """Starts the clock."""
        self._end = time.monotonic() + self.seconds

    def on_step_end(self, trainer: Trainer[Any]) -> None:
        """Stops the training if the time is over."""
        if time.monotonic() >= self._end:
            shown = self.limit if isinstance(self.limit, str) else f"{self.limit:g} seconds"
            trainer.stop(f"the time limit of {shown} was reached at step {trainer.step}")


def _plain(weights: Weights) -> dict[str, dict[str, Any]]:
    return {name: dict(state) for name, state in weights.items()}


def _nan_for_none(value: float | None) -> float:
    return math.nan if value is None else value


def _returned_as(column: str) -> tuple[str, ...]:
    """What a function may have called the metric of a column: "val_ema_loss" comes from "loss" (or from "ema_loss")."""
    return tuple(column.removeprefix(start) for start in ("train_", "val_", "val_ema_") if column.startswith(start))


def _not_finite(name: str, value: float, where: str) -> NotFiniteError:
    return NotFiniteError(
        f"{name!r} is {value} {where}",
        "finite metrics",
        "look at the data of this batch and for a log, a root or a division by zero "
        "(torch.autograd.set_detect_anomaly(True) finds the place); a smaller learning rate, a warm-up or clipped "
        "gradients help where numbers grow without bound",
    )
