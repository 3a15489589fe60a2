"""What a Trainer takes, what can be read and set around its fits, and what it leaves as it was."""

from __future__ import annotations

import functools
import operator
import threading

import pytest
import torch
from quiet import first_value, nothing, quiet
from torch import nn

from ignition import Callback, History, Trainer, freeze, predict_on_batch
from ignition.callbacks import LinearDecay
from ignition.errors import ArgumentError, FunctionError, HyperparameterError, IgnitionWarning
from ignition.running import running

X = [torch.zeros(2, 3)]


class Parts(nn.Module):
    """A frozen backbone, a dropout and a head, all of which can be told their mode."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.dropout = nn.Dropout()
        self.head = nn.Linear(3, 1)

    def now(self):
        return {"backbone": self.backbone[1].training, "dropout": self.dropout.training, "head": self.head.training}


# Model and optimizer


@pytest.mark.parametrize(
    "model",
    [nn.Linear(1, 1), [nn.Identity(), nn.ReLU()], (nn.Identity(),), {"G": nn.Identity(), "D": nn.ReLU()}],
    ids=["one", "list", "tuple", "dict"],
)
def test_the_functions_receive_the_model_in_the_structure_that_was_given(model):
    seen = []

    def look(given, x):
        seen.append(given)
        return x

    trainer = quiet(lambda m, x: seen.append(m), X, lambda m, x: seen.append(m), X, model=model)
    trainer.fit(epochs=1)
    trainer.predict(look, X)
    assert trainer.model is model
    assert [type(one) for one in seen] == [type(model)] * 3
    assert str(seen) == str([model] * 3)


def test_each_of_several_models_is_trained_and_evaluated_in_its_mode():
    models, seen = {"G": nn.Dropout(), "D": nn.BatchNorm1d(3)}, []

    def look(given, x):
        seen.append([module.training for module in given.values()])

    quiet(look, X, look, X, model=models).fit(epochs=1)
    assert seen == [[True, True], [False, False]]


@pytest.mark.parametrize("optimizer", [None, [], {}, "one", "several"])
def test_the_optimizer_is_kept_as_it_was_given(optimizer):
    made = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    optimizer = {"one": made, "several": [made, made]}.get(optimizer, optimizer) if optimizer else optimizer
    assert quiet(nothing, X, optimizer=optimizer).optimizer is optimizer


class Counting:
    """A function as an object."""

    def __init__(self):
        self.calls = 0

    def __call__(self, model, x):
        self.calls += 1

    def method(self, model, x):
        self.calls += 1


@pytest.mark.parametrize("kind", ["object", "method", "partial"])
def test_whatever_can_be_called_is_a_function(kind):
    counting = Counting()
    function = {"object": counting, "method": counting.method, "partial": functools.partial(counting)}[kind]
    quiet(function, X * 3).fit(epochs=1)
    assert counting.calls == 3


def test_a_function_without_a_readable_signature_is_called_as_it_is():
    trainer = quiet(operator.methodcaller("forward", torch.ones(())), [()])
    with pytest.warns(IgnitionWarning, match="each counts 1"):
        assert trainer.fit(epochs=1)["train_loss"] == [1.0]


# What can be read and set


def test_a_new_trainer_has_done_nothing():
    trainer = quiet(nothing, X)
    assert (trainer.epoch, trainer.step, trainer.epoch_open) == (0, 0, False)
    assert (trainer.hyper, trainer.state, trainer.callbacks, trainer.batch_metrics) == ({}, {}, [], {})
    assert (trainer.stop_reason, trainer.exception, trainer.seed) == (None, None, None)
    assert isinstance(trainer.history, History)
    assert trainer.device == torch.device("cpu")


def test_fit_returns_the_history_that_goes_on():
    trainer = quiet(nothing, X)
    assert trainer.fit(epochs=1) is trainer.fit(epochs=1) is trainer.history
    assert trainer.history.epochs == 2


def test_hyper_is_a_copy_of_what_it_was_set_to():
    given = {"lambd": 1}
    trainer = quiet(lambda model, x, lambd: None, X)
    trainer.hyper = given
    trainer.hyper["lambd"] = 2
    assert given == {"lambd": 1}
    trainer.hyper = trainer.hyper
    assert trainer.hyper == {"lambd": 2}


@pytest.mark.parametrize("hyper", [None, 4.0, ["lambd"], "lambd"])
def test_hyper_takes_a_dict(hyper):
    trainer = quiet(nothing, X)
    trainer.hyper = {"lambd": 1}
    with pytest.raises(ArgumentError, match=r"(?s)trainer\.hyper is .*expected: a dict.*to do: "):
        trainer.hyper = hyper
    assert trainer.hyper == {"lambd": 1}


def test_a_callback_reads_and_writes_hyper_and_history_shows_it():
    trainer = quiet(lambda model, x, lambd: {"loss": lambd}, X)
    trainer.hyper = {"lambd": 1}

    @trainer.on("epoch_begin")
    def double(trainer):
        trainer.hyper["lambd"] *= 2

    history = trainer.fit(epochs=3)
    assert history["lambd"] == [2, 4, 8]
    assert history["train_loss"] == [2.0, 4.0, 8.0]


def test_state_is_the_users_own_and_stays_from_fit_to_fit():
    def train_fn(model, x):
        trainer.state["count"] = trainer.state.get("count", 0) + 1

    trainer = quiet(train_fn, X * 3)
    trainer.state = {"queue": torch.zeros(2)}
    trainer.fit(epochs=1)
    trainer.fit(epochs=1)
    assert trainer.state["count"] == 6
    assert torch.equal(trainer.state["queue"], torch.zeros(2))


@pytest.mark.parametrize(("half", "other"), [("eval_fn", "test_loader"), ("test_loader", "eval_fn")])
def test_an_evaluation_that_is_set_by_half_is_an_error_before_anything_is_trained(half, other):
    parts = {"eval_fn": lambda model, x: 1.0, "test_loader": X}
    trainer = quiet(nothing, X)
    setattr(trainer, half, parts[half])
    with pytest.raises(ArgumentError, match=rf"(?s)an? {half} and no {other}.*expected: both, or neither"):
        trainer.fit(epochs=1)
    assert (trainer.step, len(trainer.history)) == (0, 0)
    setattr(trainer, other, parts[other])
    assert trainer.fit(epochs=1)["val_loss"] == [1.0]


def test_a_batch_axis_that_is_set_wrong_is_an_error():
    trainer = quiet(nothing, X)
    trainer.batch_axis = "x"
    with pytest.raises(ArgumentError, match=r"(?s)batch_axis.*'x'.*expected: .*to do: "):
        trainer.fit(epochs=1)


def test_single_samples_are_no_batches():
    with pytest.raises(ArgumentError, match=r"(?s)TensorDataset.*expected: .*batches with a DataLoader"):
        quiet(nothing, torch.utils.data.TensorDataset(torch.zeros(4, 2)))


def test_an_epoch_whose_record_is_written_is_not_trained_again_when_a_callback_raises():
    class Raises(Callback):
        def on_record(self, trainer):
            if trainer.step == 4:
                raise RuntimeError("full disk")

    trainer = quiet(nothing, X * 2)
    trainer.callbacks = [Raises()]
    with pytest.raises(RuntimeError, match="full disk"):
        trainer.fit(epochs=3)
    trainer.fit(epochs=2)
    assert (trainer.history["epoch"], trainer.epoch, trainer.history.epochs) == ([1, 2, 3, 4], 4, 4)


def test_the_test_loader_can_be_exchanged_between_fits():
    trainer = quiet(nothing, X, first_value, [torch.ones(1)])
    trainer.fit(epochs=1)
    trainer.test_loader = [torch.full((1,), 2.0)]
    assert trainer.fit(epochs=1)["val_loss"] == [1.0, 2.0]


# Callbacks


class Named(Callback):
    """Notes its name at each record."""

    def __init__(self, name, seen, order=0):
        self.name, self.seen, self.order = name, seen, order

    def prepare(self, trainer):
        self.seen.append(f"prepare {self.name}")

    def on_record(self, trainer):
        self.seen.append(self.name)


def test_callbacks_run_by_their_order_and_functions_after_those_of_order_zero():
    seen = []
    trainer = quiet(nothing, X)
    trainer.on("record")(lambda trainer: seen.append("function"))
    trainer.callbacks = [Named(name, seen, order) for name, order in [("last", 9), ("a", 0), ("first", -1), ("b", 0)]]
    trainer.fit(epochs=1)
    assert [name for name in seen if "prepare" not in name] == ["first", "a", "b", "function", "last"]


def test_prepare_is_called_once_a_fit_before_anything_else():
    seen = []
    trainer = quiet(lambda model, x: seen.append("train"), X)
    trainer.callbacks = [Named("a", seen)]
    trainer.fit(epochs=2)
    assert seen == ["prepare a", "train", "a", "train", "a"]


def test_a_schedule_has_set_its_value_before_other_callbacks_look():
    seen = []
    trainer = quiet(lambda model, x, lambd: None, X)
    trainer.on("epoch_begin")(lambda trainer: seen.append(trainer.hyper["lambd"]))
    trainer.callbacks = [Callback(), LinearDecay("lambd", 4, 1, max_epochs=4)]
    trainer.fit(epochs=4)
    assert seen == [4, 3, 2, 1]


def test_a_schedule_moves_what_the_train_function_takes_by_name_alone():
    seen = []
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)

    def train_fn(*batch, momentum):
        seen.append(momentum)
        optimizer.step()

    trainer = quiet(train_fn, X, optimizer=optimizer)
    trainer.callbacks = [LinearDecay("momentum", 4, 1, max_epochs=4)]
    trainer.fit(epochs=2)
    assert seen == [4, 3]
    assert optimizer.param_groups[0]["momentum"] == 0.9


def test_functions_added_by_on_survive_an_assignment_of_callbacks():
    seen = []
    trainer = quiet(nothing, X)

    @trainer.on("record")
    def note(trainer):
        seen.append(trainer.epoch)

    trainer.callbacks = [Callback()]
    trainer.callbacks = []
    trainer.fit(epochs=1)
    trainer.fit(epochs=1)
    assert seen == [1, 2]
    note(trainer)  # the decorator gives the function back
    assert seen == [1, 2, 2]


def test_callbacks_may_be_set_anew_between_fits():
    seen = []
    trainer = quiet(nothing, X)
    trainer.callbacks = (Named("a", seen),)
    trainer.fit(epochs=1)
    trainer.callbacks.append(Named("b", seen))
    trainer.fit(epochs=1)
    trainer.callbacks = []
    trainer.fit(epochs=1)
    assert seen == ["prepare a", "a", "prepare a", "prepare b", "a", "b"]


def test_callbacks_of_the_last_fit_do_not_hear_of_an_evaluation_between_fits():
    seen = []
    trainer = quiet(nothing, X, nothing, X)
    trainer.on("eval_begin")(lambda trainer: seen.append("begin"))
    trainer.fit(epochs=1)
    trainer.evaluate()
    assert seen == ["begin"]


# Modes


def test_fit_trains_what_was_left_in_evaluation_mode_but_for_what_is_frozen():
    model, seen = Parts(), []
    freeze(model.backbone)
    model.eval()
    trainer = quiet(lambda model, x: seen.append(model.now()), X * 2, lambda m, x: seen.append(m.now()), X, model=model)
    trainer.fit(epochs=2)
    training = {"backbone": False, "dropout": True, "head": True}
    evaluating = dict.fromkeys(training, False)
    assert seen == [training, training, evaluating] * 2
    assert model.now() == training


def test_batch_norm_that_is_frozen_keeps_its_statistics():
    model = Parts()
    freeze(model.backbone)
    before = model.backbone[1].running_mean.clone()
    quiet(lambda model, x: model.head(model.backbone(x)).sum(), [torch.randn(8, 3)], model=model).fit(epochs=2)
    assert torch.equal(model.backbone[1].running_mean, before)
    assert model.backbone[1].num_batches_tracked == 0


def test_an_evaluation_inside_an_epoch_gives_each_submodule_the_mode_back_that_the_function_chose():
    model, seen = Parts(), []

    def train_fn(model, x):
        seen.append(model.now())
        model.dropout.eval()

    quiet(train_fn, X * 3, nothing, X, model=model).fit(epochs=1, eval_every=2)
    chosen = {"backbone": True, "dropout": False, "head": True}
    assert seen == [{**chosen, "dropout": True}, chosen, chosen]


@pytest.mark.parametrize("run", [lambda trainer: trainer.evaluate(), lambda trainer: trainer.predict(look, X)])
def test_evaluate_and_predict_leave_the_modes_as_they_were(run):
    model = Parts()
    model.dropout.eval()
    before = model.now()
    run(quiet(nothing, X, nothing, X, model=model))
    assert model.now() == before


def look(model, x):
    return x


# Evaluating and predicting


def test_evaluate_uses_the_test_loader_or_another():
    trainer = quiet(nothing, X, first_value, [torch.ones(1), torch.full((1,), 3.0)])
    assert trainer.evaluate() == {"loss": 2.0}
    assert trainer.evaluate(max_steps=1) == {"loss": 1.0}
    assert trainer.evaluate([torch.full((5,), 7.0)]) == {"loss": 7.0}
    assert len(trainer.history) == 0


def test_evaluate_needs_an_eval_function():
    with pytest.raises(ArgumentError, match=r"(?s)this Trainer has no eval_fn.*expected: .*to do: "):
        quiet(nothing, X).evaluate()
    with pytest.raises(ArgumentError, match="no eval_fn"):
        quiet(nothing, X).evaluate(X)


def test_evaluate_passes_the_hyperparameters_that_the_function_names():
    trainer = quiet(lambda model, x, lambd: None, X, lambda model, x, lambd: {"loss": lambd}, X)
    trainer.hyper = {"lambd": 4}
    assert trainer.evaluate() == {"loss": 4.0}


def test_a_callback_may_evaluate_on_other_data_in_a_fit():
    found = []
    trainer = quiet(nothing, X, first_value, [torch.ones(1)])
    trainer.on("epoch_end")(lambda trainer: found.append(trainer.evaluate([torch.full((1,), 2.0)])))
    assert trainer.fit(epochs=2)["val_loss"] == [1.0, 1.0]
    assert found == [{"loss": 2.0}] * 2


def test_predict_takes_a_labelled_loader():
    model = nn.Linear(3, 2)
    x = torch.randn(5, 3)
    loader = [(x[:3], torch.zeros(3)), (x[3:], torch.zeros(2))]
    found = quiet(nothing, loader, model=model).predict(predict_on_batch, loader)
    assert torch.allclose(found, model(x).detach())
    assert not found.requires_grad


# Fits inside fits


@pytest.mark.parametrize("event", ["train_begin", "batch_end", "record", "train_end"])
def test_a_fit_inside_a_fit_of_the_same_trainer_is_an_error(event):
    trainer = quiet(nothing, X)
    inside = [True]
    trainer.on(event)(lambda trainer: trainer.fit(epochs=1) if inside else None)
    with pytest.raises(ArgumentError, match=r"(?s)fit was called inside a fit.*expected: .*to do: "):
        trainer.fit(epochs=1)
    inside.clear()
    trainer.fit(epochs=1)
    assert trainer.history.epochs >= 1


def test_a_fit_inside_a_fit_of_another_trainer_is_a_fit_of_its_own():
    runs = []

    def inner_fn(model, x):
        runs.append(running.get())
        return {"loss": 1.0}

    def outer_fn(model, x):
        before = running.get()
        inner.fit(epochs=1)
        assert running.get() is before
        runs.append(before)
        return {"loss": 2.0}

    inner, outer = quiet(inner_fn, X), quiet(outer_fn, X)
    outer.fit(epochs=1)
    assert runs[0] is not runs[1]
    assert running.get() is None
    assert (inner.history["train_loss"], outer.history["train_loss"]) == ([1.0], [2.0])


def test_two_trainers_may_train_one_model_in_turns():
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainers = [quiet(lambda model, x: optimizer.step(), X, model=model, optimizer=optimizer) for _ in range(2)]
    for trainer in trainers * 2:
        trainer.fit(epochs=1)
    assert [trainer.epoch for trainer in trainers] == [2, 2]


# What is refused when a Trainer is made


@pytest.mark.parametrize(
    "setting",
    [
        {"batch_axis": "0"},
        {"seed": -1},
        {"seed": 1.5},
        {"seed": True},
        {"device": "nowhere"},
        {"precision": "fp8"},
        {"accumulate": 0},
        {"clip_norm": -1.0},
    ],
    ids=str,
)
def test_a_setting_that_makes_no_sense_is_an_error_that_names_it(setting):
    (name,) = setting
    settings = {"device": "cpu", "progress": False, **setting}
    with pytest.raises(ArgumentError, match=f"(?s){name}.*expected: "):
        Trainer(nn.Identity(), None, nothing, X, **settings)


def test_a_hyperparameter_with_the_column_of_a_learning_rate_is_an_error():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    trainer = quiet(lambda model, x, **hyper: optimizer.step(), X, optimizer={"G": optimizer})
    with pytest.raises(HyperparameterError, match=r"(?s)'lr_G'.*column of history.*expected: .*to do: "):
        trainer.hyper = {"lr_G": 1.0}


class Own:
    """An optimizer that is not torch's."""

    def step(self):
        pass


def test_a_schedule_may_move_a_hyperparameter_beside_an_optimizer_that_is_not_torchs():
    trainer = quiet(lambda model, x, **hyper: None, X, optimizer=Own())
    trainer.callbacks = [LinearDecay("lambd", 4, 1, max_epochs=2)]
    assert trainer.fit(epochs=2)["lambd"] == [4, 1]


# What callbacks and other threads may do in the middle of a fit


ROWS = torch.randn(10, 4)
PAIRS = [(ROWS[start : start + 5], torch.zeros(5, dtype=torch.long)) for start in (0, 5)]


def classifier(eval_fn=None, beside=lambda: None):
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train_fn(model, x, y, **hyper):
        beside()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return Trainer(model, optimizer, train_fn, PAIRS, eval_fn, eval_fn and PAIRS, progress=False)


@pytest.mark.parametrize("eval_fn", [lambda model, x: 1.0, lambda model, x, y, z: 1.0])
def test_an_eval_function_that_does_not_fit_is_seen_before_anything_is_trained(eval_fn):
    trainer = classifier(eval_fn)
    weights, generator = trainer.model.weight.clone(), torch.get_rng_state()
    with pytest.raises(FunctionError, match="eval_fn"):
        trainer.fit(epochs=1)
    assert (trainer.step, trainer.epoch, len(trainer.history)) == (0, 0, 0)
    assert torch.equal(trainer.model.weight, weights)
    assert torch.equal(torch.get_rng_state(), generator)
    trainer.eval_fn = lambda model, x, y: 1.0
    assert trainer.fit(epochs=1)["val_loss"] == [1.0]


@pytest.mark.parametrize(
    ("event", "steps"),
    [("train_begin", 12), ("epoch_begin", 12), ("batch_begin", 10), ("step_end", 10), ("eval_end", 10), ("record", 10)],
)
def test_a_train_loader_that_is_set_in_a_fit_is_read_from_the_next_epoch_on(event, steps):
    trainer = classifier(lambda model, x, y: 1.0)
    trainer.on(event)(lambda trainer: setattr(trainer, "train_loader", PAIRS + PAIRS))
    assert trainer.fit(epochs=3)["epoch"] == [1, 2, 3]
    assert trainer.step == steps


def test_a_hyperparameter_that_a_callback_names_like_a_column_is_an_error_and_no_row():
    trainer = classifier()
    trainer.on("epoch_begin")(lambda trainer: trainer.hyper.update(epoch=77))
    with pytest.raises(HyperparameterError, match="column of history"):
        trainer.fit(epochs=1)
    assert len(trainer.history) == 0


def test_an_optimizer_that_steps_in_a_thread_of_its_own_is_none_of_the_fits():
    other = torch.optim.Adam([nn.Parameter(torch.zeros(1))])

    def beside():
        thread = threading.Thread(target=other.step)
        thread.start()
        thread.join()

    trainer = classifier(beside=beside)
    trainer.callbacks = [LinearDecay("lr", start_value=0.1, end_value=0.01, max_epochs=3)]
    trainer.fit(epochs=1)  # without a warning, or an error for the schedule's sake


@pytest.mark.parametrize("event", ["eval_begin", "eval_end"])
def test_an_evaluation_that_a_callback_makes_in_an_evaluations_event_is_no_event_again(event):
    trainer, seen = classifier(lambda model, x, y: 1.0), []
    trainer.on(event)(lambda trainer: seen.append(trainer.evaluate(PAIRS[:1])))
    trainer.fit(epochs=2)
    assert seen == [{"loss": 1.0}, {"loss": 1.0}]


@pytest.mark.parametrize(("name", "value"), [("test_loader", None), ("test_loader", 5), ("optimizer", 3)])
def test_what_is_set_between_fits_is_checked_as_in_the_beginning(name, value):
    trainer = classifier()
    with pytest.raises(ArgumentError, match=r"(?s)expected: .*to do: "):
        setattr(trainer, name, value)
