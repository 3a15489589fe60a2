"""The base of all callbacks: every event there, and nothing done in any."""

import inspect

import pytest
import torch
from torch import nn

from ignition import Trainer
from ignition.callbacks import Callback, Checkpoint, LinearDecay, SaveModel
from ignition.callbacks.base import EVENTS


def test_there_is_a_method_for_each_event_that_takes_the_trainer_and_does_nothing():
    callback = Callback()
    for event in EVENTS:
        method = getattr(callback, f"on_{event}")
        assert list(inspect.signature(method).parameters) == ["trainer"]
        assert method(None) is None
    assert callback.prepare(None) is None


def test_there_is_no_event_besides():
    methods = {name.removeprefix("on_") for name in vars(Callback) if name.startswith("on_")}
    assert methods == set(EVENTS)


@pytest.mark.parametrize("event", EVENTS)
def test_each_event_is_documented(event):
    assert inspect.getdoc(getattr(Callback, f"on_{event}"))


def test_it_remembers_nothing_and_averages_nothing():
    callback = Callback()
    assert callback.state_dict() == {}
    assert callback.load_state_dict({}) is None
    assert callback.averaged() == {}
    assert not callback.needs_updates


def test_schedules_come_first_and_checkpoints_last():
    assert LinearDecay.order < Callback.order == SaveModel.order < Checkpoint.order


def test_a_callback_that_overrides_nothing_changes_nothing():
    seen = []
    trainer = Trainer(
        nn.Identity(), None, lambda model, x: seen.append(x.item()), [torch.ones(1), torch.zeros(1)], progress=False
    )
    trainer.callbacks = [Callback()]
    trainer.fit(epochs=2)
    assert seen == [1, 0, 1, 0]
