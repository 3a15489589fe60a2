"""What a person sees of a run: a bar in a terminal or a notebook, plain lines in a file or a pipe."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

__all__ = ["Progress", "in_notebook"]

_SECONDS_BETWEEN_DRAWS = 0.1


class Progress:
    """The bar of the running pass and a line for each record.

    Everything goes to the standard output. Where that is a terminal or a notebook there is a bar, redrawn by
    time; elsewhere there is none, and a log gets one line a record.

    Args:
        shown: False for no output at all.

    Attributes:
        next_draw: When `draw` is wanted next, on the clock of ``time.perf_counter``; infinite without a bar.
    """

    def __init__(self, shown: bool) -> None:
        self.next_draw = math.inf
        self._shown = shown
        self._bars: list[Any] = []  # the innermost last: an evaluation's bar lies over that of its epoch

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
        epoch = str(record["epoch"]) if epochs is None else f"{record['epoch']:>{len(str(epochs))}}/{epochs}"
        cells = [f"epoch {epoch}", f"step {record['step']:>6}"]
        for name, value in record.items():
            if name in ("epoch", "step", "seconds", "data_seconds"):
                continue
            cells.append(f"{name} {_number(value):<9}")
        cells.append(f"{record['seconds']:.1f} s")
        self.say("  ".join(cells))


def _number(value: Any) -> str:
    """A number in at most nine characters: four decimals, or five digits where that would lose them."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) and abs(value) < 1e8:
        return str(value)
    if value == 0 or 1e-2 <= abs(value) < 1e4:
        return f"{value:.4f}"
    return f"{value:.2e}" if math.isfinite(value) else str(value)


def _bar_kind() -> Any:
    """The bar of tqdm for where the output goes, or None where a bar has no place."""
    if in_notebook():
        try:
            import_module("ipywidgets")  # without it tqdm's notebook bar is an error
            from tqdm.notebook import tqdm as notebook_bar

            return _without_monitor(notebook_bar)
        except ImportError:
            pass
    elif not sys.stdout.isatty():
        return None
    from tqdm import tqdm as terminal_bar

    return _without_monitor(terminal_bar)


def _without_monitor(kind: Any) -> Any:
    """No thread that redraws on its own: the loop does, and a thread would outlive it."""
    return type("Bar", (kind,), {"monitor_interval": 0})


def in_notebook() -> bool:
    """Whether the code runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")  # not imported for this: in a kernel it is there
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and shell.__class__.__name__ == "ZMQInteractiveShell"
