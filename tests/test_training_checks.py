"""Checks of the training as a whole: each fault, planted alone, fails its check and no other."""

from __future__ import annotations

import pytest
import torch
from checking import (
    CLOCK,
    LOADER,
    OVERFIT,
    RESUME,
    Net,
    clock,  # noqa: F401
    data,
    fails_alone,
    failures,
    planted,
    skipped,
    trainer_of,
)
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ignition import crossentropy_loss, fit_on_batch, sanity_checks


def planted_labels_that_are_shuffled():
    model = Net(nn.Identity())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def train_fn(model, x, y):
        return fit_on_batch(model, x, y[torch.randperm(len(y))], crossentropy_loss, optimizer)

    return trainer_of(model, train_fn, optimizer=optimizer), OVERFIT, "whether each label belongs to its input"


def planted_slow_loader():
    class Slow(TensorDataset):
        def __getitem__(self, index):
            CLOCK["seconds"] += 0.001
            return super().__getitem__(index)

    class Collected(Dataset):  # not a TensorDataset: it is not in memory
        def __init__(self):
            self.inner = Slow(*data())

        def __len__(self):
            return 60

        def __getitem__(self, index):
            return self.inner[index]

    return trainer_of(train=DataLoader(Collected(), 12)), LOADER, "num_workers=4 or more, persistent_workers=True"


def planted_hidden_state():
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    hidden = {"calls": 0}

    def train_fn(model, x, y):
        hidden["calls"] += 1
        x = x * (1 + 0.01 * (hidden["calls"] % 7))
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    return trainer_of(model, train_fn, optimizer=optimizer), RESUME, "ended differently in .*trainer.state"


def planted_state_that_loading_resets():
    class Forgets:
        calls = 0

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            self.calls = 0

    model, kept = Net(), Forgets()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def train_fn(model, x, y):
        kept.calls += 1
        return fit_on_batch(model, x * (1 + 0.05 * kept.calls), y, crossentropy_loss, optimizer)

    trainer = trainer_of(model, train_fn, optimizer=optimizer)
    trainer.state["kept"] = kept
    return trainer, RESUME, "not stopped, ended differently in .*all of it in an object's state_dict"


FAULTS = planted(globals())


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__.removeprefix("planted_"))
def test_a_fault_fails_its_check_alone_with_what_to_do(plant):
    fails_alone(plant)


@pytest.mark.parametrize("waits", [[(0.9, 0.01), (0.1, 0.01)], [(0.9, 0.01), (0.9, 0.001)], [(0.9, 0.01)] * 2])
def test_a_loader_is_slow_only_when_it_was_so_twice(waits, monkeypatch):
    """A machine that is busy with something else for a moment is no fault of the loader."""
    seen = iter(waits)
    monkeypatch.setattr("ignition.training_checks._waiting", lambda trainer, loader: next(seen))
    slow = waits[0] == waits[1]
    assert list(failures(sanity_checks(trainer_of()))) == ([LOADER] if slow else [])
    assert next(seen, None) is None


def test_a_learning_rate_too_low_to_tell_is_no_fault():
    model = Net(nn.Identity())
    report = sanity_checks(trainer_of(model, optimizer=torch.optim.SGD(model.parameters(), lr=1e-3)))
    assert "try a higher learning rate" in skipped(report)[OVERFIT]


def test_what_a_checkpoint_cannot_hold_is_told():
    trainer = trainer_of()
    trainer.state["socket"] = object()
    assert list(failures(sanity_checks(trainer))) == [RESUME]
