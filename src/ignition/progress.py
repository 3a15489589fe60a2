"""What a person sees of a run: a bar in a terminal or a notebook, plain lines in a file or a pipe."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from ignition.notebook import BarWidget, LiveTable, PassBar, in_notebook
from ignition.records import column_order, number_text

__all__ = ["Progress", "in_notebook", "in_terminal"]

_SECONDS_BETWEEN_DRAWS = 0.1


class Progress:
    """The bar of the running pass and a line for each record.

    Everything goes to the standard output. Where that is a terminal or a notebook there is a bar, redrawn by time.
    In a terminal the records are the rows of a table, if that is wide enough. In a notebook they are one table that
    grows, and one bar serves all passes of a fit. Elsewhere a record is one line that names each value, so that a log
    can be searched.

    Args:
        shown: False for no output at all.

    Attributes:
        next_draw: When `draw` is wanted next, on the clock of ``time.perf_counter``; infinite without a bar.
    """

    def __init__(self, shown: bool) -> None:
        self.next_draw = math.inf
        self._shown = shown
        self._bars: list[Any] = []  # the innermost last: an evaluation's bar lies over that of its epoch
        self._widths: dict[str, int] = {}  # of each column, as far as it had to be until now
        self._heading: tuple[str, int | None] | None = None
        self._fitting = False
        self._widget: BarWidget | None = None  # in a notebook
        self._table: LiveTable | None = None

    @property
    def is_shown(self) -> bool:
        """Whether there is any output."""
        return self._shown

    @property
    def is_open(self) -> bool:
        """Whether a bar is shown."""
        return bool(self._bars)

    def open(self) -> None:
        """At a fit's start: what a notebook shows stays in its place until `close`."""
        self._fitting = True

    def begin(self, description: str, total: int | None, done: int = 0) -> None:
        """Opens a bar for a pass of `total` batches, of which `done` are done."""
        bar = self._new_bar(description, total, done) if self._shown else None
        if bar is not None:
            self._bars.append(bar)
            self.next_draw = 0.0 if self._widget is None else self._widget.next_draw

    def draw(self, now: float, done: int, means: Mapping[str, float]) -> None:
        """Redraws the bar with what is done and the means so far."""
        self.next_draw = now + _SECONDS_BETWEEN_DRAWS
        bar = self._bars[-1]
        bar.set_postfix_str("  ".join(f"{name} {number_text(value)}" for name, value in means.items()), refresh=False)
        bar.update(done - bar.n)
        if self._table is not None and now >= self._table.due:
            self._table.draw()

    def end(self) -> None:
        """Takes the innermost bar away."""
        if self._bars:
            self._bars.pop().close()
        if not self._bars:
            self.next_draw = math.inf
            if not self._fitting:
                self.close()

    def close(self) -> None:
        """At a fit's end, whatever ended it: takes every bar away, and shows the table whole."""
        self._fitting = False
        while self._bars:
            self._bars.pop().close()
        self.next_draw = math.inf
        widget, self._widget = self._widget, None
        records, self._table = self._table, None
        if widget is not None:
            widget.close()
        if records is not None:
            records.draw()

    def say(self, line: str) -> None:
        """Prints a line, above the bar if there is one."""
        if not self._shown:
            return
        for bar in self._bars:
            bar.clear()
        print(line, flush=True)
        for bar in self._bars:
            bar.refresh()

    def record(self, record: Mapping[str, Any], epochs: int | None) -> None:
        """Prints the line of a record.

        Args:
            record: The row of history.
            epochs: The number of the fit's last epoch, where it is known.
        """
        if not self._shown:
            return
        cells = {name: number_text(value) for name, value in record.items() if name != "data_seconds"}
        if epochs is not None:
            cells["epoch"] = f"{cells['epoch']:>{len(str(epochs))}}/{epochs}"
        cells["seconds"] = f"{record['seconds']:.1f}"
        if in_notebook():
            self._table = self._table or LiveTable()
            self._table.add({name: text.strip() for name, text in cells.items()})
            return
        for name, text in cells.items():
            self._widths[name] = max(self._widths.get(name, 0), len(text), 6 if name == "step" else 0)
        # Every column seen until now: what this record lacks has its place too.
        columns = {name: cells.get(name, "-") for name in sorted(self._widths, key=column_order)}

        if not in_terminal():
            self.say(_join(self._named_cells(columns)))
            return
        room = _terminal_width()
        # Numbers have room from the start, so that the heading stays true when one of them grows.
        least = {name: 7 for name, value in record.items() if isinstance(value, float) and name != "seconds"}
        widths = {name: max(width, len(name), least.get(name, 0)) for name, width in self._widths.items()}
        if sum(widths.values()) + len(_GAP) * (len(widths) - 1) > room:
            self.say(_folded(self._named_cells(columns), room))
            return
        heading = _join(name.rjust(widths[name]) for name in columns)
        if self._heading != (heading, epochs):  # another fit, or another column
            self._heading = (heading, epochs)
            self.say(heading)
        self.say(_join(text.rjust(widths[name]) for name, text in columns.items()))

    def _new_bar(self, description: str, total: int | None, done: int) -> Any:
        """A bar for where the output goes, or None where it has no place."""
        if in_notebook():
            try:
                self._widget = self._widget or BarWidget()
                return PassBar(self._widget, description, total, done)
            except ImportError:  # no ipywidgets: the terminal's bar does, as text
                pass
        elif not in_terminal():
            return None
        from tqdm import tqdm

        # No thread that redraws on its own: the loop does, and a thread would outlive it.
        kind: Any = type("Bar", (tqdm,), {"monitor_interval": 0})
        return kind(
            desc=description, total=total, initial=done, leave=False, file=sys.stdout, dynamic_ncols=True,
            mininterval=0, miniters=0,  # drawn whenever the loop says so
        )  # fmt: skip

    def _named_cells(self, columns: Mapping[str, str]) -> list[str]:
        """Each value with its name, as wide as the column is."""
        *before, seconds = columns
        cells = [f"{name} {_aligned(name, columns[name], self._widths[name])}" for name in before]
        return [*cells, f"{columns[seconds]} s"]


_GAP = "  "


def _join(cells: Iterable[str]) -> str:
    return _GAP.join(cells)


def _aligned(name: str, text: str, width: int) -> str:
    return text.rjust(width) if name in ("epoch", "step") else text.ljust(width)


def _folded(cells: list[str], room: int) -> str:
    """The cells in as many lines as they need, the later ones under the second cell."""
    indent = " " * (len(cells[0]) + len(_GAP))
    lines = [cells[0]]
    for cell in cells[1:]:
        longer = lines[-1] + _GAP + cell
        if len(longer.rstrip()) <= room or lines[-1] == cells[0]:
            lines[-1] = longer
        else:
            lines.append(indent + cell)
    return "\n".join(line.rstrip() for line in lines)


def in_terminal() -> bool:
    """Whether the standard output is a terminal."""
    isatty = getattr(sys.stdout, "isatty", None)  # what a user puts in its place may lack it
    return isatty is not None and bool(isatty())


def _terminal_width() -> int:
    try:
        width = os.get_terminal_size(sys.stdout.fileno()).columns
    except (AttributeError, ValueError, OSError):  # it says that it is a terminal, and is none of the system's
        width = 0
    return width or shutil.get_terminal_size().columns
