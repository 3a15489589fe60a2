import gc
import io
import math
import sys
import threading
import types
import weakref

import pytest
from matplotlib.figure import Figure

from ignition.errors import ArgumentError, IgnitionError
from ignition.plots import PALETTE, Line, draw_lines, new_axes

NAN = float("nan")
LABELS = {"title": "Cost", "x_label": "epoch", "y_label": "cost"}


@pytest.fixture(autouse=True)
def nobody_looks(monkeypatch):
    """As in a script that has not imported pyplot."""
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    monkeypatch.delattr(sys, "ps1", raising=False)


@pytest.fixture
def pyplot(nobody_looks, monkeypatch):
    """As in a script that has imported pyplot."""
    from matplotlib import pyplot

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", pyplot)
    yield pyplot
    pyplot.close("all")


def line(*y, name="cost", best=None):
    return Line(name, list(range(1, len(y) + 1)), list(y), best)


def curves(axes):
    return [curve for curve in axes.get_lines() if not curve.get_label().startswith("_")]


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def png(axes):
    file = io.BytesIO()
    axes.figure.savefig(file, format="png", dpi=30)
    return file.getvalue()


def luminance(colour):
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_plot_has_curves_title_labels_legend_and_grid():
    axes = draw_lines([line(3.0, 2.0, name="a"), line(4.0, 5.0, name="b")], **LABELS)
    assert [(list(c.get_xdata()), list(c.get_ydata())) for c in curves(axes)] == [([1, 2], [3, 2]), ([1, 2], [4, 5])]
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("Cost", "epoch", "cost")
    assert labels(axes) == ["a", "b"]
    assert any(grid.get_visible() for grid in axes.get_xgridlines())
    assert png(axes).startswith(b"\x89PNG")


def test_a_gap_is_bridged():
    (curve,) = curves(draw_lines([line(3.0, NAN, 1.0, math.inf, 2.0, -math.inf, NAN)], **LABELS))
    assert list(curve.get_xdata()) == [1, 3, 5]
    assert list(curve.get_ydata()) == [3.0, 1.0, 2.0]


def test_a_curve_without_a_finite_value_says_so():
    axes = draw_lines([line(NAN, math.inf, best=1)], **LABELS)
    assert labels(axes) == ["cost (no finite value)"]
    png(axes)


def test_the_best_point_has_a_star_and_is_named_in_the_legend():
    axes = draw_lines([line(3.0, 0.123456, 0.2, best=1)], **LABELS)
    (star,) = [mark for mark in axes.get_lines() if mark.get_marker() == "*"]
    assert (list(star.get_xdata()), list(star.get_ydata())) == ([2], [0.123456])
    assert labels(axes) == ["cost (best 0.1235 at epoch 2)"]


def test_a_single_point_is_visible():
    axes = draw_lines([line(3.0)], **LABELS)
    (curve,) = curves(axes)
    assert curve.get_marker() not in ("", "None", None)
    assert axes.get_xlim()[0] < 1 < axes.get_xlim()[1]
    assert 1 in axes.get_xticks()


def test_many_points_have_no_markers():
    (curve,) = curves(draw_lines([line(*range(1000))], **LABELS))
    assert curve.get_marker() in ("", "None")


def test_a_long_training_is_drawn_without_a_warning():
    png(draw_lines([line(*range(200_000), best=7)], **LABELS))


@pytest.mark.parametrize("points", [1, 2, 3, 7, 30, 1234])
def test_ticks_are_whole_numbers(points):
    axes = draw_lines([line(*range(points))], **LABELS)
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(float(tick).is_integer() for tick in ticks)


def test_large_steps_have_short_tick_labels():
    axes = draw_lines([Line("cost", [0, 500_000, 1_000_000], [1.0, 2.0, 3.0])], **LABELS)
    axes.figure.canvas.draw()
    assert {"200k", "1M"} <= {text.get_text() for text in axes.get_xticklabels()}


def test_a_name_is_shown_letter_by_letter():
    axes = draw_lines([line(1.0, 2.0, name="$\\bad$"), line(1.0, 2.0, name="_hidden")], **LABELS | {"title": "5$ $x"})
    assert len(labels(axes)) == 2
    png(axes)


def test_curves_in_axes_that_have_some_go_on_in_the_palette():
    axes = draw_lines([line(1.0, 2.0, best=0), line(2.0, 3.0)], **LABELS)
    assert draw_lines([line(3.0, 4.0)], ax=axes, **LABELS) is axes
    assert [curve.get_color() for curve in curves(axes)] == list(PALETTE[:3])


def test_more_curves_than_colours_differ_in_their_dashes():
    axes = draw_lines([line(index, index, name=f"c{index}") for index in range(4 * len(PALETTE))], **LABELS)
    looks = {(curve.get_color(), str(curve._unscaled_dash_pattern)) for curve in curves(axes)}
    assert len(looks) == 4 * len(PALETTE)
    png(axes)


def test_the_colours_stand_out_on_white_and_on_black():
    for place, colour in enumerate(PALETTE):
        on_white, on_black = 1.05 / (luminance(colour) + 0.05), (luminance(colour) + 0.05) / 0.05
        assert min(on_white, on_black) >= (3.0 if place < 3 else 2.0)


def test_drawing_keeps_the_style_of_the_user():
    from matplotlib import style
    from matplotlib.colors import to_rgb

    with style.context("dark_background"):
        axes = draw_lines([line(1.0, 2.0, best=0)], **LABELS)
        (star,) = [mark for mark in axes.get_lines() if mark.get_marker() == "*"]
        assert to_rgb(axes.get_facecolor()) == (0, 0, 0)
        assert to_rgb(axes.title.get_color()) == to_rgb(star.get_markeredgecolor()) == (1, 1, 1)


@pytest.mark.parametrize("ax", [Figure(), [Figure().add_subplot()], "axes", 3])
def test_what_is_no_axes_is_refused(ax):
    with pytest.raises(ArgumentError, match="one matplotlib Axes"):
        draw_lines([line(1.0)], ax=ax, **LABELS)


def test_no_line_at_all_is_refused():
    with pytest.raises(ArgumentError, match="at least one"):
        draw_lines([], **LABELS)


def test_a_figure_of_a_script_without_pyplot_goes_with_its_last_reference():
    axes = draw_lines([line(1.0, 2.0)], **LABELS)
    png(axes)
    assert "matplotlib.pyplot" not in sys.modules
    figure = weakref.ref(axes.figure)
    del axes
    gc.collect()
    assert figure() is None


def test_a_script_that_has_pyplot_finds_the_figure_there(pyplot):
    axes = draw_lines([line(1.0, 2.0)], **LABELS)
    assert pyplot.gcf() is axes.figure
    assert pyplot.gca() is axes


def test_drawing_again_and_again_piles_no_figures_up_and_closes_none_of_the_user(pyplot):
    own = pyplot.figure()
    drawn = [draw_lines([line(1.0, 2.0)], **LABELS) for _ in range(30)]
    assert pyplot.fignum_exists(own.number)
    assert len(pyplot.get_fignums()) <= 6
    assert pyplot.gcf() is drawn[-1].figure
    assert png(drawn[0]) == png(drawn[-1])


def test_axes_that_are_given_leave_pyplot_alone(pyplot):
    figure = Figure()
    draw_lines([line(1.0, 2.0)], ax=figure.add_subplot(), **LABELS)
    assert pyplot.get_fignums() == []


def test_another_thread_leaves_pyplot_alone(pyplot):
    drawn = []
    thread = threading.Thread(target=lambda: drawn.append(new_axes()))
    thread.start()
    thread.join()
    assert isinstance(drawn[0].figure, Figure)
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(("shell", "number"), [(object(), 1), (None, 0)])
def test_a_figure_shows_in_ipython(pyplot, monkeypatch, shell, number):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot")
    monkeypatch.setattr(sys.modules["matplotlib"], "pyplot", pyplot)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    new_axes()
    assert len(pyplot.get_fignums()) == number


def test_a_figure_shows_at_the_prompt(pyplot, monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot")
    monkeypatch.setattr(sys.modules["matplotlib"], "pyplot", pyplot)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    new_axes()
    assert len(pyplot.get_fignums()) == 1


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(IgnitionError, match="pip install matplotlib"):
        draw_lines([line(1.0)], **LABELS)
