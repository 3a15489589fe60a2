"""OptunaPruning against what Optuna's own study says of its trials."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
import torch
from tracked import build

from ignition.callbacks import OptunaPruning
from ignition.errors import ArgumentError, IgnitionError, MetricError


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def study(pruner: Any = None, **options: Any) -> optuna.Study:
    return optuna.create_study(pruner=pruner or optuna.pruners.NopPruner(), **options)


def test_each_record_is_reported_under_its_number() -> None:
    search, trainers = study(), []

    def objective(trial: optuna.Trial) -> float:
        trainers.append(build(OptunaPruning(trial, "val_loss")))
        return trainers[-1].fit(epochs=2, eval_every=3).last["val_loss"]

    search.optimize(objective, n_trials=1)
    (trial,), (trainer,) = search.trials, trainers
    assert trial.intermediate_values == dict(enumerate(trainer.history["val_loss"], start=1))
    assert len(trial.intermediate_values) == 5
    assert trial.value == trainer.history["val_loss"][-1]


def test_where_the_pruner_says_so_the_trial_ends_and_everything_stays_usable() -> None:
    search, trainers = study(optuna.pruners.ThresholdPruner(upper=0.0, n_warmup_steps=2)), []

    def objective(trial: optuna.Trial) -> float:
        trainers.append(build(OptunaPruning(trial)))
        trainers[-1].fit(epochs=5)
        raise AssertionError("it was to be pruned")

    search.optimize(objective, n_trials=2)
    assert [trial.state for trial in search.trials] == [optuna.trial.TrialState.PRUNED] * 2
    assert [[*trial.intermediate_values] for trial in search.trials] == [[1, 2], [1, 2]]

    trainer = trainers[0]
    assert isinstance(trainer.exception, optuna.TrialPruned)
    assert (trainer.step, len(trainer.history)) == (10, 2)
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
    trainer.callbacks = []
    trainer.fit(epochs=1)
    assert trainer.exception is None
    assert (trainer.step, len(trainer.history)) == (15, 3)


def test_nan_is_reported_and_what_a_record_lacks_is_not() -> None:
    search = study(optuna.pruners.ThresholdPruner(upper=100.0))

    def objective(trial: optuna.Trial) -> float:
        trainer = build(OptunaPruning(trial, "val_extra"))
        measure, extra = trainer.eval_fn, {1: {"extra": 1.0}, 2: {}, 3: {"extra": math.nan}}
        trainer.eval_fn = lambda model, x, y: measure(model, x, y) | extra[trainer.epoch]
        trainer.fit(epochs=4)
        return 0.0

    search.optimize(objective, n_trials=1)
    (trial,) = search.trials
    assert trial.state is optuna.trial.TrialState.PRUNED  # a threshold gives up what is NaN
    assert [*trial.intermediate_values] == [1, 3]
    assert math.isnan(trial.intermediate_values[3])


def test_a_metric_that_is_not_there_is_an_error_that_lists_those_that_are() -> None:
    trainer = build(OptunaPruning(study().ask(), "val_los"))
    with pytest.raises(MetricError, match="no record has 'val_los'") as caught:
        trainer.fit(epochs=2)
    assert "val_loss, val_acc" in str(caught.value)
    assert "did you mean 'val_loss'?" in str(caught.value)


def test_a_fixed_trial_is_never_pruned() -> None:
    trainer = build(OptunaPruning(optuna.trial.FixedTrial({}), "val_acc"))
    trainer.fit(epochs=2)
    assert trainer.history.epochs == 2


@pytest.mark.parametrize("trial", [None, 3, optuna.Study])
def test_what_is_no_trial_is_an_error_at_once(trial: Any) -> None:
    with pytest.raises(ArgumentError, match="the trial that Optuna gave"):
        OptunaPruning(trial)


@pytest.mark.parametrize("metric", [None, "", 3])
def test_what_is_no_metric_is_an_error_at_once(metric: Any) -> None:
    with pytest.raises(ArgumentError, match="a column of history"):
        OptunaPruning(optuna.trial.FixedTrial({}), metric)


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ignition.callbacks.tracking.find_spec", lambda name: None)
    with pytest.raises(IgnitionError, match=r"torch-ignition\[optuna\]"):
        OptunaPruning(None)
