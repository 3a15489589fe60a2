"""A sound training for the checks, and what its report says; each fault is planted in it alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ignition import TensorLoader, Trainer, crossentropy_loss, evaluate_on_batch, fit_on_batch, sanity_checks

INPUTS, OUTPUTS, FIRST_LOSS = "inputs are in range", "outputs are in range", "the first loss is that of guessing"
CHANGE, STAY = "trainable parameters change", "frozen parameters stay"
EVALUATION, LEAK = "evaluation changes nothing", "samples do not leak into each other"
OVERFIT, APART = "a single batch can be overfitted", "training and test data are apart"
LOADER, RESUME = "the loader keeps up", "a resumed training is the same"

CLOCK = {"seconds": 0.0}  # a busy machine must not make a loader look slow


def seconds():
    """The time, in the place of that by which a loader is found slow."""
    CLOCK["seconds"] += 0.0001
    return CLOCK["seconds"]


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """For the test files that import it."""
    monkeypatch.setattr("ignition.training_checks.perf_counter", seconds)


def data(samples=60, offset=0):
    generator = torch.Generator().manual_seed(1 + offset)
    x = torch.randn(samples, 4, generator=generator)
    return x, x[:, :3].argmax(1)


class Net(nn.Module):
    """A classifier (batch, 4) -> (batch, 3), with what can go wrong in between."""

    def __init__(self, middle=None):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)
        self.middle = middle or nn.Dropout(0.1)

    def forward(self, x):
        return self.last(self.middle(torch.relu(self.norm(self.first(x)))))


def trainer_of(model=None, train_fn=None, eval_fn=evaluate_on_batch, train=None, test=None, optimizer=None, **options):
    model = model or Net()
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=0.01)

    def plain(model, x, y):
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    train = TensorLoader(*data(), batch_size=12, shuffle=True) if train is None else train
    test = TensorLoader(*data(30, offset=1), batch_size=12) if test is None else test
    test = test if eval_fn else None
    return Trainer(model, optimizer, train_fn or plain, train, eval_fn, test, progress=False, **options)


def failures(report):
    return {name: message for name, passed, message in report if not passed}


def skipped(report):
    return {one.name: one.message for one in report if one.verdict == "skipped"}


def fails_alone(plant):
    """Holds that a fault fails its check and no other one, with what to do."""
    trainer, name, message = plant()
    report = sanity_checks(trainer)
    assert list(failures(report)) == [name], report
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(failures(report)[name])


def planted(names):
    """The functions of a test file that plant a fault."""
    return [value for name, value in list(names.items()) if name.startswith("planted_")]
