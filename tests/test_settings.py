"""What a fit that never gets to its first step leaves as it was."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ignition import Trainer, freeze, optimize
from ignition.callbacks import Callback, Checkpoint, CSVLogger, LinearDecay, LRSchedule, Schedule, TerminateOnNaN
from ignition.errors import HyperparameterError
from ignition.settings import Settings, options_of, settings_of


class Own:
    """An optimizer that is not torch's, and has no groups."""

    def step(self):
        pass


def network():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Sequential(nn.ReLU(), nn.Linear(3, 1)))


def stand_in(model=None, optimizer=None, **hyper):
    return SimpleNamespace(model=network() if model is None else model, optimizer=optimizer, hyper=hyper, step=0)


def modes(model):
    return [part.training for part in model.modules()]


def groups(optimizer):
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


@pytest.mark.parametrize("structure", [lambda a, b: [a, b], lambda a, b: (a, b), lambda a, b: {"G": a, "D": b}])
def test_the_mode_of_each_submodule_comes_back(structure):
    first, second = network(), network()
    first.eval()
    second[3].eval()
    freeze(second[1])
    before = modes(first), modes(second)
    settings = Settings(stand_in(structure(first, second)))
    first.train()
    second.eval()
    settings.restore()
    assert (modes(first), modes(second)) == before


def test_the_hyperparameters_come_back_into_the_same_dict():
    trainer = stand_in(lambd=4.0, name="a", nothing=None)
    hyper = trainer.hyper
    settings = Settings(trainer)
    hyper.update(lambd=1.0, new=3)
    del hyper["name"]
    settings.restore()
    assert trainer.hyper is hyper
    assert hyper == {"lambd": 4.0, "name": "a", "nothing": None}


@pytest.mark.parametrize("structure", [lambda a, b: [a, b, Own()], lambda a, b: {"G": a, "own": Own(), "D": b}])
def test_the_values_of_every_group_of_every_optimizer_come_back(structure):
    models = [network(), network()]
    sgd = torch.optim.SGD(
        [{"params": models[0][0].parameters()}, {"params": models[0][1].parameters(), "lr": 9.0}], lr=1.0
    )
    adam = torch.optim.AdamW(models[1].parameters(), lr=0.5, betas=(0.1, 0.2))
    before = copy.deepcopy([groups(sgd), groups(adam)])
    settings = Settings(stand_in(models, structure(sgd, adam)))
    for optimizer in (sgd, adam):
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = 7.0, 7.0
    adam.param_groups[0]["betas"] = (0.7, 0.7)
    settings.restore()
    assert [groups(sgd), groups(adam)] == before


@pytest.mark.parametrize("wants_gradient", [False, True])
def test_a_learning_rate_that_is_a_tensor_comes_back_into_the_same_tensor(wants_gradient):
    model = network()
    rate = torch.tensor(0.5, requires_grad=wants_gradient)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    rate = optimizer.param_groups[0]["lr"]
    settings = Settings(stand_in(model, optimizer))
    with torch.no_grad():
        rate.fill_(7.0)
    settings.restore()
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.5


def test_the_parameters_of_the_groups_are_not_touched():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parameters = list(optimizer.param_groups[0]["params"])
    settings = Settings(stand_in(model, optimizer))
    with torch.no_grad():
        parameters[0].fill_(3)
    settings.restore()
    assert [id(one) for one in optimizer.param_groups[0]["params"]] == [id(one) for one in parameters]
    assert (parameters[0] == 3).all()


# In a fit


class Mine(Exception):
    """An error of the user."""


def training(failing, **settings):
    """A Trainer whose function raises in the calls of those numbers, and steps in the others."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1), momentum=0.9)
    calls = [0]

    def train_fn(model, x, lambd):
        calls[0] += 1
        if calls[0] in failing:
            raise Mine
        optimize(model(x).square().mean(), optimizer)

    loader = [torch.ones(3, 2)] * 6
    trainer = Trainer(model, optimizer, train_fn, loader, device="cpu", progress=False, **settings)
    trainer.hyper = {"lambd": 5.0}
    trainer.callbacks = [
        LinearDecay("lambd", 4.0, 1.0, max_epochs=4),
        Schedule("momentum", lambda step: 0.5, every="step"),
        LinearDecay("lr", 0.7, 0.1, max_epochs=4),
    ]
    return trainer


def seen(trainer):
    return (
        modes(trainer.model),
        dict(trainer.hyper),
        [
            {name: float(value) for name, value in group.items() if name in ("lr", "momentum")}
            for group in groups(trainer.optimizer)
        ],
        len(trainer.optimizer.state),
    )


@pytest.mark.parametrize(("settings", "failing"), [({}, {1}), ({"accumulate": 3}, {1}), ({"accumulate": 3}, {3})])
def test_a_fit_that_fails_before_its_first_step_leaves_everything_as_it_was(settings, failing):
    trainer = training(failing, **settings)
    trainer.model.eval()
    trainer.model[2].train()
    before = copy.deepcopy(seen(trainer))
    with pytest.raises(Mine):
        trainer.fit(epochs=1)
    assert seen(trainer) == before
    trainer.fit(epochs=1)
    assert trainer.hyper == {"lambd": 4.0}


def test_a_fit_that_fails_later_keeps_what_belongs_to_the_steps_that_it_took():
    trainer = training({2})
    with pytest.raises(Mine):
        trainer.fit(epochs=1)
    assert trainer.step == 1
    assert trainer.hyper == {"lambd": 4.0}
    assert [group["momentum"] for group in groups(trainer.optimizer)] == [0.5]


def test_what_a_later_fit_began_with_comes_back():
    trainer = training({7})
    trainer.fit(epochs=1)
    trainer.model.eval()
    trainer.hyper["lambd"] = 3.5
    before = copy.deepcopy(seen(trainer))
    with pytest.raises(Mine):
        trainer.fit(epochs=1)
    assert seen(trainer) == before
    assert (trainer.epoch, trainer.step, len(trainer.history)) == (1, 6, 1)


def test_a_scheduler_of_torch_is_as_it_was_too():
    trainer = training({1})
    schedule = torch.optim.lr_scheduler.StepLR(trainer.optimizer, step_size=1, gamma=0.5)
    trainer.callbacks = [LRSchedule(schedule, every="step")]
    before = copy.deepcopy(schedule.state_dict()), copy.deepcopy(seen(trainer))
    with pytest.raises(Mine):
        trainer.fit(epochs=1)
    assert (schedule.state_dict(), seen(trainer)) == before
    trainer.fit(steps=2)
    assert float(trainer.optimizer.param_groups[0]["lr"]) == pytest.approx(0.1 / 4)


def test_a_schedule_of_a_fit_that_never_began_counts_from_the_next_one():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def train_fn(model, x):
        optimize(model(x).mean(), optimizer)

    trainer = Trainer(model, optimizer, train_fn, [torch.ones(2, 2)], device="cpu", progress=False)
    schedule = LinearDecay("lr", start_value=0.1, end_value=0.0, max_epochs=11)
    trainer.callbacks, trainer.hyper = [schedule], {"unknown": 1}
    with pytest.raises(HyperparameterError):
        trainer.fit(epochs=1)
    trainer.callbacks, trainer.hyper = [], {}
    trainer.fit(epochs=3)
    trainer.callbacks = [schedule]
    trainer.fit(epochs=2)
    assert trainer.history["lr"][-2:] == pytest.approx([0.1, 0.09])


# In words


class Made(Callback):
    """A callback of the user's, with arguments of many kinds."""

    def __init__(self, plain, array, function, renamed, many):
        self.plain, self.array, self.function, self.many, self.other = plain, array, function, many, renamed


def test_what_a_callback_was_made_with_is_told_as_far_as_it_is_plain(tmp_path):
    trainer = training(set(), accumulate=2)
    own = Made({"a": (1, 2.5)}, torch.zeros(3), print, 4, list(range(99)))
    other = Made(frozenset("ba"), None, print, 4, ())
    trainer.callbacks = [own, TerminateOnNaN(), CSVLogger(tmp_path / "a.csv"), Checkpoint(tmp_path), other]
    options = options_of(trainer, eval_every=None)
    told = {name: text for name, text in options.items() if name.startswith(("Made", "Terminate", "CSV", "Check"))}
    many = told.pop("Made, many")
    assert many.startswith("[0, 1, 2, 3")
    assert len(many) < 100
    assert told == {
        "Made": "a callback of the script's", "Made, plain": "{'a': [1, 2.5]}",
        "Checkpoint": "a callback", "Checkpoint, best": "None", "Checkpoint, mode": "None",
        "Made 2": "a callback of the script's", "Made 2, plain": "['a', 'b']", "Made 2, array": "None",
        "Made 2, many": "[]",
    }  # fmt: skip
    assert {name: options[name] for name in ("accumulate", "clip_norm", "eval_every", "order of train_loader")} == {
        "accumulate": "2", "clip_norm": "None", "eval_every": "None", "order of train_loader": "in order"
    }  # fmt: skip


def test_what_torchs_schedulers_were_made_with_is_told_without_what_moves():
    schedulers = torch.optim.lr_scheduler
    trainer = training(set())
    sgd = trainer.optimizer
    parts = [schedulers.ConstantLR(sgd, 0.5, 3), schedulers.StepLR(sgd, 4)]
    trainer.callbacks = [
        LRSchedule(schedulers.SequentialLR(sgd, parts, [3])),
        LRSchedule(schedulers.MultiStepLR(sgd, [2, 5])),
        LRSchedule(schedulers.ReduceLROnPlateau(sgd, patience=7), monitor="val_loss"),
    ]
    told = {name: text for name, text in settings_of(trainer).items() if name.startswith("LRSchedule")}
    assert told["LRSchedule(SequentialLR), schedulers[0].factor"] == "0.5"
    assert told["LRSchedule(SequentialLR), schedulers[1].step_size"] == "4"
    assert told["LRSchedule(SequentialLR), milestones"] == "[3]"
    assert told["LRSchedule(MultiStepLR), milestones"] == "[[2, 1], [5, 1]]"
    assert told["LRSchedule(ReduceLROnPlateau), patience"] == "7"
    sgd.step()
    for callback in trainer.callbacks[:2]:
        callback.scheduler.step()
    trainer.callbacks[2].scheduler.step(3.0)
    trainer.callbacks[2].scheduler.step(4.0)
    assert {name: settings_of(trainer)[name] for name in told} == told


def test_an_address_is_no_difference():
    trainer = stand_in(own=Own(), optimizer=None)
    trainer.callbacks = []
    assert settings_of(trainer) == {"own": f"<{Own.__module__}.Own object>"}
