"""Matrices, bars, images and axes side by side, from plain numbers. matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ignition.errors import ArgumentError
from ignition.plots import PALETTE, checked_axes, new_axes, new_figure, plain_text, set_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_bars", "draw_images", "draw_matrix", "draw_panels"]

_MOST_WRITTEN = 16
"""Up to so many rows each cell has its number, beyond there is no room; and up to so many bars stand upright."""


def draw_matrix(
    cells: Sequence[Sequence[float]],
    names: Sequence[str],
    *,
    title: str,
    x_label: str,
    y_label: str,
    ax: Axes | None = None,
) -> Axes:
    """Draws a square of cells in colours, with their numbers where there is room; zeros are left empty.

    Args:
        cells: The rows; integers are shown as they are, shares with two digits.
        names: Of the rows, which are those of the columns.
        title: Above the axes.
        x_label: What the columns are.
        y_label: What the rows are.
        ax: Where to draw; new axes by default.

    Raises:
        ArgumentError: `ax` is no matplotlib ``Axes``.
        IgnitionError: matplotlib is not installed.
    """
    count = len(names)
    size = min(12.0, max(3.6, 1.6 + 0.5 * count))
    axes = new_axes(size + 1.0, size) if ax is None else checked_axes(ax)
    peak = max(value for row in cells for value in row) or 1
    image = axes.imshow(cells, cmap="cividis", vmin=0, vmax=peak)
    axes.figure.colorbar(image, ax=axes, shrink=0.85)
    shown = range(count) if count <= 40 else range(0, count, math.ceil(count / 20))
    labels = [plain_text(names[place]) for place in shown]
    sideways = max(map(len, labels)) * len(labels) > 45
    axes.set_xticks(shown, labels, rotation=45 if sideways else 0, ha="right" if sideways else "center")
    axes.set_yticks(shown, labels)
    axes.set_title(plain_text(title))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if count <= _MOST_WRITTEN:
        for row, values in enumerate(cells):
            for column, value in enumerate(values):
                if value:  # zeros would hide the rest
                    # cividis goes from dark to light, so that one of the two is legible on each cell.
                    colour = "black" if value > peak / 2 else "white"
                    text = f"{value:.2f}" if isinstance(value, float) else f"{value:,}"
                    axes.text(column, row, text, ha="center", va="center", color=colour, fontsize="small")
    return axes


def draw_bars(
    names: Sequence[str], heights: Sequence[float], *, title: str, y_label: str, ax: Axes | None = None
) -> Axes:
    """Draws a bar for each name, with its height written at its end; many or long names stand to the left of theirs.

    Args:
        names: From left to right, or from top to bottom.
        heights: As many.
        title: Above the axes.
        y_label: What is counted.
        ax: Where to draw; new axes by default.

    Raises:
        ArgumentError: `ax` is no matplotlib ``Axes``.
        IgnitionError: matplotlib is not installed.
    """
    upright = len(names) <= _MOST_WRITTEN and sum(map(len, names)) <= 70
    height = 4.2 if upright else min(14.0, 1.4 + 0.26 * len(names))
    axes = new_axes(height=height) if ax is None else checked_axes(ax)
    labels, places = [plain_text(name) for name in names], range(len(names))
    if upright:
        bars = axes.bar(places, heights, color=PALETTE[0])
        axes.set_xticks(places, labels)
        axes.set_ylabel(y_label)
    else:
        bars = axes.barh(places, heights, color=PALETTE[0])
        axes.set_yticks(places, labels, fontsize="small")
        axes.set_xlabel(y_label)
        axes.invert_yaxis()
    axes.bar_label(bars, [f"{height:,}" for height in heights], padding=2, fontsize="small")
    axes.margins(x=0.05 if upright else 0.12, y=0.12 if upright else 0.02)
    axes.set_title(plain_text(title))
    set_grid(axes, own=ax is None)
    axes.grid(visible=False, axis="x" if upright else "y")
    return axes


def draw_images(images: Sequence[Any], captions: Sequence[str], *, title: str, columns: int) -> list[Axes]:
    """Draws images in a grid, each with its caption above it.

    Args:
        images: Each ``(height, width)`` or ``(height, width, 3)``.
        captions: As many.
        title: Above all of them.
        columns: How many stand side by side.

    Returns:
        The axes, one for each image.

    Raises:
        ArgumentError: If there is no image, or `columns` is no positive integer.
        IgnitionError: matplotlib is not installed.
    """
    if not images:
        raise ArgumentError("there is no image to draw", "at least one", "see whether there are any: len(examples)")
    grid = _grid(len(images), columns, width=1.5, height=1.95)
    for axes, image, caption in zip(grid, images, captions, strict=True):
        axes.imshow(image, cmap="gray", interpolation="nearest")
        axes.set_title(plain_text(caption), fontsize="small")
        axes.set_xticks([])
        axes.set_yticks([])
    grid[0].figure.suptitle(plain_text(title))
    return grid


def draw_panels(draw: Sequence[Callable[[Axes], object]], *, columns: int) -> list[Axes]:
    """Has each of some functions draw into axes of its own, side by side in one figure.

    Args:
        draw: Each receives its axes.
        columns: How many stand side by side.

    Returns:
        The axes, one for each function.

    Raises:
        ArgumentError: If `columns` is no positive integer.
        IgnitionError: matplotlib is not installed.
    """
    grid = _grid(len(draw), columns, width=5.2, height=3.2)
    for axes, function in zip(grid, draw, strict=True):
        function(axes)
        axes.spines[["top", "right"]].set_visible(False)
    return grid


def _grid(count: int, columns: Any, width: float, height: float) -> list[Axes]:
    if isinstance(columns, bool) or not isinstance(columns, int) or columns < 1:
        raise ArgumentError(f"columns={columns!r}", "an integer of 1 or more", "columns=2")
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(columns * width, rows * height)
    return [figure.add_subplot(rows, columns, place) for place in range(1, count + 1)]
