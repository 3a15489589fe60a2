"""The exception tree and the one form of its messages."""

from __future__ import annotations

import copy
import re

import pytest

from ignition import errors

KINDS = {
    errors.ArgumentError: ValueError,
    errors.BatchError: ValueError,
    errors.FunctionError: TypeError,
    errors.HyperparameterError: ValueError,
    errors.MetricError: ValueError,
    errors.NotFiniteError: ArithmeticError,
    errors.CheckpointError: RuntimeError,
    errors.OptimizerError: RuntimeError,
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("4 apples",), "4 apples"),
        (("4 apples", "pears"), "4 apples\n  expected: pears"),
        (("4 apples", "pears", "buy some"), "4 apples\n  expected: pears\n  to do: buy some"),
        (("4 apples", None, "buy pears"), "4 apples\n  to do: buy pears"),
    ],
)
def test_a_message_says_what_was_given_what_was_expected_and_what_to_do(arguments, message):
    assert str(errors.IgnitionError(*arguments)) == message


@pytest.mark.parametrize(("kind", "builtin"), KINDS.items(), ids=lambda kind: kind.__name__)
def test_each_error_can_be_caught_as_its_builtin_kind_and_as_ours(kind, builtin):
    with pytest.raises(builtin):
        raise kind("given", "expected", "fix")
    with pytest.raises(errors.IgnitionError):
        raise kind("given")


def test_the_tree_in_the_docstring_is_the_tree_that_there_is():
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__))
    assert drawn == {kind.__name__ for kind in errors.IgnitionError.__subclasses__()} == {k.__name__ for k in KINDS}


def test_all_names_every_exception_of_the_module():
    there = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert set(errors.__all__) == there


def test_a_copy_of_an_error_has_the_same_message():
    error = errors.BatchError("given", "expected", "fix")
    assert str(copy.copy(error)) == str(error)


def test_the_warning_is_shown_by_default():
    assert issubclass(errors.IgnitionWarning, UserWarning)
    assert not issubclass(errors.IgnitionWarning, DeprecationWarning)
