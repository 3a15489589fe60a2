"""The curves of a training, redrawn while it runs."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

from ignition.callbacks.base import Callback
from ignition.errors import ArgumentError, IgnitionError, MetricError, kind_of, warn
from ignition.notebook import Place, in_notebook

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ignition.history import History
    from ignition.trainer import Trainer

__all__ = ["PlotProgress"]

_SHARE_OF_TIME = 0.1
_LEAST_SECONDS = 0.5
_WIDE, _HIGH = 4.6, 3.1  # of one pair of axes, in inches
_DOTS_PER_INCH = 144
_SHOWN_DOTS_PER_INCH = 72  # half as many: sharp on a fine screen
_MOST_IN_A_ROW = 3


class PlotProgress(Callback):
    """Redraws the curves at each record: in a notebook in their place, elsewhere into a file.

    There is one pair of axes for each metric, with its ``train_*`` and ``val_*`` in it. In a notebook each fit has one
    picture, below the cell that runs it. With `path` the picture is a file too, replaced as a whole, which an image
    viewer that is open on it shows anew. Without `path` nothing is drawn outside a notebook, with a warning; no window
    is opened.

    Drawing takes a tenth of the time at most: a record that comes too soon after the last drawing waits for the next
    one, or for the fit's end, where what is missing is drawn in any case, also after an error or an interruption.

    What goes wrong in drawing (a full disk, a metric that no record has) does not end the training: there is one
    warning a fit. matplotlib is imported with the first picture, or at the fit's start where there is a `path`.

    Args:
        path: A file for the picture; its ending says what kind: ``.png``, ``.svg``, ``.pdf``. Its folders are made.
        metrics: The columns of history to draw; by default every ``train_*`` and ``val_*``.

    Raises:
        ArgumentError: If `path` is no path, or `metrics` are no names; at the fit's start, if matplotlib does not
            write this kind of file.
        IgnitionError: At the fit's start, if there is a `path` and matplotlib is not installed.
        OSError: At the fit's start, if the folder cannot be made.

    Example:
        >>> from ignition.callbacks import PlotProgress
        >>> in_a_notebook = PlotProgress()
        >>> also_as_a_file = PlotProgress("runs/digits/curves.png", metrics=["train_loss", "val_loss"])
    """

    main_only: ClassVar[bool] = True

    def __init__(self, path: str | os.PathLike[str] | None = None, metrics: Iterable[str] | None = None) -> None:
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise ArgumentError(
                f"PlotProgress got {kind_of(path)} as its path",
                "the path of a file, or None",
                "for example PlotProgress('runs/curves.png'), and PlotProgress(metrics=[...]) for columns",
            )
        self.path = None if path is None else Path(path)
        self.metrics = None if metrics is None else _names(metrics)
        self._place: Place | None = None
        self._drawn = 0  # records in the picture
        self._next = 0.0
        self._is_warm = False
        self._warned = False

    def __repr__(self) -> str:
        return f"PlotProgress({'' if self.path is None else repr(os.fspath(self.path))})"

    def on_train_begin(self, trainer: Trainer[Any]) -> None:
        """Finds where to draw."""
        self._warned, self._next, self._drawn = False, 0.0, len(trainer.history)
        self._place = Place() if in_notebook() else None
        if self.path is not None:
            _check_kind(self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
        elif self._place is None:
            warn(
                "PlotProgress draws nothing here: this is no notebook, and it has no path; "
                "pass one: PlotProgress('curves.png')"
            )

    def on_record(self, trainer: Trainer[Any]) -> None:
        """Draws, if the last drawing is long enough ago."""
        if perf_counter() >= self._next:
            self._draw(trainer.history)

    def on_train_end(self, trainer: Trainer[Any]) -> None:
        """Draws what is not in the picture yet."""
        if self._drawn != len(trainer.history):
            self._draw(trainer.history)

    def _draw(self, history: History) -> None:
        if self._place is None and self.path is None:
            return
        begun = perf_counter()
        try:
            figure = self._figure(history)
            if self._place is not None:
                _show(self._place, figure, len(history))
            if self.path is not None:
                beside = self.path.with_name(f".{self.path.name}.part{self.path.suffix}")
                try:
                    figure.savefig(beside, dpi=_DOTS_PER_INCH)
                    os.replace(beside, self.path)
                finally:
                    beside.unlink(missing_ok=True)
            self._drawn = len(history)
        except (OSError, MetricError) as error:
            self._warn(f"PlotProgress could not draw: {error}")
        now = perf_counter()
        taken = now - begun if self._is_warm else 0.0  # the first drawing imports matplotlib and looks for fonts
        self._next, self._is_warm = now + max(taken / _SHARE_OF_TIME, _LEAST_SECONDS), True

    def _figure(self, history: History) -> Figure:
        """A figure of its own, that pyplot knows nothing of: it goes when it has been written."""
        from matplotlib.figure import Figure

        names = [name for name in history.columns if name.startswith(("train_", "val_"))]
        if self.metrics is not None:
            names = [name for name in self.metrics if name in history]
            for name in self.metrics:
                if name not in history:
                    self._warn(f"PlotProgress leaves out {name!r}: no record has it")
        panels: dict[str, list[str]] = {}
        for name in names:
            panels.setdefault(re.sub(r"^(train_|val_ema_|val_)", "", name), []).append(name)
        if not panels:
            raise MetricError("there is no metric to draw", "a column train_* or val_*", "return one from train_fn")
        across = min(len(panels), _MOST_IN_A_ROW)
        down = -(-len(panels) // across)
        figure = Figure(figsize=(_WIDE * across, _HIGH * down), layout="constrained")
        for place, columns in enumerate(panels.values(), start=1):
            history.plot(*columns, ax=figure.add_subplot(down, across, place))
        return figure

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            warn(f"{message}; the training goes on")


def _names(metrics: Any) -> tuple[str, ...]:
    names = () if isinstance(metrics, str) or not isinstance(metrics, Iterable) else tuple(metrics)
    if not names or not all(isinstance(name, str) for name in names):
        raise ArgumentError(
            f"PlotProgress got metrics={metrics!r:.60}",
            "a list of columns of history",
            "for example metrics=['train_loss', 'val_loss'], or None for all",
        )
    return names


def _check_kind(path: Path) -> None:
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        given = "PlotProgress needs matplotlib, which is not installed"
        raise IgnitionError(given, "matplotlib beside Ignition", "pip install matplotlib") from error
    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in kinds:
        raise ArgumentError(
            f"PlotProgress got {os.fspath(path)!r}, whose ending is no kind of picture",
            f"one of {', '.join(f'.{kind}' for kind in sorted(kinds))}",
            f"name it {os.fspath(path.with_suffix('.png'))!r}",
        )


def _show(place: Place, figure: Figure, records: int) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=_DOTS_PER_INCH)
    encoded = base64.b64encode(picture.getvalue()).decode()
    width = round(figure.get_figwidth() * _SHOWN_DOTS_PER_INCH)
    bundle = {"image/png": encoded, "text/plain": f"<curves of {records} record{'s' * (records != 1)}>"}
    place.show(bundle, {"image/png": {"width": width}})
