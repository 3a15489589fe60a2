"""Adding to what hangs on a Trainer in place: what does not belong there is refused before it is there."""

import pytest
from torch import nn

from ignition import Trainer
from ignition.assigned import Callbacks, Hyper
from ignition.callbacks import TerminateOnNaN, TimeLimit
from ignition.errors import ArgumentError, HyperparameterError


@pytest.fixture
def trainer():
    made = Trainer(nn.Identity(), None, lambda model, x, **hyper: None, [1.0], device="cpu", progress=False)
    made.hyper = {"lambd": 4.0}
    made.callbacks = [TerminateOnNaN()]
    return made


@pytest.mark.parametrize("wrong", [{"lr": 0.1}, {"train_a": 1}, {"a b": 1}, {3: 1}])
def test_hyperparameters_that_cannot_be_are_not_added(trainer, wrong):
    with pytest.raises(HyperparameterError, match=r"(?s)the hyperparameter .*expected: .*to do: "):
        trainer.hyper |= {"fine": 1} | wrong
    assert trainer.hyper == {"lambd": 4.0}


@pytest.mark.parametrize("wrong", [3, "lambd", [("a", 1)]])
def test_what_is_no_mapping_is_not_added(trainer, wrong):
    with pytest.raises(ArgumentError, match=r"(?s)trainer\.hyper is .*expected: a dict"):
        trainer.hyper |= wrong
    assert trainer.hyper == {"lambd": 4.0}


@pytest.mark.parametrize("wrong", [print, TimeLimit, "loss"])
def test_what_is_no_callback_is_not_added_and_nothing_else_of_the_list(trainer, wrong):
    with pytest.raises(ArgumentError, match=r"(?s)trainer\.callbacks .*expected: .*to do: "):
        trainer.callbacks += [TimeLimit(1), wrong]
    assert [type(one) for one in trainer.callbacks] == [TerminateOnNaN]


def test_a_single_callback_goes_into_a_list_first(trainer):
    with pytest.raises(ArgumentError, match=r"(?s)was given TimeLimit.*put it into a list"):
        trainer.callbacks += TimeLimit(1)


def test_what_belongs_there_is_added_in_place(trainer):
    hyper, callbacks = trainer.hyper, trainer.callbacks
    trainer.hyper |= {"scale": 2}
    trainer.callbacks += [TimeLimit(60)]
    trainer.callbacks += (TimeLimit(61),)
    assert trainer.hyper == hyper == {"lambd": 4.0, "scale": 2}
    assert [type(one) for one in trainer.callbacks] == [TerminateOnNaN, TimeLimit, TimeLimit]
    assert len(callbacks) in (2, 3)
    trainer.fit(epochs=1)
    assert trainer.history.last["scale"] == 2


def test_they_are_a_dict_and_a_list():
    assert Hyper(a=1) == {"a": 1}
    assert Callbacks([]) == []
