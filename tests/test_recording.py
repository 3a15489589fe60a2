"""Records: when one is written, what is in it, and what stands against it."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import torch
from quiet import first_value, nothing, numbered, quiet, with_or_without_length
from torch import nn

from ignition import Callback
from ignition.errors import HyperparameterError, MetricError
from ignition.events import Events
from ignition.goal import Goal
from ignition.recording import begin_record, check_columns_can_come, write_record
from ignition.signals import EvaluationStopped


@with_or_without_length
@pytest.mark.parametrize(
    ("eval_every", "steps"),
    [
        (None, [4, 8, 12]),
        (1, list(range(1, 13))),
        (2, [2, 4, 6, 8, 10, 12]),
        (3, [3, 4, 6, 8, 9, 12]),
        (4, [4, 8, 12]),
        (5, [4, 5, 8, 10, 12]),
        (100, [4, 8, 12]),
    ],
)
def test_a_record_is_written_at_each_epochs_end_and_at_each_multiple_of_eval_every(kind, eval_every, steps):
    history = quiet(first_value, kind(numbered(1, 1, 1, 1))).fit(epochs=3, eval_every=eval_every)
    assert history["step"] == steps
    assert history["epoch"] == [(step + 3) // 4 for step in steps]
    assert history.epochs == 3


@with_or_without_length
def test_the_means_of_a_record_are_over_the_batches_since_the_record_before(kind):
    history = quiet(first_value, kind(numbered(4, 2, 1, 3, 5))).fit(epochs=2, eval_every=3)
    first, second = (4 * 1 + 2 * 2 + 1 * 3) / 7, (3 * 4 + 5 * 5) / 8
    third = 1.0
    fourth, fifth = (2 * 2 + 1 * 3 + 3 * 4) / 6, 5.0
    assert history["step"] == [3, 5, 6, 9, 10]
    assert history["train_loss"] == [first, second, third, fourth, fifth]


def test_the_means_go_on_over_the_end_of_a_fit():
    trainer = quiet(first_value, numbered(1, 1, 1))
    trainer.fit(steps=2)
    trainer.fit(steps=1)
    assert trainer.history["train_loss"] == [2.0]


def test_a_record_is_of_the_model_as_it_is_after_that_step():
    weight = nn.Linear(1, 1, bias=False)

    def train_fn(model, x):
        with torch.no_grad():
            model.weight.fill_(x[0])

    def eval_fn(model, x):
        return {"weight": model.weight.sum()}

    history = quiet(train_fn, numbered(1, 1, 1), eval_fn, numbered(1), model=weight).fit(epochs=1, eval_every=2)
    assert history["val_weight"] == [2.0, 3.0]


def test_max_eval_steps_bounds_each_evaluation_of_a_fit():
    trainer = quiet(nothing, numbered(1), first_value, numbered(1, 1, 1))
    assert trainer.fit(epochs=1, max_eval_steps=2)["val_loss"] == [1.5]
    assert trainer.evaluate() == {"loss": 2.0}


def test_learning_rates_and_hyperparameters_are_columns():
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizers = {"G": torch.optim.SGD([parameters[0]], lr=0.5), "D": torch.optim.SGD([parameters[1]], lr=0.25)}

    def train_fn(model, x, **hyper):
        for optimizer in optimizers.values():
            optimizer.step()

    trainer = quiet(train_fn, numbered(1), optimizer=optimizers)
    trainer.hyper = {
        "a": 1,
        "b": torch.tensor(0.5),
        "c": "text",
        "d": None,
        "e": np.float32(0.25),
        "f": np.int64(3),
        "g": True,
        "listed": [1, 2],
    }
    last = trainer.fit(epochs=1).last
    assert (last["lr_G"], last["lr_D"]) == (0.5, 0.25)
    assert "lr" not in last
    assert [last[name] for name in "abcdefg"] == [1, 0.5, "text", None, 0.25, 3, True]
    assert "listed" not in last


@pytest.mark.parametrize(
    ("structure", "columns"), [(lambda o: o, ["lr"]), (lambda o: [o], ["lr_0"]), (lambda o: None, [])]
)
def test_one_optimizer_has_the_column_lr_and_one_in_a_list_its_place(structure, columns):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    trainer = quiet(lambda model, x: optimizer.step(), numbered(1), optimizer=structure(optimizer))
    if structure(optimizer) is None:
        trainer = quiet(nothing, numbered(1))
    history = trainer.fit(epochs=1)
    assert [column for column in history.columns if column.startswith("lr")] == columns


class Clock:
    """A clock that stands still unless it is set forward."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        for module in ("loop", "passes", "training", "clock"):
            monkeypatch.setattr(f"ignition.{module}.perf_counter", lambda: self.now)

    def forward(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_the_seconds_of_a_record_are_those_since_the_one_before(clock):
    class Slow:
        def __iter__(self):
            for x in numbered(1, 1, 1):
                clock.forward(1)
                yield x

    trainer = quiet(lambda model, x: clock.forward(10), Slow(), lambda model, x: clock.forward(100), numbered(1))
    history = trainer.fit(epochs=2, eval_every=2)
    assert history["step"] == [2, 3, 4, 6]
    assert history["seconds"] == [122, 111, 111, 122]
    assert history["data_seconds"] == [2, 1, 1, 2]


def test_the_seconds_between_two_fits_belong_to_no_record(clock):
    trainer = quiet(lambda model, x: clock.forward(1), numbered(1, 1, 1))
    trainer.fit(steps=2)
    clock.forward(1000)
    trainer.fit(epochs=1)
    assert trainer.history["seconds"] == [3]


# One record by itself

GOAL = Goal(last_epoch=1, last_step=None, eval_every=None, max_eval_steps=None)


def due(*evaluation, epoch_ended=True, **functions):
    """A Trainer two steps into its first epoch, whose record is due: the means of 2 once and of 5 three times."""
    trainer = quiet(first_value, numbered(1, 3), *evaluation)
    training = trainer.training
    training.events = Events(trainer, (), functions.items())
    training.position.epoch, training.position.step = 1, 2
    training.means.add({"loss": 2.0}, 1)
    training.means.add({"loss": 5.0}, 3)
    begin_record(training, epoch_ended)
    return trainer


def test_a_record_that_is_begun_has_the_means_and_the_next_means_begin_anew():
    trainer = due()
    trainer.training.means.add({"loss": 7.0}, 2)
    write_record(trainer.training, GOAL)
    trainer.training.position.step = 3
    begin_record(trainer.training, epoch_ended=False)
    write_record(trainer.training, GOAL)
    assert trainer.history["train_loss"] == [(2 * 1 + 5 * 3) / 4, 7.0]


@pytest.mark.parametrize("epoch_ended", [True, False])
def test_a_record_says_whether_it_ends_an_epoch(epoch_ended):
    trainer = due(epoch_ended=epoch_ended)
    write_record(trainer.training, GOAL)
    assert (len(trainer.history), trainer.history.epochs) == (1, int(epoch_ended))


def test_a_step_has_one_record_and_what_is_not_due_is_not_written():
    told = []
    trainer = due(record=lambda trainer: told.append(trainer.step))
    write_record(trainer.training, GOAL)
    write_record(trainer.training, GOAL)
    begin_record(trainer.training, epoch_ended=True)
    write_record(trainer.training, GOAL)
    assert (len(trainer.history), told) == (1, [2])


def test_after_a_signal_nothing_is_evaluated_and_the_record_stays_due():
    evaluated = []
    trainer = due(lambda model, x: evaluated.append(len(x)), numbered(4))
    trainer.training.signal = signal.SIGTERM
    with pytest.raises(EvaluationStopped):
        write_record(trainer.training, GOAL)
    assert (evaluated, len(trainer.history)) == ([], 0)
    trainer.training.signal = None
    write_record(trainer.training, GOAL)
    assert (evaluated, trainer.history["train_loss"]) == ([4], [4.25])


class Needs(Callback):
    """A callback that reads a column."""

    def __init__(self, column):
        self.column = column

    def columns_needed(self):
        return [self.column]


def test_a_column_that_is_missing_is_found_before_history_changes_and_the_record_stays_due():
    told = []
    trainer = due(first_value, numbered(4), record=lambda trainer: told.append(trainer.step))
    trainer.callbacks = [Needs("val_los")]
    with pytest.raises(MetricError, match=r"(?s)'val_los'.*expected: one of .*val_loss.*to do: "):
        write_record(trainer.training, GOAL)
    assert (len(trainer.history), trainer.history.columns, told) == (0, (), [])
    trainer.callbacks = [Needs("val_loss")]
    write_record(trainer.training, GOAL)
    assert (trainer.history["val_loss"], told) == ([1.0], [2])


def test_a_hyperparameter_that_came_in_the_evaluation_may_not_have_the_name_of_a_column():
    trainer = due(first_value, numbered(4), eval_end=lambda trainer: trainer.hyper.update(seconds=3))
    with pytest.raises(HyperparameterError, match=r"(?s)'seconds'.*expected: .*to do: "):
        write_record(trainer.training, GOAL)
    assert len(trainer.history) == 0


@pytest.mark.parametrize("evaluates", [True, False])
@pytest.mark.parametrize("column", ["val_loss", "train_loss", "lr"])
def test_a_column_of_an_evaluation_can_come_where_there_is_one(evaluates, column):
    trainer = quiet(nothing, numbered(1), *((first_value, numbered(1)) if evaluates else ()))
    trainer.callbacks = [Needs(column)]
    if evaluates or column != "val_loss":
        check_columns_can_come(trainer)
        return
    with pytest.raises(MetricError, match=r"(?s)needs the column 'val_loss'.*evaluates nothing.*to do: .*eval_fn"):
        check_columns_can_come(trainer)


def test_a_column_that_history_has_from_before_is_enough():
    trainer = quiet(nothing, numbered(1))
    trainer.history.append({"epoch": 1, "step": 1, "val_loss": 0.5}, epoch_ended=True)
    trainer.callbacks = [Needs("val_loss")]
    check_columns_can_come(trainer)
    trainer.callbacks = [Needs("val_loss"), Needs("val_acc")]
    with pytest.raises(MetricError, match="needs the column 'val_acc'"):
        check_columns_can_come(trainer)
