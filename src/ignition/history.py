"""What a training has measured so far: one record at each epoch's end and every `eval_every` steps."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ignition.errors import ArgumentError, IgnitionError, MetricError, kind_of
from ignition.files import write_text
from ignition.markup import history_html
from ignition.ranking import Mode, best_index, check_mode, direction, is_better
from ignition.records import (
    Scalar,
    check_column,
    column_order,
    decode,
    encode,
    read_json,
    scalar,
    table,
    unknown_column,
    write_csv,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

__all__ = ["Best", "History", "Mode", "Scalar", "direction", "is_better", "scalar"]

_FORMAT = "ignition-history"
_VERSION = 1
_BEST_BY_DEFAULT = ("val_acc", "val_loss", "train_acc", "train_loss")
_RECORD = "for example append({'epoch': 1, 'step': 10, 'train_loss': 0.5}, epoch_ended=True)"
_INTACT = "use an intact copy; this one was cut off or changed"


class Best(NamedTuple):
    """The best value of a metric, and where it was measured.

    Attributes:
        epoch: 1-based.
        step: Steps finished by then.
        metric: The column.
        value: What it was there.
    """

    epoch: int
    step: int
    metric: str
    value: float


class History:
    """The records of a training, as columns and as rows.

    A column has one entry a record, and NaN where the record has no such value. The columns are ``epoch``
    (1-based) and ``step``; ``train_*``, the means over the batches since the record before; ``val_*`` (and
    ``val_ema_*``), the means over the whole evaluation; ``lr`` (``lr_<name>`` where the optimizers have names) and the
    hyperparameters; ``seconds`` of fits since the record before and, of these, ``data_seconds`` waiting on the loader.

    ``len(history)`` counts records, ``"val_loss" in history`` asks for a column.

    Example:
        >>> history = History()
        >>> history.append({"epoch": 1, "step": 50, "train_loss": 0.7, "val_acc": 0.5}, epoch_ended=True)
        >>> history.append({"epoch": 2, "step": 100, "train_loss": 0.4}, epoch_ended=True)
        >>> history["train_loss"], history["val_acc"]
        ([0.7, 0.4], [0.5, nan])
        >>> history.best_epoch()
        Best(epoch=1, step=50, metric='val_acc', value=0.5)
        >>> history
        History: 2 epochs, 2 records
        epoch  step  train_loss  val_acc
            1    50         0.7      0.5
            2   100         0.4        -
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Scalar]] = []
        self._ended: list[bool] = []
        self._names: dict[str, None] = {}
        self._encoded: list[dict[str, Any]] = []  # as in a state: each row once, as a training waits for it

    __iter__ = None  # rows or columns? `.rows` and `.columns` say which
    _repr_html_ = history_html

    def __getitem__(self, column: str) -> list[Any]:
        """The column: one entry a record, NaN where there was none.

        Raises:
            MetricError: No record has it; the message lists the columns that there are.
            ArgumentError: `column` is no string.
        """
        if check_column(column) not in self:
            raise unknown_column(column, self.columns)
        return [row.get(column, math.nan) for row in self._rows]

    def __contains__(self, column: object) -> bool:
        """Whether a record has this column."""
        return isinstance(column, str) and column in self._names

    def __len__(self) -> int:
        """The number of records."""
        return len(self._rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """Epoch, step, ``train_*``, ``val_*``, ``lr*``, hyperparameters, seconds; each group as first seen."""
        return tuple(sorted(self._names, key=column_order))

    @property
    def epochs(self) -> int:
        """The number of finished epochs."""
        return sum(self._ended)

    @property
    def last(self) -> dict[str, Any]:
        """A copy of the last record, with only what it has; empty before the first."""
        return dict(self._rows[-1]) if self._rows else {}

    @property
    def rows(self) -> tuple[Mapping[str, Any], ...]:
        """The records, read-only, each with only what it has."""
        return tuple(MappingProxyType(row) for row in self._rows)

    def latest(self, metric: str) -> float:
        """The metric's value in the last record, NaN where that record lacks it.

        Raises:
            MetricError: No record has the metric, or it is no number; the message lists what there is.
            ArgumentError: `metric` is no string.
        """
        if check_column(metric) not in self:
            raise unknown_column(metric, self.columns)
        return self._number(metric, self._rows[-1].get(metric, math.nan))

    def best_epoch(self, metric: str | None = None, mode: Mode | None = None) -> Best | None:
        """Where a metric was best: the first of equals, NaN left out.

        Args:
            metric: A column; by default the first of val_acc, val_loss, train_acc, train_loss that is there.
            mode: "min" or "max"; by default what `direction` reads from the name.

        Returns:
            The best record's epoch and step with the metric's value, or None where there is no record or only NaN.

        Raises:
            MetricError: No record has the metric, or it is no number.
            ArgumentError: `metric` is no string, or tells no direction and `mode` is not given; `mode` is neither.
        """
        if mode is not None:
            check_mode(mode)
        if not self._rows:
            return None
        if metric is None:
            metric = next((name for name in _BEST_BY_DEFAULT if name in self), None)
            if metric is None:
                given, there = f"no record has {' or '.join(_BEST_BY_DEFAULT)}", ", ".join(self.columns)
                raise MetricError(given, f"a metric named among {there}", "name it: best_epoch('val_f1'), for example")
        values = self._numbers(metric)
        mode = mode or direction(metric)
        if mode is None:
            raise ArgumentError(
                f"the name {metric!r} does not tell whether less or more is better",
                "mode= with such a metric",
                f"pass a mode: best_epoch({metric!r}, mode='min') or mode='max'",
            )
        index = best_index(values, mode)
        if index is None:
            return None
        row: dict[str, Any] = self._rows[index]
        return Best(row["epoch"], row["step"], metric, values[index])

    def __repr__(self) -> str:
        """The last five records as a table."""
        if not self._rows:
            return "History: no record yet"
        title = f"History: {self.epochs} epoch{'s' * (self.epochs != 1)}, {len(self)} record{'s' * (len(self) != 1)}"
        return f"{title}\n{table(self.columns, self._rows[-5:])}"

    # Writing, by the loop

    def append(self, record: Mapping[str, Any], *, epoch_ended: bool) -> None:
        """Adds a record. The training loop does this; the history stays as it was if anything is wrong.

        Args:
            record: A value by column, epoch and step among them. Values are numbers; a hyperparameter's may be
                a string, a bool or None too.
            epoch_ended: Whether this record is the one at its epoch's end.

        Raises:
            ArgumentError: No dict, no scalar as a value, no epoch or step, or a step or epoch before the last one's.
        """
        if not isinstance(record, Mapping):
            raise ArgumentError(f"a record is {kind_of(record)}", "a dict of values by column", _RECORD)
        if "epoch" not in record or "step" not in record:
            given = f"a record with {', '.join(map(str, record)) or 'nothing'}"
            raise ArgumentError(given, "epoch and step in each", _RECORD)
        row = {name: scalar(name, record[name]) for name in sorted(record, key=lambda name: column_order(str(name)))}
        for name in ("step", "epoch"):
            now: Any = row[name]
            before: Any = self._rows[-1][name] if self._rows else -1
            if now < before or (now == before and name == "step"):
                raise ArgumentError(
                    f"a record of {name} {now} after one of {name} {before}",
                    "one record a step, in the order of training",
                    "append records in that order, and begin another run with a History() of its own",
                )
        self._rows.append(row)
        self._ended.append(bool(epoch_ended))
        self._names.update(dict.fromkeys(row))

    def end_epoch(self) -> None:
        """Makes the last record the one at its epoch's end, where the loader's end showed only after it was written.

        Raises:
            ArgumentError: There is no record yet.
        """
        if not self._rows:
            fix = "call append(record, epoch_ended=True) in its place"
            raise ArgumentError("an epoch ended without a record", "a record to mark as its epoch's last", fix)
        self._ended[-1] = True

    # Plots

    def plot_loss(self, *, by: Literal["epoch", "step"] = "epoch", ax: Axes | None = None) -> Axes:
        """Draws ``train_loss`` and ``val_loss``, whichever are there. See `plot` for arguments and errors.

        Example:
            >>> history = History()
            >>> history.append({"epoch": 1, "step": 50, "train_loss": 0.7, "val_loss": 0.8}, epoch_ended=True)
            >>> history.plot_loss().get_ylabel()
            'loss'
        """
        return self._plot(self._present("train_loss", "val_loss"), "Loss", "loss", by, ax)

    def plot_accuracy(self, *, by: Literal["epoch", "step"] = "epoch", ax: Axes | None = None) -> Axes:
        """Draws the accuracy in training and evaluation, whichever are there. See `plot` for arguments and errors.

        The columns are ``train_acc`` and ``val_acc``, or ``train_accuracy`` and ``val_accuracy`` where the functions
        call it so.
        """
        names = self._present("train_acc", "val_acc", "train_accuracy", "val_accuracy")
        return self._plot(names, "Accuracy", "accuracy", by, ax)

    def plot(self, *names: str, by: Literal["epoch", "step"] = "epoch", ax: Axes | None = None) -> Axes:
        """Draws columns over the training, all into one pair of axes.

        A record that lacks a value is passed over and its neighbours are joined. A star marks the best value of each
        metric whose direction is known; of a training metric only where its ``val_*`` is not drawn too.

        Args:
            names: Columns with numbers; by default every metric (``train_*``, ``val_*``).
            by: What is below the curves. "epoch" is the epoch while each has one record, and the step where some have
                more (`eval_every`); "step" is the step in any case. The label says which it is.
            ax: Where to draw; by default a figure of its own, that shows in a notebook.

        Returns:
            The matplotlib ``Axes``; ``.figure.savefig("loss.png")`` writes it to a file.

        Raises:
            MetricError: No record has one of the columns, one holds no numbers, or there is no metric.
            ArgumentError: A name is no string, `by` is neither, or `ax` is no ``Axes``.
            IgnitionError: matplotlib is not installed.
        """
        drawn = names or tuple(name for name in self.columns if name.startswith(("train_", "val_")))
        stems = {re.sub(r"^(train_|val_ema_|val_)", "", check_column(name)) for name in drawn}
        label = stems.pop() if len(stems) == 1 else "value"
        return self._plot(drawn, label if label != "value" else "Metrics", label, by, ax)

    # Export

    def to_frame(self) -> DataFrame:
        """The history as a ``pandas.DataFrame``: a row a record, a column a column.

        Raises:
            IgnitionError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            if error.name != "pandas":
                raise
            given = "to_frame() needs pandas, which is not installed"
            raise IgnitionError(given, "pandas beside Ignition", "pip install pandas") from error
        return pandas.DataFrame({column: self[column] for column in self.columns})

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes a header and a line a record; what is NaN, None or not there is empty.

        Args:
            path: The file. Its folders are made; what is there is replaced as a whole.

        Raises:
            OSError, TypeError: The file cannot be written, or `path` is no path. What was there stays.
        """
        write_text(path, lambda file: write_csv(file, self.columns, self._rows))

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Writes everything as strict JSON, a record a line; `from_json` reads it back without loss.

        NaN is null, ``{"is": "inf"}``, ``{"is": "-inf"}`` and ``{"is": "none"}`` stand for what JSON cannot say.

        Args:
            path: The file. Its folders are made; what is there is replaced as a whole.

        Raises:
            OSError, TypeError: The file cannot be written, or `path` is no path. What was there stays.
        """
        state = self.state_dict()
        records = ",\n".join(json.dumps(record, allow_nan=False) for record in state.pop("records"))
        write_text(path, lambda file: file.write(f'{json.dumps(state)[:-1]}, "records": [\n{records}\n]}}\n'))

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> History:
        """Reads what `to_json` wrote.

        Args:
            path: The file.

        Returns:
            A history that is equal to the one that was written, record for record.

        Raises:
            ArgumentError: The file holds no history, or one of a later format.
            OSError, TypeError: The file cannot be read, or `path` is no path.
        """
        history = cls()
        history._load(read_json(path), os.fspath(path))
        return history

    def state_dict(self) -> dict[str, Any]:
        """Everything as plain values that JSON can hold, all of them copies."""
        rows = self._rows[len(self._encoded) :]
        self._encoded += [{name: encode(value) for name, value in row.items()} for row in rows]
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "epoch_ended": list(self._ended),
            "records": [dict(record) for record in self._encoded],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces everything by what `state_dict` returned; stays as it was if that is no such state.

        Raises:
            ArgumentError: `state` is no history's, or of a later format.
        """
        self._load(state, "the state")

    def _load(self, state: Any, where: str) -> None:
        whole = "what History.state_dict or History.to_json gives"
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT:
            raise ArgumentError(f"{where} is no history", whole, "see whether it is the right file or state")
        if state.get("version") != _VERSION:
            raise ArgumentError(
                f"{where} is a history of format version {state.get('version')!r}",
                f"version {_VERSION}",
                "read it with the version of Ignition that wrote it, or a later one",
            )
        records, ended = state.get("records"), state.get("epoch_ended")
        if not (isinstance(records, list) and isinstance(ended, list) and len(records) == len(ended)):
            raise ArgumentError(f"{where} is a broken history", f"{whole}, as many epoch_ended as records", _INTACT)
        read = History()
        for number, (record, end) in enumerate(zip(records, ended, strict=True), start=1):
            try:
                values = {name: decode(value) for name, value in record.items()}
                read.append(values, epoch_ended=end)
            except (ArgumentError, AttributeError) as error:
                raise ArgumentError(f"{where} is a broken history in its record {number}", whole, _INTACT) from error
        vars(self).update(vars(read))

    def _numbers(self, name: str) -> list[float]:
        return [self._number(name, value) for value in self[name]]

    def _number(self, name: str, value: Scalar) -> float:
        if isinstance(value, str):
            expected, fix = f"a metric among {', '.join(self.columns)}", f"history[{name!r}] has the values as they are"
            raise MetricError(f"{name!r} holds {value!r}, no number", expected, fix)
        return math.nan if value is None else float(value)

    def _present(self, *names: str) -> tuple[str, ...]:
        if any(name in self for name in names):
            return tuple(name for name in names if name in self)
        raise unknown_column(names[0], self.columns)

    def _plot(self, names: Iterable[str], title: str, y_label: str, by: str, ax: Axes | None) -> Axes:
        from ignition.plots import draw_metrics

        curves = {name: self._numbers(name) for name in names}
        if not curves:
            there = f"a column train_* or val_* beside {', '.join(self.columns) or 'none'}"
            raise MetricError("there is no metric to draw", there, "return one, or name a column")
        return draw_metrics(curves, self["epoch"], self["step"], title=title, y_label=y_label, by=by, ax=ax)
