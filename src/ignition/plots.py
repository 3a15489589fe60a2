"""Figures from plain numbers. matplotlib is imported when something is drawn, and not before.

Nothing here knows of a trainer or a history: lines come in as lists, an ``Axes`` goes out.
"""

from __future__ import annotations

import math
import sys
import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ignition.errors import ArgumentError, IgnitionError, kind_of
from ignition.ranking import best_index, direction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "PALETTE",
    "Line",
    "checked_axes",
    "draw_lines",
    "draw_metrics",
    "draw_sweep",
    "new_axes",
    "new_figure",
    "plain_text",
    "set_grid",
]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""The colours of Okabe and Ito (2008) that stand out on white and on black alike, the strongest first.

Their black is lost on a dark background and their yellow on a light one, so both are left out.
"""

_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
_MARKED_POINTS = 40
"""Up to this many points each has a marker; beyond, markers would run together into a thick line."""

_SEARCHED_POINTS = 4000
"""Up to this many points matplotlib looks for the emptiest corner; beyond, the search is slow and it warns."""

_FILE_BACKENDS = frozenset({"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"})
_KEPT_OPEN = 4
_opened: deque[weakref.ref[Figure]] = deque()


@dataclass(frozen=True, slots=True)
class Line:
    """One curve.

    Attributes:
        name: What the legend calls it.
        x: Where the points are, one number a point.
        y: The points, as many as `x`. A point that is NaN or infinite is left out, and its neighbours are joined.
        best: Index of the point that gets a star, or None.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    best: int | None = None


def draw_lines(lines: Sequence[Line], *, title: str, x_label: str, y_label: str, ax: Axes | None = None) -> Axes:
    """Draws curves over whole numbers (epochs or steps) into one pair of axes, with a legend and a grid.

    Curves drawn into an `ax` that has some already go on in the palette where those ended.

    Args:
        lines: The curves, at least one.
        title: Above the axes.
        x_label: Below the axes; also the word for the place of a best point, as in "best 0.31 at epoch 4".
        y_label: Left of the axes.
        ax: Where to draw; new axes as `new_axes` makes them by default.

    Returns:
        The axes that hold the curves; ``.figure.savefig(path)`` writes them to a file.

    Raises:
        ArgumentError: `ax` is no matplotlib ``Axes``, or `lines` is empty.
        IgnitionError: matplotlib is not installed.

    Example:
        >>> axes = draw_lines([Line("cost", [1, 2, 3], [3.0, 1.0, 2.0], best=1)],
        ...                   title="Cost", x_label="epoch", y_label="cost")
        >>> axes.get_legend_handles_labels()[1]
        ['cost (best 1 at epoch 2)']
    """
    if not lines:
        raise ArgumentError(
            "there is no line to draw", "at least one Line", "pass for example [Line('loss', [1, 2], [3.0, 1.0])]"
        )
    many = len(lines) > len(PALETTE)  # then the legend stands beside the curves, not among them
    axes = new_axes(width=9.5 if many else 7.0) if ax is None else checked_axes(ax)
    from matplotlib.ticker import EngFormatter, MaxNLocator

    before = len(axes.get_legend_handles_labels()[1])
    for index, line in enumerate(lines, start=before):
        _draw(axes, line, index, x_label)
    axes.set_title(plain_text(title))
    axes.set_xlabel(plain_text(x_label))
    axes.set_ylabel(plain_text(y_label))
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    xs = {x for line in lines for x in line.x}
    if len(xs) == 1 and not before:
        # One record: matplotlib's own limits are so narrow that a mark floats in nothing.
        only = xs.pop()
        axes.set_xlim(only - 0.5, only + 0.5)
    set_grid(axes, own=ax is None)
    if ax is None and many:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small")
    else:
        few = sum(len(line.x) for line in lines) <= _SEARCHED_POINTS
        axes.legend(loc="best" if few else "upper right", fontsize="small" if many else None)
    return axes


def draw_metrics(
    curves: Mapping[str, Sequence[float]],
    epochs: Sequence[int],
    steps: Sequence[int],
    *,
    title: str,
    y_label: str,
    by: str,
    ax: Axes | None = None,
) -> Axes:
    """Draws metrics by name, with a star at the best of those whose direction is known.

    A training metric gets one only where its ``val_*`` is not drawn too.

    Args:
        curves: The values of each metric, one a record.
        epochs: The epoch of each record.
        steps: The step of each record.
        title: As for `draw_lines`.
        y_label: As for `draw_lines`.
        by: "epoch": by epoch while each has one record, else by step. "step": by step.
        ax: As for `draw_lines`.

    Raises:
        ArgumentError: `by` is neither; as `draw_lines` does.
        IgnitionError: matplotlib is not installed.
    """
    if by not in ("epoch", "step"):
        raise ArgumentError(f"by is {by!r}", "'epoch' or 'step'", "pass by='epoch' or by='step'")
    by_epoch = by == "epoch" and len(set(epochs)) == len(epochs)
    lines = []
    for name, values in curves.items():
        mode = direction(name)
        beside = name.startswith("train_") and f"val_{name.removeprefix('train_')}" in curves
        best = None if mode is None or beside else best_index(values, mode)
        lines.append(Line(name, epochs if by_epoch else steps, values, best))
    return draw_lines(lines, title=title, x_label="epoch" if by_epoch else "step", y_label=y_label, ax=ax)


def draw_sweep(
    lrs: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    marks: Mapping[str, float],
    *,
    y_label: str,
    ax: Axes | None = None,
) -> Axes:
    """Draws a loss over the learning rate, on a logarithmic axis, with a line at each learning rate that is marked.

    Above the axes are the losses that the smoothed curve does not come near: what diverges would make the rest flat.

    Args:
        lrs: The learning rate of each step.
        losses: The loss of each step.
        smoothed: Their moving average.
        marks: Learning rates by name.
        y_label: Left of the axes.
        ax: As for `draw_lines`.

    Raises:
        ArgumentError: `ax` is no matplotlib ``Axes``.
        IgnitionError: matplotlib is not installed.
    """
    axes = new_axes() if ax is None else checked_axes(ax)
    frame = axes.spines["left"].get_edgecolor()
    axes.plot(lrs, losses, color=frame, alpha=0.5, linewidth=1.0, label="each step")
    axes.plot(lrs, smoothed, color=PALETTE[0], linewidth=2.0, label="smoothed")
    for (name, lr), colour, dashes in zip(marks.items(), PALETTE[1:], _DASHES[1:], strict=False):
        axes.axvline(lr, color=colour, linestyle=dashes, linewidth=1.6, label=f"{plain_text(name)}: {lr:.2g}")
    axes.set_xscale("log")
    if smoothed:
        # Nearly all of the curve, and of its last rise enough to be seen as one.
        low, start = min(*losses, *smoothed), max(smoothed[: max(1, len(smoothed) // 2)])
        room = (start - low) or abs(start) or 1.0
        axes.set_ylim(low - 0.1 * room, start + 0.35 * room)
    axes.set_title("Learning rate sweep")
    axes.set_xlabel("learning rate")
    axes.set_ylabel(plain_text(y_label))
    set_grid(axes, own=ax is None)
    axes.legend(loc="best" if len(lrs) <= _SEARCHED_POINTS else "upper left")
    return axes


def new_axes(width: float = 7.0, height: float = 4.2) -> Axes:
    """Empty axes in a figure of its own, as `new_figure` makes it."""
    return new_figure(width, height).add_subplot()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure.

    Where somebody may want to see it (in IPython or a notebook, at the interactive prompt, or in a script that has
    imported ``matplotlib.pyplot``) it is pyplot's current one, so that it shows by itself in a notebook, and
    ``plt.show()`` and ``plt.savefig(path)`` find it. Elsewhere, and outside the main thread, it belongs to nobody
    and goes when its last reference goes. With a backend that only writes files, pyplot holds on to the last few of
    these figures and not to all, so that drawing every epoch does not pile them up; a figure that pyplot has let go of
    is as usable as before.

    Args:
        width: In inches.
        height: In inches.

    Raises:
        IgnitionError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise IgnitionError(
            "a plot needs matplotlib, which is not installed", "matplotlib beside Ignition", "pip install matplotlib"
        ) from error
    if not _somebody_looks():
        from matplotlib.figure import Figure

        return Figure(figsize=(width, height), layout="constrained")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(width, height), layout="constrained")
    if matplotlib.get_backend().lower() in _FILE_BACKENDS:
        _opened.append(weakref.ref(figure))
        while len(_opened) > _KEPT_OPEN:
            oldest = _opened.popleft()()
            if oldest is not None:
                pyplot.close(oldest)
    return figure


def set_grid(axes: Axes, own: bool) -> None:
    """Draws a faint grid behind the rest; axes of our `own` lose the frame above and to the right."""
    # The frame's colour is the one that the style made to stand out on its background.
    axes.grid(visible=True, color=axes.spines["left"].get_edgecolor(), alpha=0.15, linewidth=0.8)
    axes.set_axisbelow(True)
    if own:
        axes.spines[["top", "right"]].set_visible(False)


def _somebody_looks() -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False
    if "matplotlib.pyplot" in sys.modules or hasattr(sys, "ps1"):
        return True
    shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return shell is not None and shell() is not None


def checked_axes(ax: Any) -> Axes:
    """`ax`, if it is a matplotlib ``Axes``; ArgumentError if not."""
    if "matplotlib" in sys.modules:
        from matplotlib.axes import Axes

        if isinstance(ax, Axes):
            return ax
    raise ArgumentError(
        f"ax is {kind_of(ax)}",
        "one matplotlib Axes, as in figure, ax = plt.subplots()",
        "leave ax out for a new figure, or pass one element of an array of axes",
    )


def _draw(axes: Axes, line: Line, index: int, x_label: str) -> None:
    points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    colour = PALETTE[index % len(PALETTE)]
    label = line.name
    if not points:
        label += " (no finite value)"
    elif line.best is not None:
        label += f" (best {line.y[line.best]:.4g} at {x_label} {line.x[line.best]:,.0f})"
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=colour,
        linewidth=1.8,
        linestyle=_DASHES[index // len(PALETTE) % len(_DASHES)],
        marker=_MARKERS[index % len(_MARKERS)] if len(points) <= _MARKED_POINTS else "",
        markersize=4,
        label=plain_text(label),
    )
    if line.best is not None and math.isfinite(line.y[line.best]):
        axes.plot(
            [line.x[line.best]],
            [line.y[line.best]],
            linestyle="",
            marker="*",
            markersize=14,
            color=colour,
            markeredgecolor=axes.spines["left"].get_edgecolor(),
            markeredgewidth=0.8,
            clip_on=False,
            zorder=5,
            label="_best",
        )


def plain_text(name: str) -> str:
    """A name as matplotlib shows it letter by letter: no formulas, and no label that it takes for a hidden one."""
    shown = name.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
