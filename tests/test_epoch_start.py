"""Checkpoints written by hand, without a seed, in the middle of an epoch: the same batches come after them."""

from __future__ import annotations

import os
import random
import warnings

import numpy as np
import pytest
import torch
from resuming import Data, differences, fingerprint
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, Sampler, WeightedRandomSampler

from ignition import TensorLoader, Trainer, crossentropy_loss, optimize
from ignition.callbacks import Checkpoint
from ignition.data import rekeyed
from ignition.epoch_start import EpochStart
from ignition.errors import IgnitionWarning


@pytest.fixture(autouse=True)
def _without_flushing(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def generator():
    return torch.Generator().manual_seed(9)


NOISY = ("torch", "numpy", "python")

LOADERS = {
    "shuffled": lambda: DataLoader(Data(), 6, shuffle=True),
    "in order": lambda: DataLoader(Data(), 6),
    "with noise": lambda: DataLoader(Data(NOISY), 6, shuffle=True),
    "with a generator": lambda: DataLoader(Data(NOISY), 6, shuffle=True, generator=generator()),
    "with a generator of the sampler": lambda: DataLoader(
        Data(), 6, sampler=RandomSampler(Data(), generator=generator())
    ),
    "with replacement": lambda: DataLoader(Data(), 6, sampler=RandomSampler(Data(), True, 80, generator())),
    "weighted": lambda: DataLoader(Data(), 6, sampler=WeightedRandomSampler([1.0] * 11 + [2.0] * 11, 22)),
    "tensors": lambda: TensorLoader(Data().x, Data().y, batch_size=6, shuffle=True),
    "tensors in order": lambda: TensorLoader(Data().x, Data().y, batch_size=6),
    "a list": lambda: list(DataLoader(Data(), 6)),
    "workers": lambda: DataLoader(Data(("torch",)), 6, shuffle=True, num_workers=1),
}


def build(loader, seed=None):
    torch.manual_seed(4)
    random.seed(4)
    np.random.seed(4)
    loader = loader()
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.2), nn.Linear(5, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

    def train_fn(model, x, y):
        loss = crossentropy_loss(model(x), y)
        optimize(loss, optimizer)
        return {"loss": loss, "noise": random.random() + np.random.rand()}

    return Trainer(model, optimizer, train_fn, loader, device="cpu", progress=False, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps"),
    [
        pytest.param(name, steps, marks=[pytest.mark.slow] if steps in (1, 6) else [])
        for name in LOADERS
        for steps in ((6,) if name == "workers" else (1, 3, 4, 6))  # one place is enough for what takes long
    ],
)
def test_the_batches_that_were_left_come_after_it(name, steps, tmp_path):
    whole = build(LOADERS[name])
    whole.fit(steps=steps)
    whole.fit(epochs=2)
    expected = fingerprint(whole)
    first = build(LOADERS[name])
    first.fit(steps=steps)
    first.save(tmp_path / "a")
    first.fit(epochs=2)
    assert not differences(first, expected)  # saving changes nothing
    again = build(LOADERS[name])
    torch.manual_seed(99)  # as a process that is started anew
    again.load(tmp_path / "a")
    again.fit(epochs=2)
    assert not differences(again, expected)


def test_a_seed_that_comes_later_leaves_the_open_epoch_as_it_is(tmp_path):
    def live(folder, between):
        trainer = build(LOADERS["shuffled"])
        trainer.fit(steps=2)
        trainer.callbacks = [Checkpoint(folder, every=1, keep=100)]
        between(trainer)
        trainer.fit(epochs=2)
        return trainer

    whole = live(tmp_path / "whole", lambda trainer: None)
    expected = fingerprint(whole)
    for checkpoint in sorted((tmp_path / "whole").glob("fit-*"))[:-1]:
        again = build(LOADERS["shuffled"])
        again.callbacks = [Checkpoint(tmp_path / checkpoint.name, every=100)]
        again.load(checkpoint)
        if again.step < whole.step:
            again.fit(steps=whole.step - again.step)
        assert not {"model", "optimizer", "generators"} & set(differences(again, expected)), checkpoint


class Drawing(Sampler):
    def __len__(self):
        return 22

    def __iter__(self):
        return (random.randrange(22) for _ in range(22))


class OwnLoader(DataLoader):
    def __iter__(self):
        yield from super().__iter__()


class Endless:
    def __iter__(self):
        while True:
            yield torch.randn(3, 4), torch.tensor([0, 1, 1])


LOST = {
    "a sampler": (lambda: DataLoader(Data(), 6, sampler=Drawing()), "without seed= a sampler or loader of your own"),
    "a loader": (lambda: OwnLoader(Data(), 6), "give the Trainer a seed, or save at an epoch's end"),
    "a stream": (Endless, "other batches come after it.*state_dict"),
}


@pytest.mark.parametrize(("workers", "is_keyed", "is_lost"), [(2, False, True), (2, True, False), (0, False, False)])
def test_an_order_that_workers_need_not_keep_may_be_lost(workers, is_keyed, is_lost):
    loader, start = DataLoader(Data(), 6, num_workers=workers, in_order=False), EpochStart()
    start.open(loader, rekeyed(loader, 0, "train") if is_keyed else loader, 1, 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start.warn_if_lost(loader)
    assert ["in_order=False may have another order after it" in str(one.message) for one in caught] == [True] * is_lost


@pytest.mark.parametrize("name", LOST)
def test_an_order_that_may_be_lost_is_told_at_both_ends(name, tmp_path):
    loader, message = LOST[name]
    trainer = build(loader)
    trainer.fit(steps=2)
    with pytest.warns(IgnitionWarning, match=rf"(?s)middle of an epoch.*{message}"):
        trainer.save(tmp_path / "a")
    again = build(loader)
    with pytest.warns(IgnitionWarning, match=rf"(?s)middle of an epoch.*{message}"):
        again.load(tmp_path / "a")


@pytest.mark.parametrize("name", ["a sampler", "a loader"])
def test_with_a_seed_or_at_an_epochs_end_nothing_is_lost(name, tmp_path):
    trainer = build(LOST[name][0], seed=3)
    trainer.fit(steps=2)
    trainer.save(tmp_path / "a")
    trainer = build(LOST[name][0])
    trainer.fit(epochs=1)
    trainer.save(tmp_path / "b")
