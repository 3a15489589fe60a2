"""Matrices, bars, images and axes side by side, from plain numbers."""

import pytest
from matplotlib import pyplot

from ignition.errors import ArgumentError
from ignition.figures import draw_bars, draw_images, draw_matrix, draw_panels

LABELS = {"title": "T", "x_label": "x", "y_label": "y"}


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def test_a_matrix_of_zeros_can_be_drawn():
    axes = draw_matrix([[0, 0], [0, 0]], ["a", "b"], **LABELS)
    assert not len(axes.texts)
    assert axes.images[0].get_clim() == (0, 1)


def test_names_are_shown_letter_by_letter():
    axes = draw_bars(["$x^2$", "_b"], [1, 2], title="$", y_label="n")
    assert [label.get_text() for label in axes.get_xticklabels()] == [r"\$x^2\$", " _b"]
    assert axes.get_title() == r"\$"


def test_long_names_stand_sideways_below_a_matrix():
    axes = draw_matrix([[1] * 6] * 6, [f"a long name {number}" for number in range(6)], **LABELS)
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {45}
    axes = draw_matrix([[1] * 6] * 6, list("abcdef"), **LABELS)
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {0}


@pytest.mark.parametrize(("count", "columns", "rows"), [(5, 2, 3), (1, 4, 1), (4, 4, 1)])
def test_axes_stand_in_rows_of_that_many_columns(count, columns, rows):
    drawn = draw_panels([lambda ax: ax.plot([1, 2])] * count, columns=columns)
    grid = drawn[0].get_subplotspec().get_gridspec()
    assert (len(drawn), grid.nrows, grid.ncols) == (count, rows, min(count, columns))
    assert all(len(axes.get_lines()) == 1 for axes in drawn)


def test_images_have_captions_and_no_ticks():
    axes = draw_images([[[0, 1], [1, 0]]] * 2, ["a", "b$"], title="T", columns=2)
    assert [one.get_title() for one in axes] == ["a", r"b\$"]
    assert [list(one.get_xticks()) for one in axes] == [[], []]


@pytest.mark.parametrize("columns", [0, 1.5, True, None])
def test_columns_are_counted_from_one(columns):
    with pytest.raises(ArgumentError, match="columns"):
        draw_images([[[0]]], ["a"], title="T", columns=columns)
    with pytest.raises(ArgumentError, match="columns"):
        draw_panels([lambda ax: None], columns=columns)


def test_what_is_no_axes_is_refused():
    with pytest.raises(ArgumentError, match="ax is a str"):
        draw_bars(["a"], [1], title="T", y_label="n", ax="axes")
    with pytest.raises(ArgumentError, match="ax is a str"):
        draw_matrix([[1]], ["a"], **LABELS, ax="axes")
