"""The sweep over learning rates, against numpy's and pandas' numbers, and what its curve suggests."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ignition.errors import ArgumentError
from ignition.lr_finder import LRSweep, check_sweep, steepest, sweep, valley

NAN = float("nan")


def descent(curvature=1.0, weight=1.0):
    """Gradient descent on half the curvature times the square of a weight."""

    def step(lr):
        nonlocal weight
        loss = curvature * weight**2 / 2
        weight -= lr * curvature * weight
        return loss

    return step


def listed(losses):
    """Steps that have these losses."""
    left = iter(losses)
    return lambda lr: next(left)


def test_the_learning_rates_grow_exponentially_from_the_first_to_the_last():
    asked = []
    found = sweep(lambda lr: asked.append(lr) or 1.0, start_lr=1e-5, end_lr=2.0, steps=7)
    np.testing.assert_allclose(asked, np.geomspace(1e-5, 2.0, 7))
    assert (found.lrs, found.lrs[-1], found.end) == (asked, 2.0, "all steps were taken")


@pytest.mark.parametrize("smoothing", [0, 0.5, 0.98])
def test_the_smoothed_losses_are_pandas_moving_average_with_its_bias_corrected(smoothing):
    losses = list(np.random.default_rng(0).uniform(1, 2, 30))
    found = sweep(listed(losses), start_lr=1e-3, end_lr=1, steps=30, smoothing=smoothing)
    assert found.losses == losses
    expected = pd.Series(losses).ewm(alpha=1 - smoothing, adjust=True).mean()
    np.testing.assert_allclose(found.smoothed, expected)


def test_the_losses_are_those_of_the_closed_form_on_a_quadratic():
    found = sweep(descent(curvature=2.0, weight=3.0), start_lr=1e-4, end_lr=0.5, steps=50)
    weights = 3.0 * np.cumprod([1.0, *(1 - 2.0 * np.geomspace(1e-4, 0.5, 50)[:-1])])
    np.testing.assert_allclose(found.losses, weights**2, rtol=1e-6)


@pytest.mark.parametrize("curvature", [0.1, 1.0, 100.0])
def test_both_suggestions_descend_on_a_quadratic_whose_descent_is_stable_below_two_over_its_curvature(curvature):
    found = sweep(descent(curvature), start_lr=1e-6, end_lr=1000, steps=200)
    assert found.end == "the loss diverged"
    assert found.lrs[-1] > 2 / curvature  # beyond it gradient descent grows
    for lr in found.suggestions.values():
        assert 1e-3 / curvature < lr < 2 / curvature
    assert found.suggestion == found.suggestions["valley"]


def test_the_steepest_point_is_where_numpys_gradient_over_the_logarithm_is_least():
    lrs = np.geomspace(1e-4, 1, 41)
    losses = 1 / (1 + (lrs / 0.01) ** 2)  # over log lr the steepest is at lr = 0.01
    assert steepest(lrs, losses) == pytest.approx(0.01)


def test_what_falls_after_the_lowest_loss_is_no_descent():
    lrs = list(np.geomspace(1e-3, 1, 7))
    assert steepest(lrs, [5.0, 4.0, 3.0, 1.0, 90.0, 40.0, 2.0]) == pytest.approx(lrs[2])


@pytest.mark.parametrize("method", [steepest, valley])
@pytest.mark.parametrize("losses", [[], [1.0], [1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
def test_without_a_descent_there_is_no_suggestion(method, losses):
    assert method(list(np.geomspace(1e-3, 1, len(losses))), losses) is None


def longest_falls(losses):
    """The length and the end of the longest falling subsequence, by comparing each with each."""
    lengths = []
    for index, loss in enumerate(losses):
        lengths.append(1 + max((lengths[before] for before in range(index) if losses[before] > loss), default=0))
    return max(lengths), int(np.argmax(lengths))


@given(st.lists(st.integers(0, 30), min_size=2, max_size=40))
def test_the_valley_is_the_longest_falling_subsequence(losses):
    length, end = longest_falls(losses)
    lrs = list(np.geomspace(1e-3, 1, len(losses)))
    if length == 1:
        assert valley(lrs, losses) is None
    else:
        start = max(0, end - length)
        third = (end - start) / 3
        assert valley(lrs, losses) == lrs[start + int(third) + int(third / 2)]


def test_a_loss_four_times_its_best_ends_the_sweep():
    found = sweep(listed([2.0, 1.0, 4.0, 4.1, 1.0]), start_lr=1e-3, end_lr=1, steps=5, smoothing=0)
    assert (found.losses, found.end) == ([2.0, 1.0, 4.0, 4.1], "the loss diverged")


def test_a_negative_loss_may_rise_by_three_times_its_best():
    found = sweep(listed([-1.0, -2.0, 3.0, 4.1, 1.0]), start_lr=1e-3, end_lr=1, steps=5, smoothing=0)
    assert found.losses == [-1.0, -2.0, 3.0, 4.1]


@pytest.mark.parametrize("loss", [NAN, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_the_sweep_and_is_left_out(loss):
    found = sweep(listed([2.0, 1.0, loss]), start_lr=0.01, end_lr=1, steps=5, metric="cost")
    assert found.losses == [2.0, 1.0]
    assert found.end == f"the cost became {loss} at lr 0.1"


def test_a_step_without_a_loss_ends_the_sweep():
    found = sweep(listed([2.0, None]), start_lr=0.01, end_lr=1, steps=5)
    assert (found.losses, found.end) == ([2.0], "it was stopped")


def test_the_first_tenth_counts_for_no_suggestion():
    lrs = list(np.geomspace(1e-4, 1, 20))
    falls_at_once = [90.0, 50.0, *[3.0] * 8, *np.linspace(3, 1, 10)]
    found = LRSweep(lrs, falls_at_once, falls_at_once)
    assert found.suggestions["steepest"] > lrs[8]
    assert found.suggestions["valley"] > lrs[8]


def test_it_prints_itself():
    found = sweep(descent(), start_lr=1e-4, end_lr=1000, steps=100)
    first, second, third = repr(found).splitlines()
    assert first.startswith(f"LRSweep: {len(found.lrs)} steps, lr 0.0001 to ")
    assert first.endswith("; the loss diverged")
    assert second == f"  suggestion: valley {found.suggestion:.3g}, steepest {found.suggestions['steepest']:.3g}"
    assert third.startswith("  lowest smoothed loss: ")
    assert repr(LRSweep(end="it was stopped")) == "LRSweep: no step (it was stopped)"
    assert "none, as the loss never fell" in repr(LRSweep([0.1], [1.0], [1.0]))


def test_the_plot_holds_both_curves_and_a_line_at_each_suggestion():
    found = sweep(descent(), start_lr=1e-4, end_lr=10, steps=100)
    axes = found.plot()
    raw, smoothed, *marks = axes.get_lines()
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "learning rate", "loss")
    assert (list(raw.get_xdata()), list(raw.get_ydata())) == (found.lrs, found.losses)
    assert (list(smoothed.get_xdata()), list(smoothed.get_ydata())) == (found.lrs, found.smoothed)
    assert [mark.get_xdata()[0] for mark in marks] == list(found.suggestions.values())
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["each step", "smoothed", *(f"{name}: {lr:.2g}" for name, lr in found.suggestions.items())]
    low, high = axes.get_ylim()
    assert low < min(found.losses)
    assert found.smoothed[0] < high < found.smoothed[-1] + 1  # not so high that the fall would look flat


@pytest.mark.parametrize("lrs", [[], [0.1]])
def test_a_sweep_of_next_to_nothing_can_be_drawn(lrs):
    assert LRSweep(lrs, lrs, lrs).plot().get_legend() is not None


GOOD = {"start_lr": 1e-6, "end_lr": 10, "steps": 100, "smoothing": 0.9, "metric": "loss"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("start_lr", "end_lr") for value in (0, -1.0, NAN, math.inf, "1", None, True)],
        *[("steps", value) for value in (0, 1, 2.0, True, "9", None)],
        *[("smoothing", value) for value in (-0.1, 1, NAN, "0", None)],
        *[("metric", value) for value in (None, 1)],
        ("start_lr", 10),
        ("end_lr", 1e-7),
    ],
)
def test_an_argument_that_makes_no_sweep_is_refused(name, value):
    check_sweep(**GOOD)
    with pytest.raises(ArgumentError, match=name):
        check_sweep(**(GOOD | {name: value}))
