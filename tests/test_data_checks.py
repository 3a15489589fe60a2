"""Checks of the data: each fault, planted alone, fails its check and no other, with what to do."""

from __future__ import annotations

import math

import pytest
import torch
from checking import APART, INPUTS, data, fails_alone, failures, planted, seconds, trainer_of
from torch.utils.data import DataLoader, Subset, TensorDataset

from ignition import TensorLoader, sanity_checks


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr("ignition.training_checks.perf_counter", seconds)


def planted_shared_samples():
    x, y = data()
    return (
        trainer_of(test=TensorLoader(x[50:].clone(), y[50:], batch_size=12)),
        APART,
        "10 test samples .* split the data",
    )


def planted_shared_indices():
    class Augmented(TensorDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + 1e-2 * torch.rand(4), y

    whole = Augmented(*data())
    train, test = Subset(whole, range(40)), Subset(Subset(whole, range(30, 60)), range(12))
    return trainer_of(train=DataLoader(train, 10), test=DataLoader(test, 10)), APART, "10 samples .*by their index"


FAULTS = planted(globals())


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__.removeprefix("planted_"))
def test_a_fault_fails_its_check_alone_with_what_to_do(plant):
    fails_alone(plant)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.fill_(math.nan), "NaN or infinite values in a batch of train_loader, in a tensor of shape"),
        (lambda x: x.zero_(), "all inputs of train_loader are zero"),
        (lambda x: x.mul_(1000), "scale them"),
    ],
)
def test_bad_inputs_are_named(change, message):
    x, y = data()
    change(x)
    assert message in failures(sanity_checks(trainer_of(train=TensorLoader(x, y, batch_size=12))))[INPUTS]
