import functools
import inspect
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from ignition.errors import ArgumentError, FunctionError, HyperparameterError
from ignition.signature import Signature, check_names

X, Y = torch.zeros(4, 3), torch.zeros(4)


def check(function, batch, hyper=None):
    """All checks that there are before the first call; then the call must work."""
    signature = Signature(function, "train_fn")
    hyper = hyper or {}
    signature.check_hyper(hyper)
    signature.check_batch("model", batch, hyper)
    items = batch if isinstance(batch, (tuple, list)) else (batch,)
    function("model", *items, **hyper)
    return signature


def labelled(model, x, y): ...


def unlabelled(model, x): ...


def with_hyper(model, x, y, lambd): ...


def with_default(model, x, y, lambd=4.0): ...


def with_keyword(model, x, y, *, lambd): ...


def with_keyword_default(model, x, y, *, lambd=4.0): ...


def with_any_keyword(model, x, y, **hyper): ...


def with_any_item(model, *batch): ...


def with_anything(*everything, **hyper): ...


def with_any_item_and_keyword(*everything, lambd): ...


def positional_only(model, x, y, /, *, lambd): ...


def hyper_first(model, lambd, x): ...


class Steps:
    """Functions that are no plain functions."""

    def bound(self, model, x, y, lambd=4.0): ...

    @classmethod
    def of_class(cls, model, x, y, lambd=4.0): ...

    @staticmethod
    def static(model, x, y, lambd=4.0): ...

    def __call__(self, model, x, y, lambd=4.0): ...


class Unreadable:
    """A callable of which Python cannot tell the parameters, as of some that are written in C."""

    @property
    def __signature__(self):
        raise ValueError("no signature found")

    def __call__(self, *arguments): ...


@functools.wraps(with_hyper)
def wrapped(*arguments, **keywords):
    return with_hyper(*arguments, **keywords)


# What fits


@pytest.mark.parametrize(
    ("function", "batch", "hyper"),
    [
        (labelled, (X, Y), {}),
        (labelled, [X, Y], {}),
        (unlabelled, X, {}),
        (unlabelled, (X,), {}),
        (unlabelled, {"x": X, "y": Y}, {}),
        (unlabelled, None, {}),
        (with_hyper, (X, Y), {"lambd": 4.0}),
        (with_default, (X, Y), {"lambd": 4.0}),
        (with_default, (X, Y), {}),
        (with_default, (X, Y, Y), {}),
        (with_keyword, (X, Y), {"lambd": 4.0}),
        (with_keyword_default, (X, Y), {"lambd": 4.0}),
        (with_keyword_default, (X, Y), {}),
        (with_any_keyword, (X, Y), {"lambd": 4.0, "beta": 1}),
        (with_any_keyword, (X, Y), {}),
        (with_any_item, (X, Y, X, Y), {}),
        (with_any_item, X, {}),
        (with_any_item, (), {}),
        (with_anything, (X, Y), {"lambd": 4.0}),
        (with_any_item_and_keyword, (X, Y), {"lambd": 4.0}),
        (positional_only, (X, Y), {"lambd": 4.0}),
        (Steps().bound, (X, Y), {"lambd": 4.0}),
        (Steps.of_class, (X, Y), {"lambd": 4.0}),
        (Steps.static, (X, Y), {"lambd": 4.0}),
        (Steps(), (X, Y), {"lambd": 4.0}),
        (wrapped, (X, Y), {"lambd": 4.0}),
        (functools.partial(with_hyper, lambd=4.0), (X, Y), {}),
        (functools.partial(with_hyper, lambd=4.0), (X, Y), {"lambd": 1.0}),
        (functools.partial(Steps().bound, lambd=4.0), (X, Y), {"lambd": 1.0}),
        (lambda model, x, y: None, (X, Y), {}),
    ],
)
def test_what_can_be_called_passes(function, batch, hyper):
    check(function, batch, hyper)


def test_a_function_that_cannot_be_read_is_called_as_it_is():
    function = Unreadable()
    with pytest.raises(ValueError, match="no signature found"):
        inspect.signature(function)
    signature = Signature(function, "train_fn")
    signature.check_hyper({"lambd": 4.0})
    signature.check_batch("model", (X, Y, Y), {"lambd": 4.0})
    assert signature.items_needed is None
    assert signature.select({"lambd": 4.0}) == {}


def test_annotations_are_not_looked_at():
    def function(model: "NotImported", x: "NotImported", lambd: "NotImported" = 3) -> "NotImported": ...  # noqa: F821

    assert str(check(function, X, {"lambd": 4.0})) == "train_fn(model, x, lambd=3)"


# What is no function


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (None, "None"),
        ([1], "a list"),
        (DataLoader([1]), "a DataLoader"),
        (nn.Linear(1, 1), "a Linear"),
        (torch.optim.SGD([torch.zeros(1)]), "a SGD"),
        (torch.optim.SGD, "the class SGD"),
        ("train", "a str"),
        (3, "an int"),
    ],
)
def test_what_is_no_function_is_an_error(value, named):
    with pytest.raises(ArgumentError) as caught:
        Signature(value, "eval_fn")
    assert str(caught.value) == (
        f"eval_fn is {named}\n"
        "  expected: a function of one batch: eval_fn(model, *batch)\n"
        "  to do: check the order: Trainer(model, optimizer, train_fn, train_loader, eval_fn, test_loader)"
    )


# Hyperparameters


@pytest.mark.parametrize("function", [labelled, with_any_item, functools.partial(labelled, "model"), Steps().bound])
def test_a_hyperparameter_that_the_function_does_not_take_is_an_error(function):
    signature = Signature(function, "train_fn")
    with pytest.raises(HyperparameterError) as caught:
        signature.check_hyper({"beta": 4.0})
    assert str(caught.value) == (
        f"the hyperparameter 'beta' is no parameter of {signature}\n"
        "  expected: a function that takes every hyperparameter by name ('beta')\n"
        "  to do: add 'beta' to the function's parameters, or take it out of trainer.hyper and the schedules"
    )


def test_a_parameter_that_cannot_be_given_by_name_takes_no_hyperparameter():
    def function(model, x, lambd, /): ...

    with pytest.raises(HyperparameterError, match="is no parameter of"):
        Signature(function, "train_fn").check_hyper({"lambd": 4.0})


@pytest.mark.parametrize("function", [labelled, with_hyper, with_any_keyword, Steps().bound])
def test_the_first_parameter_is_the_models(function):
    with pytest.raises(HyperparameterError) as caught:
        Signature(function, "train_fn").check_hyper({"model": 2})
    assert "the hyperparameter 'model' is the name of the first parameter of train_fn(model, x, y" in str(caught.value)
    assert "to do: rename the hyperparameter" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["epoch", "step", "lr", "seconds", "data_seconds", "train_loss", "val_acc", "val_", "lr_G"]
)
def test_a_column_of_history_is_no_hyperparameter(name):
    with pytest.raises(HyperparameterError) as caught:
        check_names({"lambd": 1.0, name: 2.0})
    message = str(caught.value)
    assert message.startswith(f"the hyperparameter {name!r} has the name of a column of history\n  expected: ")
    assert all(
        column in message for column in ("epoch", "step", "lr", "seconds", "data_seconds", "train_", "val_", "lr_")
    )
    assert "\n  to do: rename it" in message
    with pytest.raises(HyperparameterError, match="a column of history"):
        Signature(with_any_keyword, "train_fn").check_hyper({name: 2.0})


def test_for_the_learning_rate_the_error_names_what_sets_it():
    with pytest.raises(HyperparameterError, match=r"set_lr\(optimizer, ...\) or LinearDecay"):
        check_names({"lr": 0.1})


@pytest.mark.parametrize("name", ["epochs", "training", "value", "l", "_x", "λ", "lrs"])
def test_other_names_are_free(name):
    check_names({name: 1.0})


@pytest.mark.parametrize("name", ["", "a b", "1a", "a-b", "lambda", "None", 3, None, ("a",)])
def test_what_can_be_no_parameter_is_no_hyperparameter(name):
    with pytest.raises(HyperparameterError) as caught:
        check_names({name: 1.0})
    assert str(caught.value).startswith(f"the hyperparameter {name!r}\n  expected: a name that can be a parameter's\n")
    assert "to do: rename it" in str(caught.value)


def test_a_parameter_by_name_that_nothing_supplies_is_an_error_before_there_is_a_batch():
    with pytest.raises(FunctionError) as caught:
        Signature(with_keyword, "train_fn").check_hyper({})
    assert str(caught.value) == (
        "train_fn(model, x, y, *, lambd) needs 'lambd', which nothing supplies\n"
        "  expected: a hyperparameter or a schedule for each such parameter, or a default\n"
        "  to do: set trainer.hyper = {'lambd': ...}"
    )


@pytest.mark.parametrize(
    ("function", "batch", "hyper"),
    [
        (with_default, (X, Y, Y), {"lambd": 4.0}),
        (with_hyper, (X, Y, Y), {"lambd": 4.0}),
        (with_hyper, (X, Y), {"x": 1.0, "lambd": 4.0}),
        (hyper_first, (X,), {"lambd": 4.0}),
        (Steps().bound, (X, Y, Y), {"lambd": 4.0}),
    ],
)
def test_a_parameter_that_the_batch_fills_is_no_hyperparameter(function, batch, hyper):
    with pytest.raises(HyperparameterError) as caught:
        check(function, batch, hyper)
    assert f"the hyperparameter {next(iter(hyper))!r} is a parameter of train_fn(" in str(caught.value)
    assert f"that the batch fills with its {len(batch)} item" in str(caught.value)
    assert "to do: rename the hyperparameter, or the parameter of the function" in str(caught.value)


def test_a_keyword_may_have_the_name_of_a_positional_only_parameter():
    def function(model, x, /, **hyper): ...

    check(function, X, {"x": 1.0})


# Items


@pytest.mark.parametrize(
    ("function", "batch"),
    [
        (labelled, (X, Y, Y)),
        (unlabelled, (X, Y)),
        (with_keyword_default, (X, Y, Y)),
        (with_any_keyword, (X, Y, Y)),
        (lambda: None, (X,)),
        (lambda model: None, X),
        (lambda **hyper: None, (X,)),
        (Steps().bound, (X, Y, Y, Y)),
        (functools.partial(labelled, y=Y), (X, Y)),
    ],
)
def test_a_function_that_takes_too_few_items_is_an_error(function, batch):
    with pytest.raises(FunctionError) as caught:
        check(function, batch)
    assert "cannot take a batch of " in str(caught.value)
    assert "too many positional arguments" in str(caught.value)
    assert "expected: a function that can be called as train_fn(model, item1" in str(caught.value)
    assert "to do: change the function's parameters, or what the loader gives" in str(caught.value)


@pytest.mark.parametrize(
    ("function", "batch", "missing"),
    [
        (labelled, (X,), "y"),
        (labelled, X, "y"),
        (labelled, {"x": X, "y": Y}, "y"),
        (labelled, (), "x, y"),
        (with_hyper, (X, Y), "lambd"),
        (with_hyper, (X,), "y, lambd"),
        (Steps().bound, X, "y"),
        (functools.partial(with_hyper, lambd=4.0), X, "y"),
    ],
)
def test_a_function_that_takes_too_many_items_is_an_error(function, batch, missing):
    with pytest.raises(FunctionError) as caught:
        check(function, batch)
    assert "missing a required argument" in str(caught.value)
    assert f"to do: set trainer.hyper for {missing} if that is a hyperparameter, else change the function" in str(
        caught.value
    )


def test_the_message_shows_the_function_the_batch_and_the_hyperparameters():
    with pytest.raises(FunctionError) as caught:
        check(with_keyword, (X, {"mask": Y}, "name"), {"lambd": 4.0})
    assert str(caught.value) == (
        "train_fn(model, x, y, *, lambd) cannot take a batch of 3 items (Tensor (4, 3), dict of 'mask', str) "
        "with the hyperparameters lambd: too many positional arguments\n"
        "  expected: a function that can be called as train_fn(model, item1, item2, item3, lambd)\n"
        "  to do: change the function's parameters, or what the loader gives"
    )


def test_the_message_shows_short_defaults_only():
    def function(model, x, weights=X, kind="a" * 100, power=2, mode="mean", mask=None, *, table=np.zeros(5)): ...  # noqa: B008

    assert str(Signature(function, "eval_fn")) == (
        "eval_fn(model, x, weights=..., kind=..., power=2, mode='mean', mask=None, *, table=...)"
    )


# What each function receives


@pytest.mark.parametrize(
    ("function", "selected"),
    [
        (labelled, {}),
        (with_hyper, {"lambd": 4.0}),
        (with_keyword, {"lambd": 4.0}),
        (with_any_keyword, {"lambd": 4.0, "beta": 2.0}),
        (with_any_item, {}),
        (with_any_item_and_keyword, {"lambd": 4.0}),
        (positional_only, {"lambd": 4.0}),
        (Steps(), {"lambd": 4.0}),
    ],
)
def test_an_eval_function_receives_the_hyperparameters_that_it_names(function, selected):
    assert Signature(function, "eval_fn").select({"lambd": 4.0, "beta": 2.0}) == selected


def test_the_first_parameter_receives_no_hyperparameter():
    assert Signature(lambda lambd, x: None, "eval_fn").select({"lambd": 4.0}) == {}


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (labelled, ["x", "y"]),
        (with_keyword, ["x", "y", "lambd"]),
        (positional_only, ["lambd"]),
        (with_any_item, []),
        (with_any_item_and_keyword, ["lambd"]),
        (functools.partial(with_hyper, "model"), ["y", "lambd"]),
    ],
)
def test_a_schedule_may_move_what_the_model_does_not_fill(function, names):
    assert Signature(function, "train_fn").hyper_names == names


@pytest.mark.parametrize(
    ("function", "items"),
    [
        (lambda model: None, 0),
        (unlabelled, 1),
        (labelled, 2),
        (with_default, 2),
        (lambda model, x=None: None, 0),
        (with_keyword_default, 2),
        (positional_only, 2),
        (with_any_item, None),
        (lambda model, x, *rest: None, None),
        (Steps().bound, 2),
        (functools.partial(labelled, y=Y), 1),
        (lambda: None, 0),
    ],
)
def test_a_predict_function_receives_as_many_items_as_it_needs(function, items):
    assert Signature(function, "pred_fn").items_needed == items


@pytest.mark.parametrize(
    ("role", "call", "fix"),
    [
        (
            "eval_fn",
            "evaluate(model, eval_fn, loader)",
            "pass hyper= for lambd if that is a hyperparameter, else change",
        ),
        ("pred_fn", "predict(model, pred_fn, loader)", "give lambd a default or a value by functools.partial"),
    ],
)
def test_what_to_do_is_said_of_the_call_that_was_made(role, call, fix):
    with pytest.raises(ArgumentError, match=re.escape(f"to do: check the order: {call}")):
        Signature([X], role, call)
    with pytest.raises(FunctionError, match=re.escape(f"to do: {fix}")):
        Signature(lambda model, x, lambd: None, role, call).check_batch("model", X, {})


def test_outside_a_trainer_hyperparameters_are_passed():
    def eval_fn(model, x, *, lambd):
        pass

    with pytest.raises(FunctionError, match=re.escape("to do: pass hyper={'lambd': ...}")):
        Signature(eval_fn, "eval_fn", "evaluate(model, eval_fn, loader)").check_hyper({})
