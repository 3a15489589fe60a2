"""What a run shows in a notebook: one bar for one pass after another, and one table that grows.

All is shown by IPython's displays, that can be replaced where they are. IPython and ipywidgets are imported when
something is shown.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from time import perf_counter
from typing import Any

from ignition.markup import table_html
from ignition.records import column_order, table

__all__ = ["BarWidget", "LiveTable", "PassBar", "Place", "in_notebook"]

_SECONDS_BETWEEN_BARS = 0.1
_SECONDS_BETWEEN_TABLES = 0.2
_EMPTY = {"text/html": "", "text/plain": ""}
_METER = "{n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


def in_notebook() -> bool:
    """Whether the code runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")  # not imported for this: in a kernel it is there
    shell = ipython.get_ipython() if ipython is not None else None
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)  # Colab's derives from it


class Place:
    """A place in the output of a notebook's cell: what is shown there next takes the place of what was before."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, shown: Any, metadata: dict[str, Any] | None = None) -> None:
        """Shows an object, or what stands in a dict by MIME type; `metadata` says how, by MIME type too."""
        raw = isinstance(shown, dict)
        if self._handle is None:
            display: Any = import_module("IPython.display").display
            self._handle = display(shown, raw=raw, metadata=metadata, display_id=True)
        else:
            self._handle.update(shown, raw=raw, metadata=metadata)


class LiveTable:
    """A table of records that grows in its place.

    Attributes:
        due: When `draw` is wanted, on the clock of ``time.perf_counter``; infinite while all rows are shown.
    """

    def __init__(self) -> None:
        self.due = math.inf
        self._next = 0.0
        self._place = Place()
        self._rows: list[dict[str, str]] = []

    def add(self, cells: Mapping[str, str]) -> None:
        """Adds a row, a text by column, and shows it unless the last one is just being looked at."""
        self._rows.append(dict(cells))
        self.due = self._next
        if perf_counter() >= self.due:
            self.draw()

    def draw(self) -> None:
        """Shows the rows, if some are not shown yet."""
        if self.due < math.inf:
            columns = sorted({name: None for row in self._rows for name in row}, key=column_order)
            html, text = table_html(columns, self._rows), table(columns, self._rows)
            self._place.show({"text/html": html, "text/plain": text})
            self.due, self._next = math.inf, perf_counter() + _SECONDS_BETWEEN_TABLES


class BarWidget:
    """A bar for one pass after another, also for one inside another: the innermost is shown.

    Attributes:
        next_draw: When it is worth to draw again, on the clock of ``time.perf_counter``.

    Raises:
        ImportError: ipywidgets is not installed.
    """

    def __init__(self) -> None:
        widgets = import_module("ipywidgets")
        from tqdm import tqdm

        self.next_draw = 0.0
        self._format: Callable[..., str] = tqdm.format_meter
        # Wide enough for most names, so that the bar does not jump from pass to pass.
        self._name, self._text = widgets.Label(layout=widgets.Layout(min_width="6.5em")), widgets.Label()
        self._meter = widgets.FloatProgress(min=0.0, max=1.0, layout=widgets.Layout(width="30%"))
        self._box = widgets.HBox([self._name, self._meter, self._text])
        self._place = Place()
        self._place.show(self._box)

    def show(self, name: str, total: int | None, done: int, seconds: float, initial: int, postfix: str) -> None:
        """Shows a pass as it stands."""
        self._name.value = name
        self._meter.value = 1.0 if total is None else min(done / max(total, 1), 1.0)
        self._meter.bar_style = "info" if total is None else ""
        self._text.value = self._format(done, total, seconds, initial=initial, bar_format=_METER, postfix=postfix)
        self.next_draw = perf_counter() + _SECONDS_BETWEEN_BARS

    def close(self) -> None:
        """Takes the bar away, and all that the kernel and the page keep for it."""
        self._place.show(_EMPTY)
        for widget in (self._box, self._name, self._meter, self._text):
            for part in (getattr(widget, "style", None), widget.layout, widget):
                if part is not None:
                    part.close()


class PassBar:
    """The bar of one pass on a widget that other passes use too. Its methods are those of tqdm's bars.

    Args:
        widget: Where it is shown.
        desc: What kind of pass it is.
        total: How many batches there are, if that is known.
        initial: How many of them are done.
    """

    def __init__(self, widget: BarWidget, desc: str, total: int | None, initial: int) -> None:
        self.n = initial
        self._widget, self._desc, self._total, self._initial = widget, desc, total, initial
        self._begun, self._postfix = perf_counter(), ""
        if self._begun >= widget.next_draw:
            self.refresh()

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Sets what stands at the end."""
        self._postfix = text

    def update(self, batches: int) -> None:
        """Counts batches, and shows the bar."""
        self.n += batches
        self.refresh()

    def refresh(self) -> None:
        """Shows the bar."""
        seconds = perf_counter() - self._begun
        self._widget.show(self._desc, self._total, self.n, seconds, self._initial, self._postfix)

    def clear(self) -> None:
        """Nothing: a printed line does not run into a widget."""

    def close(self) -> None:
        """Nothing: the widget is for the next pass."""
