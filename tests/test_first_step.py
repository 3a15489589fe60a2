"""Whether the right optimizers take the steps: noticed in the first step of each fit."""

from __future__ import annotations

import warnings

import pytest
import torch
from quiet import numbered, quiet
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks

from ignition.callbacks import LinearDecay, LRSchedule
from ignition.errors import IgnitionWarning, OptimizerError
from ignition.first_step import check_first_step


class Own:
    """An optimizer that is not torch's."""

    def step(self):
        pass


def sgd():
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)


def steps(*optimizers):
    def train_fn(model, x):
        for optimizer in optimizers:
            optimizer.step()

    return train_fn


ONE, OTHER = sgd(), sgd()


@pytest.mark.parametrize(
    ("stepped", "known"),
    [
        ([], None),
        ([ONE], ONE),
        ([ONE], [ONE]),
        ([ONE, OTHER], {"G": ONE, "D": OTHER}),
        ([ONE], {"G": ONE, "D": OTHER}),
        ([ONE, ONE, OTHER], (OTHER, ONE)),
        ([], Own()),
        ([ONE], Own()),
        ([ONE], [ONE, Own()]),
    ],
)
def test_the_optimizers_of_the_trainer_may_step(stepped, known):
    trainer = quiet(steps(*stepped), numbered(1, 1), optimizer=known)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.fit(epochs=1)
    assert not _global_optimizer_post_hooks


@pytest.mark.parametrize(
    ("stepped", "known", "message"),
    [
        ([OTHER], ONE, r"an optimizer that the Trainer does not have \(SGD\)"),
        ([ONE, OTHER], ONE, r"an optimizer that the Trainer does not have \(SGD\)"),
        ([OTHER], [ONE], r"an optimizer that the Trainer does not have \(SGD\)"),
        ([OTHER], None, r"an optimizer that the Trainer does not have \(SGD\)"),
        ([], ONE, r"the Trainer's optimizer \(SGD\) took no step"),
        ([], {"G": ONE, "D": OTHER}, r"the Trainer's optimizer \(SGD, SGD\) took no step"),
    ],
)
def test_a_step_by_another_optimizer_or_none_is_noticed_in_the_first_step(stepped, known, message):
    trainer = quiet(steps(*stepped), numbered(1, 1), optimizer=known)
    with pytest.warns(IgnitionWarning, match=message) as caught:
        trainer.fit(epochs=2)
    assert len(caught) == 1
    assert trainer.step == 4
    assert not _global_optimizer_post_hooks


@pytest.mark.parametrize("stepped", [[], [OTHER]])
@pytest.mark.parametrize("schedule", ["ours", "torch's"])
def test_it_is_an_error_where_a_schedule_depends_on_it(stepped, schedule):
    known = sgd()
    trainer = quiet(steps(*stepped), numbered(1, 1), optimizer=known)
    trainer.callbacks = [
        LinearDecay("lr", 0.4, 0.1, max_epochs=3)
        if schedule == "ours"
        else LRSchedule(torch.optim.lr_scheduler.ConstantLR(known, factor=0.5))
    ]
    with pytest.raises(OptimizerError, match=r"(?s)on which depends: \w+.*expected: .*to do: "):
        trainer.fit(epochs=1)
    assert len(trainer.history) == 0
    assert not _global_optimizer_post_hooks


def test_a_schedule_of_a_hyperparameter_does_not_depend_on_steps():
    trainer = quiet(lambda model, x, lambd: None, numbered(1), optimizer=Own())
    trainer.callbacks = [LinearDecay("lambd", 1, 0, max_epochs=3)]
    trainer.fit(epochs=1)
    assert trainer.history["lambd"] == [1.0]


def test_each_fit_looks_at_its_own_first_step():
    optimizers = [ONE]
    trainer = quiet(lambda model, x: optimizers[0].step(), numbered(1, 1), optimizer=ONE)
    trainer.fit(epochs=1)
    optimizers[0] = OTHER
    with pytest.warns(IgnitionWarning, match="does not have"):
        trainer.fit(epochs=1)


def test_the_error_names_all_that_depends_on_the_step_and_the_change_to_make():
    with pytest.raises(OptimizerError) as caught:
        check_first_step(ONE, [OTHER], ["Warmup(3)", "LRSchedule"])
    given, expected, fix = caught.value.args
    assert given.endswith("does not have (SGD), on which depends: Warmup(3), LRSchedule")
    assert expected == "the optimizer that train_fn steps is the one that was given to Trainer(...)"
    assert fix.startswith("make the Trainer after the optimizer, with that very object")


def test_of_those_that_stepped_only_the_strange_ones_are_named():
    adam = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
    with pytest.warns(IgnitionWarning, match=r"does not have \(Adam\); "):
        check_first_step([ONE], [ONE, adam], [])


def test_an_equal_optimizer_is_not_the_same_one():
    known, equal = sgd(), sgd()
    assert known.state_dict() == equal.state_dict()
    with pytest.raises(OptimizerError, match="does not have"):
        check_first_step({"G": known}, [equal], ["Warmup(3)"])
