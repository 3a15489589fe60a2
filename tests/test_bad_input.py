"""Bad input: one clear error, nothing changed by it, and a fit afterwards that works."""

from __future__ import annotations

import re
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from ignition import Callback, Trainer, crossentropy_loss, evaluate, evaluate_on_batch, fit_on_batch, predict
from ignition.callbacks import Checkpoint, EarlyStopping, LinearDecay, SaveModel
from ignition.errors import ArgumentError, BatchError, FunctionError, HyperparameterError, MetricError


class Setting(SimpleNamespace):
    """A training that works: model, optimizer, train_fn, loader, eval_fn, and the trainer made of them.

    Whatever is put into `returns` is what the function of that name ("train", "eval") returns, before it trains.
    """


@pytest.fixture
def setting(tiny_model, tiny_loader):
    model = nn.Sequential(tiny_model, nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    returns = {}

    def train_fn(model, x, y, lambd=1.0):
        if "train" in returns:
            return returns["train"]
        return fit_on_batch(
            model, x, y, lambda outputs, targets: lambd * crossentropy_loss(outputs, targets), optimizer
        )

    def eval_fn(model, x, y):
        return returns["eval"] if "eval" in returns else evaluate_on_batch(model, x, y)

    loader = DataLoader(tiny_loader.dataset, batch_size=5, drop_last=True)  # batch norm takes no batch of one
    made = Setting(model=model, optimizer=optimizer, train_fn=train_fn, loader=loader, eval_fn=eval_fn, returns=returns)
    made.trainer = remake(made)
    made.trainer.hyper = {"lambd": 0.5}
    made.trainer.callbacks = [LinearDecay("lambd", 0.5, 0.1, max_epochs=9), LinearDecay("lr", 0.1, 0, max_epochs=9)]
    made.trainer.fit(epochs=1)
    model.eval()  # as a user may do between two fits
    model[0][2].train()
    return made


def remake(setting, **changed):
    """A Trainer like that of the setting, with some arguments changed."""
    arguments = {
        "model": setting.model,
        "optimizer": setting.optimizer,
        "train_fn": setting.train_fn,
        "train_loader": setting.loader,
        "eval_fn": setting.eval_fn,
        "test_loader": setting.loader,
        "device": "cpu",
        "progress": False,
    }
    return Trainer(**(arguments | changed))


def everything(setting, trainer):
    """All that an error must leave as it was, as plain values."""
    return {
        "weights": {name: tensor.tolist() for name, tensor in setting.model.state_dict().items()},
        "gradients wanted": [parameter.requires_grad for parameter in setting.model.parameters()],
        "modes": [module.training for module in setting.model.modules()],
        "groups": [{k: v for k, v in group.items() if k != "params"} for group in setting.optimizer.param_groups],
        "momenta": [entry["momentum_buffer"].tolist() for entry in setting.optimizer.state.values()],
        "hyper": dict(trainer.hyper),
        "history": trainer.history.state_dict(),
        "place": (trainer.epoch, trainer.step, trainer.epoch_open),
        "callbacks": list(trainer.callbacks),
    }


@contextmanager
def refused(setting, kind, given, trainer=None):
    """Holds that the block raises such an error in the three parts of its form, and that it changes nothing.

    Args:
        setting: What must not be changed.
        kind: The class of the error.
        given: A pattern of what the first part says.
        trainer: The one that is looked at, besides that of the setting.
    """
    watched = [setting.trainer] if trainer is None else [setting.trainer, trainer]
    before = [everything(setting, one) for one in watched]
    with pytest.raises(kind) as caught:
        yield
    parts = re.fullmatch(r"(.+?)\n  expected: (.+?)\n  to do: (.+)", str(caught.value), re.DOTALL)
    assert parts, f"not in the form of all errors: {caught.value}"
    assert re.search(given, parts[1], re.DOTALL), parts[1]
    assert [everything(setting, one) for one in watched] == before


def works(setting, trainer=None):
    """Holds that a fit trains and records."""
    trainer = setting.trainer if trainer is None else trainer
    before, records = [parameter.tolist() for parameter in setting.model.parameters()], len(trainer.history)
    history = trainer.fit(epochs=1)
    assert len(history) == records + 1
    assert history.last["train_loss"] > 0
    assert history.last["val_loss"] > 0
    assert [parameter.tolist() for parameter in setting.model.parameters()] != before


# Arguments in the wrong place

WRONG_PLACES = {
    "model and optimizer": (lambda s: Trainer(s.optimizer, s.model, s.train_fn, s.loader), "model is a SGD"),
    "no optimizer": (lambda s: Trainer(s.model, s.train_fn, s.loader, s.eval_fn, s.loader), "optimizer is a function"),
    "loader for a function": (
        lambda s: Trainer(s.model, s.optimizer, s.loader, s.train_fn),
        "train_fn is a DataLoader",
    ),
    "list for a function": (lambda s: Trainer(s.model, s.optimizer, [1], s.loader), "train_fn is a list"),
    "model for a function": (lambda s: Trainer(s.model, s.optimizer, s.model, s.loader), "train_fn is a Sequential"),
    "None for a function": (lambda s: Trainer(s.model, s.optimizer, None, s.loader), "train_fn is None"),
    "both functions first": (
        lambda s: Trainer(s.model, s.optimizer, s.train_fn, s.eval_fn, s.loader, s.loader),
        "train_loader is a function",
    ),
    "loader before eval_fn": (
        lambda s: Trainer(s.model, s.optimizer, s.train_fn, s.loader, s.loader, s.eval_fn),
        "eval_fn is a DataLoader",
    ),
    "tensor for a loader": (
        lambda s: Trainer(s.model, s.optimizer, s.train_fn, torch.ones(3)),
        "train_loader is a Tensor",
    ),
    "class for a model": (lambda s: Trainer(nn.Linear, s.optimizer, s.train_fn, s.loader), "model is the class Linear"),
    "class for an optimizer": (
        lambda s: Trainer(s.model, torch.optim.SGD, s.train_fn, s.loader),
        "optimizer is the class SGD",
    ),
    "evaluate, loader first": (lambda s: evaluate(s.model, s.loader, s.eval_fn), "eval_fn is a DataLoader"),
    "evaluate, function first": (lambda s: evaluate(s.eval_fn, s.model, s.loader), "model is a function"),
    "evaluate, hyper": (lambda s: evaluate(s.model, s.eval_fn, s.loader, hyper=3), "hyper"),
    "evaluate, max_steps": (lambda s: evaluate(s.model, s.eval_fn, s.loader, max_steps=0), "max_steps=0"),
    "predict, loader first": (lambda s: predict(s.model, s.loader, s.eval_fn), "pred_fn is a DataLoader"),
    "trainer.evaluate": (lambda s: s.trainer.evaluate(s.eval_fn), "loader is a function"),
    "trainer.predict": (lambda s: s.trainer.predict(s.loader, s.eval_fn), "pred_fn is a DataLoader"),
    "trainer.train_loader": (lambda s: setattr(s.trainer, "train_loader", s.train_fn), "train_loader is a function"),
}


@pytest.mark.parametrize(("make", "given"), WRONG_PLACES.values(), ids=list(WRONG_PLACES))
def test_an_argument_in_the_wrong_place_is_an_error_at_once(setting, make, given):
    with refused(setting, ArgumentError, f"^{given}"):
        make(setting)
    works(setting)


@pytest.mark.parametrize(
    ("changed", "given"),
    [({"test_loader": None}, "an eval_fn and no test_loader"), ({"eval_fn": None}, "a test_loader and no eval_fn")],
)
def test_an_eval_function_without_a_loader_or_the_reverse_is_an_error_at_once(setting, changed, given):
    with refused(setting, ArgumentError, given):
        remake(setting, **changed)
    works(setting, remake(setting))


# Loaders


@pytest.mark.parametrize("name", ["train_loader", "test_loader"])
@pytest.mark.parametrize("kind", ["list", "drop_last"])
def test_an_empty_loader_is_an_error_before_the_first_batch(setting, name, kind):
    empty = [] if kind == "list" else DataLoader(range(3), batch_size=4, drop_last=True)
    whole = setting.trainer.train_loader
    setattr(setting.trainer, name, empty)
    with refused(setting, BatchError, f"^{name} is empty"):
        setting.trainer.fit(epochs=1)
    setattr(setting.trainer, name, whole)
    works(setting)


def test_a_loader_that_turns_out_to_be_empty_is_an_error_before_the_first_batch(setting):
    setting.trainer.train_loader = iter([])
    with refused(setting, BatchError, "the loader for train_fn gave no batch"):
        setting.trainer.fit(epochs=1)
    setting.trainer.train_loader = setting.loader
    works(setting)


def test_a_generator_that_has_run_dry_by_the_second_epoch_is_an_error_that_keeps_the_first(setting):
    trainer = remake(setting, train_loader=(batch for batch in setting.loader))
    after_first = []
    trainer.on("epoch_end")(lambda trainer: after_first.append(everything(setting, trainer)))
    with pytest.raises(BatchError, match=r"(?s)gave no batch.*expected: .*to do: .*generator"):
        trainer.fit(epochs=2)
    now = everything(setting, trainer)
    assert [now[part] for part in ("weights", "groups", "momenta", "history")] == [
        after_first[0][part] for part in ("weights", "groups", "momenta", "history")
    ]
    assert (trainer.epoch, trainer.history.epochs) == (1, 1)
    trainer.train_loader = setting.loader
    works(setting, trainer)
    assert trainer.history["epoch"] == [1, 2]


def test_a_test_generator_that_has_run_dry_by_the_second_epoch_is_an_error_that_keeps_the_first(setting):
    trainer = remake(setting, test_loader=(batch for batch in setting.loader))
    with pytest.raises(BatchError, match=r"(?s)the loader for eval_fn gave no batch.*expected: .*to do: .*generator"):
        trainer.fit(epochs=2)
    assert trainer.history["epoch"] == [1]
    trainer.test_loader = setting.loader
    works(setting, trainer)
    assert trainer.history["epoch"] == [1, 2]


@pytest.mark.parametrize("axis", [2, -3])
def test_a_batch_axis_that_the_batch_does_not_have_is_an_error_before_the_first_batch(setting, axis):
    trainer = remake(setting, batch_axis=axis)
    with refused(setting, BatchError, rf"batch_axis={axis}.*\(5, 4\)", trainer):
        trainer.fit(epochs=1)
    with refused(setting, BatchError, rf"batch_axis={axis}.*\(5, 4\)"):
        evaluate(setting.model, setting.eval_fn, setting.loader, batch_axis=axis)
    works(setting, remake(setting, batch_axis=-2))


# What fit is asked for


@pytest.mark.parametrize(
    ("goal", "given"),
    [
        ({}, "neither epochs nor steps"),
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": -1}, "epochs=-1"),
        ({"epochs": 2.5}, r"epochs=2\.5"),
        ({"epochs": "3"}, "epochs='3'"),
        ({"steps": 0}, "steps=0"),
        ({"steps": -5}, "steps=-5"),
        ({"epochs": 1, "steps": 0}, "steps=0"),
        ({"epochs": 1, "eval_every": 0}, "eval_every=0"),
        ({"epochs": 1, "max_eval_steps": -1}, "max_eval_steps=-1"),
    ],
    ids=str,
)
def test_fit_without_a_goal_or_with_less_than_one_is_an_error_at_once(setting, goal, given):
    with refused(setting, ArgumentError, given):
        setting.trainer.fit(**goal)
    works(setting)


# Functions that do not fit the batch

MISFITS = {
    "too few": lambda model, x: None,
    "none": lambda model: None,
    "too many": lambda model, x, y, z: None,
    "no model": lambda: None,
    "a keyword that nothing supplies": lambda model, x, y, *, scale: None,
}


@pytest.mark.parametrize("function", MISFITS.values(), ids=list(MISFITS))
def test_a_train_function_that_does_not_fit_the_batch_is_an_error_before_its_first_call(setting, function):
    trainer = remake(setting, train_fn=function)
    with refused(setting, FunctionError, "train_fn", trainer):
        trainer.fit(epochs=1)
    works(setting)


@pytest.mark.parametrize("function", MISFITS.values(), ids=list(MISFITS))
def test_an_eval_function_that_does_not_fit_the_batch_is_an_error_before_its_first_call(setting, function):
    with refused(setting, FunctionError, "eval_fn"):
        evaluate(setting.model, function, setting.loader)
    trainer = remake(setting, eval_fn=function)
    with pytest.raises(FunctionError, match=r"(?s)eval_fn.*expected: .*to do: "):
        trainer.fit(epochs=1)
    assert len(trainer.history) == 0
    works(setting)


@pytest.mark.parametrize("function", [MISFITS["no model"], MISFITS["too many"]], ids=["no model", "too many"])
def test_a_predict_function_that_does_not_fit_the_batch_is_an_error_before_its_first_call(setting, function):
    with refused(setting, FunctionError, "pred_fn"):
        predict(setting.model, function, setting.loader)
    works(setting)


@pytest.mark.parametrize("items", [1, 4])
def test_a_later_batch_that_the_function_does_not_take_is_an_error_of_the_same_form(setting, items):
    x, y = next(iter(setting.loader))
    batches = [(x, y), (x, y, y, y)[:items]]
    trainer = remake(setting, train_loader=batches)
    with pytest.raises(FunctionError, match=rf"(?s)train_fn.*a batch of {items} item.*expected: .*to do: "):
        trainer.fit(epochs=1)
    assert len(trainer.history) == 0
    with refused(setting, FunctionError, f"eval_fn.*a batch of {items} item"):
        evaluate(setting.model, setting.eval_fn, batches)
    works(setting)


def test_a_type_error_in_the_users_function_is_none_of_the_batch(setting):
    def train_fn(model, x, y):
        raise TypeError("of the user")

    trainer = remake(setting, train_fn=train_fn)
    with pytest.raises(TypeError, match=r"^of the user$") as caught:
        trainer.fit(epochs=1)
    assert caught.traceback[-1].name == "train_fn"
    works(setting)


# What the functions return

NO_METRICS = {
    "a string": ("done", "str 'done'"),
    "a list": ([1.0], r"list \[1.0\]"),
    "a tensor with axes": (torch.zeros(2, 3), r"shape \(2, 3\)"),
    "a dict of a string": ({"loss": "low"}, "str 'low'.*'loss'|'loss'.*'low'"),
    "a dict of a list": ({"loss": [1.0]}, "'loss'"),
    "a dict of a tensor with axes": ({"loss": torch.zeros(4)}, r"shape \(4,\) as 'loss'"),
    "a name that is no string": ({1: 2.0}, "named 1"),
    "a negative weight": ({"loss": (1.0, -1)}, r"weight -1.0 for 'loss'"),
    "a weight of NaN": ({"loss": (1.0, float("nan"))}, "weight nan for 'loss'"),
    "an infinite weight": ({"loss": (1.0, torch.tensor(float("inf")))}, "weight inf for 'loss'"),
    "a weight that is no number": ({"loss": (1.0, "all")}, "'loss'"),
    "a weight with axes": ({"loss": (1.0, torch.ones(2))}, r"\(2,\).*'loss'"),
}


@pytest.mark.parametrize(("returned", "given"), NO_METRICS.values(), ids=list(NO_METRICS))
def test_what_is_no_metric_is_an_error_that_names_it(setting, returned, given):
    setting.returns["train"] = returned
    with refused(setting, MetricError, f"train_fn.*({given})"):
        setting.trainer.fit(epochs=1)
    setting.returns.clear()
    works(setting)


@pytest.mark.parametrize(("returned", "given"), NO_METRICS.values(), ids=list(NO_METRICS))
def test_what_is_no_metric_is_an_error_in_an_evaluation_too(setting, returned, given):
    setting.returns["eval"] = returned
    with refused(setting, MetricError, f"eval_fn.*({given})"):
        evaluate(setting.model, setting.eval_fn, setting.loader)
    history = setting.trainer.history.state_dict()
    with pytest.raises(MetricError, match=r"(?s)eval_fn.*expected: .*to do: "):
        setting.trainer.fit(epochs=1)
    assert setting.trainer.history.state_dict() == history
    setting.returns.clear()
    works(setting)


# Hyperparameters


@pytest.mark.parametrize("name", ["epoch", "step", "lr", "seconds", "data_seconds", "train_loss", "val_acc"])
def test_a_hyperparameter_named_like_a_column_of_history_is_an_error_at_once(setting, name):
    with refused(setting, HyperparameterError, f"'{name}'"):
        setting.trainer.hyper = {"lambd": 1.0, name: 1.0}
    works(setting)


@pytest.mark.parametrize("name", ["epoch", "step", "train_loss"])
def test_a_hyperparameter_named_like_a_column_is_found_before_the_first_batch_however_it_came(setting, name):
    setting.trainer.hyper[name] = 1.0
    with refused(setting, HyperparameterError, f"'{name}'"):
        setting.trainer.fit(epochs=1)
    del setting.trainer.hyper[name]
    setting.trainer.callbacks.append(LinearDecay(name, 1, 0, max_epochs=2))
    with refused(setting, HyperparameterError, f"'{name}'"):
        setting.trainer.fit(epochs=1)
    setting.trainer.callbacks.pop()
    works(setting)


@pytest.mark.parametrize("name", ["model", "x", "y"])
def test_a_hyperparameter_named_like_a_parameter_that_is_filled_is_an_error_before_the_first_batch(setting, name):
    setting.trainer.hyper[name] = 1.0
    with refused(setting, HyperparameterError, f"'{name}'"):
        setting.trainer.fit(epochs=1)
    del setting.trainer.hyper[name]
    works(setting)


def test_a_hyperparameter_that_the_train_function_does_not_take_is_an_error_before_the_first_batch(setting):
    setting.trainer.hyper["lambda_"] = 1.0
    with refused(setting, HyperparameterError, "'lambda_' is no parameter of train_fn"):
        setting.trainer.fit(epochs=1)
    del setting.trainer.hyper["lambda_"]
    works(setting)


# Callbacks and events


@pytest.mark.parametrize(
    ("callbacks", "given"),
    [
        ([print], "builtin_function_or_method"),
        ([SaveModel], "SaveModel, a class"),
        ([Callback(), None], "NoneType"),
        (Callback(), "Callback"),
        ("SaveModel", "str"),
        (None, "NoneType"),
    ],
    ids=["a function", "a class", "None among them", "no list", "a name", "None"],
)
def test_what_is_no_list_of_callbacks_is_an_error_at_once(setting, callbacks, given):
    with refused(setting, ArgumentError, given):
        setting.trainer.callbacks = callbacks
    works(setting)


def test_what_was_put_among_the_callbacks_is_checked_before_the_first_batch(setting):
    setting.trainer.callbacks.append(print)
    with refused(setting, ArgumentError, "trainer.callbacks holds builtin_function_or_method"):
        setting.trainer.fit(epochs=1)
    setting.trainer.callbacks.pop()
    works(setting)


@pytest.mark.parametrize("event", ["epoch_ended", "on_epoch_end", "", None])
def test_an_unknown_event_is_an_error_at_once(setting, event):
    with refused(setting, ArgumentError, f"no event {event!r}"):
        setting.trainer.on(event)
    works(setting)


def test_what_is_put_on_an_event_must_be_a_function(setting):
    with refused(setting, ArgumentError, "int"):
        setting.trainer.on("epoch_end")(3)
    works(setting)


def test_a_file_name_with_an_unknown_placeholder_is_an_error_that_lists_what_there_is(setting, tmp_path):
    good = list(setting.trainer.callbacks)
    setting.trainer.callbacks = [SaveModel(tmp_path / "{epoch}-{val_lost}.pt")]
    with pytest.raises((ArgumentError, MetricError), match=r"(?s)val_lost.*expected: .*val_loss.*to do: "):
        setting.trainer.fit(epochs=1)
    assert list(tmp_path.iterdir()) == []
    setting.trainer.callbacks = good
    works(setting)


NEEDS = {
    "a placeholder": lambda folder, name: SaveModel(folder / f"{{{name}}}.pt", every=3),
    "the best to write": lambda folder, name: SaveModel(folder / "a.pt", best=name, mode="max"),
    "the best to keep": lambda folder, name: Checkpoint(folder, best=name, mode="max"),
    "what to stop for": lambda folder, name: EarlyStopping(name, patience=3, mode="max"),
}


@pytest.mark.parametrize("needs", NEEDS.values(), ids=list(NEEDS))
def test_a_column_that_no_record_has_is_an_error_before_the_first_record_is_written(setting, tmp_path, needs):
    trainer = remake(setting)
    trainer.callbacks = [needs(tmp_path, "train_lost")]
    with pytest.raises(MetricError, match=r"(?s)'train_lost'.*expected: one of .*train_loss.*to do: ") as caught:
        trainer.fit(epochs=5)
    assert caught.value.__notes__ == [f"{trainer.callbacks[0]!r} needs it"]
    assert (len(trainer.history), trainer.history.columns) == (0, ())
    assert [path for path in tmp_path.rglob("*.pt") if path.is_file()] == []
    trainer.callbacks = []
    works(setting, trainer)


@pytest.mark.parametrize("needs", NEEDS.values(), ids=list(NEEDS))
def test_a_column_of_an_evaluation_that_nobody_asked_for_is_an_error_before_the_first_batch(setting, tmp_path, needs):
    trainer = remake(setting, eval_fn=None, test_loader=None)
    trainer.callbacks = [needs(tmp_path, "val_acc")]
    with refused(setting, MetricError, "needs the column 'val_acc'", trainer):
        trainer.fit(epochs=5)
    works(setting)


# Exceptions of the user's own


class Mine(Exception):
    """An error of the user."""


@pytest.mark.parametrize("role", ["train_fn", "eval_fn"])
def test_an_exception_in_the_users_function_comes_out_unchanged_with_its_last_frame_there(setting, role):
    error = Mine("broken")

    def users_function(model, x, y):
        raise error

    trainer = remake(setting, **{role: users_function})
    with pytest.raises(Mine) as caught:
        trainer.fit(epochs=1)
    assert caught.value is error
    assert caught.traceback[-1].name == "users_function"
    assert (error.__cause__, error.__context__, getattr(error, "__notes__", [])) == (None, None, [])
    assert len(trainer.history) == 0
    works(setting)


def test_an_exception_before_the_first_step_is_over_leaves_everything_as_it_was(setting):
    def users_function(model, x, y):
        model.train()
        setting.optimizer.param_groups[0]["lr"] = 7
        raise Mine

    trainer = remake(setting, train_fn=users_function)
    before = everything(setting, trainer)
    with pytest.raises(Mine):
        trainer.fit(epochs=1)
    assert everything(setting, trainer) == before
    works(setting)


def test_a_learning_rate_that_is_a_tensor_is_put_back_too(setting):
    optimizer = torch.optim.Adam(setting.model.parameters(), lr=torch.tensor(0.5), foreach=False)
    trainer = remake(setting, optimizer=optimizer, train_fn=lambda model, x: None)
    trainer.callbacks = [LinearDecay("lr", 0.25, 0, max_epochs=2)]
    with pytest.raises(FunctionError):
        trainer.fit(epochs=1)
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("run", [evaluate, predict])
def test_an_exception_in_evaluate_or_predict_leaves_the_modes_as_they_were(setting, run):
    def users_function(model, x, y):
        raise Mine

    before = everything(setting, setting.trainer)
    with pytest.raises(Mine) as caught:
        run(setting.model, users_function, setting.loader)
    assert caught.traceback[-1].name == "users_function"
    assert everything(setting, setting.trainer) == before
    works(setting)
