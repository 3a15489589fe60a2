"""What a person sees of a run: a bar in a terminal or a notebook, plain lines in a file or a pipe."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from ignition.records import column_order

__all__ = ["Progress", "in_notebook", "in_terminal"]

_SECONDS_BETWEEN_DRAWS = 0.1


class Progress:
    """The bar of the running pass and a line for each record.

    Everything goes to the standard output. Where that is a terminal or a notebook there is a bar, redrawn by time.
    In a terminal the records are the rows of a table, if that is wide enough. Elsewhere a record is one line that
    names each value, so that a log can be searched.

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

    @property
    def is_open(self) -> bool:
        """Whether a bar is shown."""
        return bool(self._bars)

    def begin(self, description: str, total: int | None, done: int = 0) -> None:
        """Opens a bar for a pass of `total` batches, of which `done` are done."""
        bar_kind = _bar_kind() if self._shown else None
        if bar_kind is not None:
            self._bars.append(
                bar_kind(
                    desc=description, total=total, initial=done, leave=False, file=sys.stdout, dynamic_ncols=True,
                    mininterval=0, miniters=0,  # drawn whenever the loop says so
                )
            )  # fmt: skip
            self.next_draw = 0.0

    def draw(self, now: float, done: int, means: Mapping[str, float]) -> None:
        """Redraws the bar with what is done and the means so far."""
        self.next_draw = now + _SECONDS_BETWEEN_DRAWS
        bar = self._bars[-1]
        bar.set_postfix_str("  ".join(f"{name} {_number(value)}" for name, value in means.items()), refresh=False)
        bar.update(done - bar.n)

    def end(self) -> None:
        """Takes the innermost bar away."""
        if self._bars:
            self._bars.pop().close()
        if not self._bars:
            self.next_draw = math.inf

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
        cells = {name: _number(value) for name, value in record.items() if name != "data_seconds"}
        if epochs is not None:
            cells["epoch"] = f"{cells['epoch']:>{len(str(epochs))}}/{epochs}"
        cells["seconds"] = f"{record['seconds']:.1f}"
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


def _number(value: Any) -> str:
    """A number in nine characters or less: four decimals, or three digits where those would show too little."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) and abs(value) < 1e8:
        return str(value)
    if 1e-2 <= abs(value) < 1e3 or (abs(value) < 1 and math.isclose(value, round(value, 4))):
        return f"{value:.4f}"
    return f"{value:.2f}" if 1e3 <= abs(value) < 1e5 else f"{value:.3g}"


def _bar_kind() -> Any:
    """The bar of tqdm for where the output goes, or None where a bar has no place."""
    if in_notebook():
        try:
            import_module("ipywidgets")  # without it tqdm's notebook bar is an error
            from tqdm.notebook import tqdm as notebook_bar

            return _without_monitor(notebook_bar)
        except ImportError:
            pass
    elif not in_terminal():
        return None
    from tqdm import tqdm as terminal_bar

    return _without_monitor(terminal_bar)


def _without_monitor(kind: Any) -> Any:
    """No thread that redraws on its own: the loop does, and a thread would outlive it."""
    return type("Bar", (kind,), {"monitor_interval": 0})


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


def in_notebook() -> bool:
    """Whether the code runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")  # not imported for this: in a kernel it is there
    shell = ipython.get_ipython() if ipython is not None else None
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)  # Colab's derives from it
