"""A sound training passes every check, what cannot be checked is skipped, and everything is as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from checking import (
    APART,
    CHANGE,
    EVALUATION,
    FIRST_LOSS,
    INPUTS,
    LEAK,
    OVERFIT,
    STAY,
    Net,
    clock,  # noqa: F401
    data,
    failures,
    skipped,
    trainer_of,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ignition import (
    Callback,
    Trainer,
    crossentropy_loss,
    fit_on_batch,
    freeze,
    optimize,
    sanity_checks,
)
from ignition.background import Writer
from ignition.callbacks import Checkpoint, LinearDecay, Warmup
from ignition.errors import ArgumentError, BatchError
from ignition.snapshot import capture


@pytest.mark.slow
def test_a_sound_training_passes_every_check():
    model = Net()
    freeze(model.norm)
    report = sanity_checks(trainer_of(model))
    assert report.passed, report
    assert len(report) == 11
    assert not skipped(report), report


@pytest.mark.slow
@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"clip_norm": 1.0}])
def test_it_passes_with_a_data_loader_and_options_of_the_trainer(seed, options):
    loader = DataLoader(TensorDataset(*data()), 12, shuffle=True)
    test = DataLoader(TensorDataset(*data(30, offset=1)), 12)
    report = sanity_checks(trainer_of(train=loader, test=test, seed=seed, **options))
    assert report.passed, report


# What cannot be checked


def test_what_cannot_be_checked_is_skipped_with_the_reason_and_fails_nothing():
    embedding = nn.Embedding(10, 5)
    optimizer = torch.optim.Adam(embedding.parameters(), lr=0.05)

    def train_fn(model, batch):
        return fit_on_batch(model, batch["ids"], batch["labels"], crossentropy_loss, optimizer)

    batches = [{"ids": torch.arange(i, i + 5), "labels": torch.arange(5)} for i in (0, 5)]
    trainer = Trainer(embedding, optimizer, train_fn, batches, progress=False)
    report = sanity_checks(trainer)
    assert report.passed, report
    assert skipped(report) == {
        INPUTS: "skipped: no floating-point inputs in the batches",
        STAY: "skipped: nothing is frozen",
        EVALUATION: "skipped: there is no eval_fn",
        APART: "skipped: there is no test_loader",
    }
    told = {name: message for name, _, message in report}
    assert told[LEAK] == "4 outputs stay when the other sample of their batch is exchanged, 3 times"
    assert told[FIRST_LOSS].endswith("and ln(5) is 1.609")


def test_several_models_and_optimizers_and_no_loss_are_no_fault():
    models = {"G": nn.Linear(4, 4), "D": nn.Linear(4, 1)}
    optimizers = {name: torch.optim.SGD(one.parameters(), lr=0.1) for name, one in models.items()}

    def train_fn(models, x, y):
        optimize(nn.functional.softplus(-models["D"](models["G"](x))).mean(), optimizers["G"])
        optimize(nn.functional.softplus(models["D"](models["G"](x).detach())).mean(), optimizers["D"])

    trainer = trainer_of(models, train_fn, eval_fn=None, optimizer=optimizers)
    report = sanity_checks(trainer)
    assert report.passed, report
    assert skipped(report)[OVERFIT] == "skipped: several optimizers: their losses need not fall"
    assert "no gradient at the other" in dict((name, message) for name, _, message in report)[LEAK]


def test_a_model_without_gradients_is_no_fault():
    trainer = Trainer(nn.Identity(), None, lambda model, x: None, [torch.rand(3, 2)] * 9, progress=False)
    report = sanity_checks(trainer)
    assert report.passed, report


def test_schedules_that_supply_and_warm_up_are_no_fault():
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def train_fn(model, x, y, lambd):
        return fit_on_batch(model, lambd * x, y, crossentropy_loss, optimizer)

    trainer = trainer_of(model, train_fn, optimizer=optimizer)
    trainer.callbacks = [LinearDecay("lambd", 1, 0.9, 5), Warmup(5)]
    assert sanity_checks(trainer).passed


def test_a_function_that_fails_is_told_by_its_message():
    def train_fn(model, x, y):
        raise ValueError("the shapes do not fit")

    failed = failures(sanity_checks(trainer_of(train_fn=train_fn)))
    assert failed[CHANGE] == "it raised ValueError: the shapes do not fit"
    assert INPUTS not in failed


# Checks of one's own


def test_own_checks_are_functions_of_the_trainer():
    def fine(trainer):
        return True

    def says_nothing(trainer):
        pass

    def wrong(trainer):
        return False

    def explains(trainer):
        return "too wide: make it narrower"

    def both(trainer):
        return trainer.step == 0, f"at step {trainer.step}"

    def raises(trainer):
        raise RuntimeError("no")

    own = [fine, says_nothing, wrong, explains, both, raises]
    report = [tuple(one) for one in sanity_checks(trainer_of(), own)][11:]
    assert report == [
        ("fine", True, ""),
        ("says_nothing", True, ""),
        ("wrong", False, "it returned False"),
        ("explains", False, "too wide: make it narrower"),
        ("both", True, "at step 0"),
        ("raises", False, "it raised RuntimeError: no"),
    ]


def test_an_own_check_may_train_and_the_next_one_begins_afresh():
    steps = []

    def trains(trainer):
        trainer.fit(steps=3)
        steps.append(trainer.step)

    trainer = trainer_of()
    assert sanity_checks(trainer, [trains, trains]).passed
    assert steps == [3, 3]
    assert trainer.step == 0


# Everything as it was


def everything(trainer):
    content = capture(trainer.training, Writer().copy)
    state = copy.deepcopy(content.state) | {"seconds": 0}
    gradients = [None if one.grad is None else one.grad.tolist() for one in trainer.model.parameters()]
    modes = [module.training for module in trainer.model.modules()]
    return repr((state, gradients, modes, {k: t.tolist() for f in content.tensors.values() for k, t in f.items()}))


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_everything_is_as_it_was_and_nothing_was_written(error, tmp_path):
    seen = []

    class Seeing(Callback):
        def on_batch_end(self, trainer):
            seen.append(trainer.step)

    def raising(trainer):
        trainer.fit(steps=2)
        if error is not None:
            raise error

    trainer = trainer_of(train=DataLoader(TensorDataset(*data()), 12, shuffle=True))
    trainer.fit(steps=3)
    trainer.model.last.eval()
    trainer.callbacks = [Seeing(), Checkpoint(tmp_path)]
    before, callbacks, parts = everything(trainer), list(trainer.callbacks), dict(vars(trainer))
    if error is None:
        assert sanity_checks(trainer, [raising]).passed
    else:
        with pytest.raises(error):
            sanity_checks(trainer, [raising])
    assert everything(trainer) == before
    assert trainer.callbacks == callbacks
    assert all(vars(trainer)[name] is value for name, value in parts.items())
    assert trainer.epoch_open
    assert not seen
    assert not list(tmp_path.iterdir())


def test_the_training_afterwards_is_the_same_as_without_the_checks():
    def run(with_checks):
        torch.manual_seed(0)
        trainer = trainer_of(train=DataLoader(TensorDataset(*data()), 12, shuffle=True))
        trainer.fit(steps=2)
        if with_checks:
            sanity_checks(trainer)
        trainer.fit(epochs=2)
        return [one.tolist() for one in trainer.model.state_dict().values()], trainer.history["train_loss"]

    assert run(True) == run(False)


def test_fit_never_makes_them_unasked(monkeypatch):
    monkeypatch.setattr("ignition.trial.everything_restored", None)
    monkeypatch.setattr("ignition.checks.everything_restored", None)
    trainer_of().fit(epochs=1)


# What is given


@pytest.mark.parametrize("given", [3, nn.Linear(2, 2)])
def test_what_is_no_trainer_is_refused(given):
    with pytest.raises(ArgumentError, match="sanity_checks was given"):
        sanity_checks(given)


def test_own_checks_may_come_from_a_generator():
    names = [name for name, _, _ in sanity_checks(trainer_of(), (one for one in [lambda trainer: True]))]
    assert names[11:] == ["<lambda>"]


@pytest.mark.parametrize("checks", [print, [3], ["loss"], 5])
def test_checks_that_are_no_functions_are_refused(checks):
    with pytest.raises(ArgumentError, match="checks= was given"):
        sanity_checks(trainer_of(), checks)


def test_an_empty_loader_is_refused_by_its_name():
    with pytest.raises(BatchError, match="train_loader"):
        sanity_checks(trainer_of(train=[], eval_fn=None))
