"""When a fit ends, evaluates and saves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ignition.errors import ArgumentError
from ignition.goal import Goal, check_goal

counts = st.none() | st.integers(1, 12)


@given(st.integers(0, 30), counts, counts, st.none() | st.integers(1, 40))
def test_what_is_due_next_is_the_first_of_the_steps_at_which_anything_is(step, eval_every, save_every, left):
    last = None if left is None else step + left
    goal = Goal(None, last, eval_every, None, save_every)
    following = range(step + 1, step + 60)
    due = [
        later
        for later in following
        if later == last or any(every is not None and later % every == 0 for every in (eval_every, save_every))
    ]
    assert goal.steps_until_due(step) == (due[0] - step if due else None)


def test_with_nothing_in_steps_nothing_is_due():
    assert Goal(3, None, None, None).steps_until_due(5) is None


def test_a_record_is_due_at_the_multiples_of_eval_every():
    goal = Goal(None, 20, 4, None, save_every=3)
    assert [step for step in range(1, 13) if goal.evaluates_at(step)] == [4, 8, 12]
    assert not any(Goal(1, None, None, None, save_every=1).evaluates_at(step) for step in range(1, 9))


def test_the_bar_of_an_epoch_says_how_many_there_are():
    assert Goal(7, None, None, None).epoch_name(3) == "epoch 3/7"
    assert Goal(None, 100, None, None).epoch_name(3) == "epoch 3"


@pytest.mark.parametrize("name", ["epochs", "steps", "eval_every", "max_eval_steps"])
@pytest.mark.parametrize("wrong", [0, -1, 1.5, "3", True])
def test_a_number_that_is_none_is_refused_by_its_name(name, wrong):
    given_ = {"epochs": 1, "steps": None, "eval_every": None, "max_eval_steps": None, name: wrong}
    with pytest.raises(ArgumentError, match=name):
        check_goal(**given_)


def test_one_of_epochs_and_steps_is_needed():
    with pytest.raises(ArgumentError, match=r"fit\(epochs=10\)"):
        check_goal(None, None, 5, None)
    check_goal(None, 1, None, None)
    check_goal(1, None, None, None)
