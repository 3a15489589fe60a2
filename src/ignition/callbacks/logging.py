"""Writing the history to a file while it grows."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ignition.callbacks.base import Callback
from ignition.errors import ArgumentError, IgnitionWarning, kind_of
from ignition.records import write_csv

if TYPE_CHECKING:
    from ignition.history import History
    from ignition.trainer import Trainer

__all__ = ["CSVLogger"]


class CSVLogger(Callback):
    """Keeps the whole history in a CSV file: a header, and a line a record, as `History.to_csv` writes them.

    A record is added to the file when it is written. Where that brings a new column the file is written anew, so that
    header and lines always agree. A fit of a Trainer that has a history begins with writing that, so that nothing is
    there twice; a file that another training left is replaced at the first record, not before.

    A disk that fails does not end the training: there is one warning a fit, and the file is written anew, with all that
    is missing, at the next record that finds the disk well again.

    Args:
        path: The file. Its folders are made at the fit's start.

    Raises:
        ArgumentError: If `path` is no path; at the fit's start if it is a folder.
        OSError: At the fit's start, if the folder cannot be made, or the history so far cannot be written.

    Example:
        >>> from ignition.callbacks import CSVLogger
        >>> logger = CSVLogger("runs/digits/history.csv")

        pandas reads it::

            pandas.read_csv("runs/digits/history.csv").plot(x="epoch", y=["train_loss", "val_loss"])
    """

    main_only: ClassVar[bool] = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
            raise ArgumentError(
                f"CSVLogger got {kind_of(path)} as its path",
                "the path of a file",
                "for example CSVLogger('runs/history.csv')",
            )
        self.path = Path(path)
        self._columns: tuple[str, ...] | None = None  # of the file, None where it is not known to be whole
        self._lines = 0
        self._warned = False

    def __repr__(self) -> str:
        return f"CSVLogger({os.fspath(self.path)!r})"

    def on_train_begin(self, trainer: Trainer[Any]) -> None:
        """Makes the folder, and writes the history so far."""
        self._warned = False
        self._columns, self._lines = None, 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_dir():
            raise ArgumentError(
                f"CSVLogger got {os.fspath(self.path)!r}, which is a folder",
                "the path of a file",
                f"name a file in it: {os.path.join(self.path, 'history.csv')!r}",
            )
        if len(trainer.history):
            self._write_all(trainer.history)

    def on_record(self, trainer: Trainer[Any]) -> None:
        """Adds the record to the file."""
        self._write(trainer.history)

    def on_train_end(self, trainer: Trainer[Any]) -> None:
        """Writes what another callback's error kept from being written."""
        if self._lines != len(trainer.history):
            self._write(trainer.history)

    def _write(self, history: History) -> None:
        try:
            behind = self._lines != len(history) - 1
            if behind or self._columns != history.columns or not self.path.exists():
                self._write_all(history)
            else:
                _append(self.path, _line(history.columns, history.last))
                self._lines += 1
        except OSError as error:
            self._columns = None
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"CSVLogger could not write {os.fspath(self.path)!r}: {error}; the training goes on, and the file "
                    "is written anew with all records as soon as that works",
                    IgnitionWarning,
                    stacklevel=2,
                )

    def _write_all(self, history: History) -> None:
        history.to_csv(self.path)
        self._columns, self._lines = history.columns, len(history)


def _line(columns: Sequence[str], record: Mapping[str, Any]) -> str:
    """One line of the file, in the very form of those that `History.to_csv` writes."""
    header, whole = io.StringIO(newline=""), io.StringIO(newline="")
    write_csv(header, columns, [])
    write_csv(whole, columns, [record])
    return whole.getvalue().removeprefix(header.getvalue())


def _append(path: Path, line: str) -> None:
    size = path.stat().st_size
    try:
        with path.open("a", encoding="utf-8", newline="", errors="backslashreplace") as file:
            file.write(line)
    except OSError:
        os.truncate(path, size)  # half a line would make the file unreadable
        raise
