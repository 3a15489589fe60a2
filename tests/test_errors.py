"""The exception tree and the one form of its messages."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from pathlib import Path

import pytest
import torch

from ignition import Trainer, errors

KINDS = {
    errors.ArgumentError: ValueError,
    errors.BatchError: ValueError,
    errors.FunctionError: TypeError,
    errors.HyperparameterError: ValueError,
    errors.MetricError: ValueError,
    errors.NotFiniteError: ArithmeticError,
    errors.CheckpointError: RuntimeError,
    errors.OptimizerError: RuntimeError,
    errors.ProcessError: RuntimeError,
}
SOURCES = sorted(Path(errors.__file__).parent.rglob("*.py"))


def test_a_message_says_what_was_given_what_was_expected_and_what_to_do():
    assert (
        str(errors.IgnitionError("4 apples", "pears", "buy some")) == "4 apples\n  expected: pears\n  to do: buy some"
    )


@pytest.mark.parametrize("arguments", [(), ("4 apples",), ("4 apples", "pears")])
def test_no_error_leaves_out_a_part_of_it(arguments):
    with pytest.raises(TypeError):
        errors.IgnitionError(*arguments)


def calls(source: str) -> list[ast.Call]:
    """The calls in a source that make one of our errors."""
    names = {"IgnitionError", *(kind.__name__ for kind in KINDS)}
    found = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [call for call in found if (getattr(call.func, "id", None) or getattr(call.func, "attr", None)) in names]


def is_whole(call: ast.Call) -> bool:
    """Whether all three parts are there, each of them a text in any case."""
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    unsure = any(isinstance(arg, ast.Starred) for arg in call.args) or any(each.arg is None for each in call.keywords)
    empty = any(isinstance(node, ast.Constant) and node.value in (None, "") for value in values for node in ends(value))
    return len(values) == 3 and not unsure and not empty


def ends(value: ast.expr) -> list[ast.expr]:
    """The expressions that can become the value, by the branches of its conditions."""
    if isinstance(value, ast.IfExp):
        return [*ends(value.body), *ends(value.orelse)]
    return [end for each in value.values for end in ends(each)] if isinstance(value, ast.BoolOp) else [value]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_error_in_the_sources_has_all_three_parts(path):
    source = path.read_text(encoding="utf-8")
    assert [f"line {call.lineno}" for call in calls(source) if not is_whole(call)] == []


def test_the_sources_are_looked_through():
    assert sum(len(calls(path.read_text(encoding="utf-8"))) for path in SOURCES) > 150


@pytest.mark.parametrize(
    ("source", "whole"),
    [
        ("raise ArgumentError('given', 'expected', 'fix')", True),
        ("raise errors.BatchError('given', expected='expected', fix='a' if x else 'b') from None", True),
        ("raise ArgumentError('given')", False),
        ("raise ArgumentError('given', expected='expected')", False),
        ("return ArgumentError('given', 'expected', None)", False),
        ("raise ArgumentError('given', 'expected', fix='')", False),
        ("raise ArgumentError('given', 'expected', fix='a' if x else None)", False),
        ("raise ArgumentError('given', 'expected', *rest)", False),
    ],
)
def test_what_is_missing_is_noticed(source, whole):
    assert [is_whole(call) for call in calls(source)] == [whole]


@pytest.mark.parametrize(("kind", "builtin"), KINDS.items(), ids=lambda kind: kind.__name__)
def test_each_error_can_be_caught_as_its_builtin_kind_and_as_ours(kind, builtin):
    with pytest.raises(builtin):
        raise kind("given", "expected", "fix")
    with pytest.raises(errors.IgnitionError):
        raise kind("given", "expected", "fix")


def test_the_tree_in_the_docstring_is_the_tree_that_there_is():
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__))
    assert drawn == {kind.__name__ for kind in errors.IgnitionError.__subclasses__()} == {k.__name__ for k in KINDS}


def test_all_names_every_exception_of_the_module():
    there = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert set(errors.__all__) == there


@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
def test_a_copy_of_an_error_has_the_same_message_and_notes(copied):
    error = errors.BatchError("given", "expected", "fix")
    error.add_note("a note")
    twin = copied(error)
    assert (type(twin), str(twin), twin.__notes__) == (errors.BatchError, str(error), ["a note"])


def test_the_warning_is_shown_by_default():
    assert issubclass(errors.IgnitionWarning, UserWarning)
    assert not issubclass(errors.IgnitionWarning, DeprecationWarning)


def test_a_warning_from_inside_a_decorated_call_is_shown_at_the_users_line(tmp_path):
    def numbers():
        yield from [torch.ones(1)] * 3

    trainer = Trainer(torch.nn.Linear(1, 1), None, lambda model, x: None, numbers(), progress=False)
    trainer.fit(steps=1)
    with pytest.warns(errors.IgnitionWarning, match="middle of an epoch") as caught:
        trainer.save(tmp_path / "a")
    assert caught[0].filename == __file__
