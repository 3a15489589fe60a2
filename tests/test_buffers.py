"""Buffers that a model sets, grows or drops as it runs come back, and go."""

from __future__ import annotations

import os

import pytest
import torch
from marks import slow
from resuming import Killed, differences, fingerprint
from torch import nn

from ignition import Trainer, crossentropy_loss, optimize
from ignition.buffers import fit_buffers, is_unset
from ignition.callbacks import Callback, Checkpoint
from ignition.errors import CheckpointError


@pytest.fixture(autouse=True)
def _without_flushing(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Centred(nn.Module):
    """Takes the mean off, which it keeps from the first batch on."""

    def __init__(self, persistent=True):
        super().__init__()
        self.register_buffer("mean", None, persistent=persistent)
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        if self.mean is None:
            self.mean = x.mean(0).detach()
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        return self.linear(x - self.mean)


def build(folder, *, kill=None, persistent=True, several=False):
    torch.manual_seed(3)
    net = Centred(persistent)
    model = {"a": net, "b": nn.Linear(1, 1)} if several else net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    steps = []

    def train_fn(model, x, y):
        steps.append(1)
        if len(steps) == kill:
            raise Killed
        loss = crossentropy_loss((model["a"] if several else model)(x), y)
        optimize(loss, optimizer)
        return {"loss": loss}

    data = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(2))
    batches = [(x, (x[:, 0] > 0).long()) for x in data]
    trainer = Trainer(model, optimizer, train_fn, batches, device="cpu", progress=False)
    trainer.callbacks = [Checkpoint(folder, every=1, keep=100)]
    return trainer


@pytest.mark.parametrize("several", [slow(False), True])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_buffer_that_the_first_batch_sets_comes_back(persistent, several, tmp_path):
    options = {"persistent": persistent, "several": several}
    whole = build(tmp_path / "whole", **options)
    whole.fit(epochs=2, resume=True)
    for kill in (3, 2):
        with pytest.raises(Killed):
            build(tmp_path / "often", kill=kill, **options).fit(epochs=2, resume=True)
    again = build(tmp_path / "often", **options)
    again.fit(epochs=2, resume=True)
    net = again.model["a"] if several else again.model
    assert torch.equal(net.mean, (whole.model["a"] if several else whole.model).mean)
    assert not differences(again, fingerprint(whole))


@pytest.mark.parametrize("persistent", [False, True])
def test_a_buffer_that_was_not_set_yet_goes_again(persistent, tmp_path):
    trainer = build(tmp_path / "a", persistent=persistent)
    trainer.save(tmp_path / "start")
    trainer.fit(epochs=1)
    assert trainer.model.mean is not None
    trainer.load(tmp_path / "start")
    assert trainer.model.mean is None


def test_what_fails_later_leaves_it_unset(tmp_path):
    trainer = build(tmp_path / "a")
    trainer.callbacks.insert(0, Refusing())
    trainer.fit(epochs=1)
    again = build(tmp_path / "a")
    again.callbacks.insert(0, Refusing())
    with pytest.raises(CheckpointError, match="not today"):
        again.fit(epochs=2, resume=True)
    assert again.model.mean is None


class Refusing(Callback):
    def state_dict(self):
        return {"a": 1}

    def load_state_dict(self, state):
        raise ValueError("not today")


def test_a_buffer_that_the_model_has_not_even_as_none_is_another_models(tmp_path):
    build(tmp_path / "a").fit(epochs=1)
    other = build(tmp_path / "a")
    del other.model._buffers["mean"]
    other.model.mean = None
    with pytest.raises(CheckpointError, match="unexpected: mean"):
        other.fit(epochs=2, resume=True)


@pytest.mark.parametrize(
    ("key", "unset"),
    [("mean", True), ("linear.weight", False), ("nothing", False), ("nothing.mean", False), ("", False)],
)
def test_only_a_registered_none_is_unset(key, unset):
    assert is_unset(Centred(), key) is unset
    model = Centred()
    model(torch.randn(3, 4))
    assert not is_unset(model, key)


def test_a_value_that_is_set_is_a_copy():
    model, value = Centred(), torch.ones(4)
    fit_buffers(model, {"mean": value}, set())
    assert torch.equal(model.mean, value)
    assert model.mean is not value
    assert "mean" in model.state_dict()
    fit_buffers(model, {}, {"mean"})
    assert model.mean is None


def lazy_build(folder, kill=None, optimizer=torch.optim.Adam):
    torch.manual_seed(4)
    model = nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.Dropout(0.2), nn.LazyLinear(2))
    optimizer, steps = optimizer(model.parameters(), lr=0.02), []

    def train_fn(model, x, y):
        steps.append(1)
        if len(steps) == kill:
            raise Killed
        loss = nn.functional.cross_entropy(model(x), y)
        optimize(loss, optimizer)
        return {"loss": loss}

    generator = torch.Generator().manual_seed(1)
    batches = [(torch.randn(4, 3, generator=generator), torch.tensor([0, 1, 1, 0])) for _ in range(3)]
    trainer = Trainer(model, optimizer, train_fn, batches, device="cpu", progress=False)
    trainer.callbacks = [Checkpoint(folder, every=1, keep=100)]
    return trainer


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.Adafactor])
@pytest.mark.parametrize("kill", [slow(1), 2, slow(5)])
def test_lazy_modules_get_their_shapes_from_the_checkpoint(kill, optimizer, tmp_path):
    whole = lazy_build(tmp_path / "whole", optimizer=optimizer)
    whole.fit(epochs=2, resume=True)
    with pytest.raises(Killed):
        lazy_build(tmp_path / "a", kill, optimizer).fit(epochs=2, resume=True)
    again = lazy_build(tmp_path / "a", optimizer=optimizer)
    again.fit(epochs=2, resume=True)
    assert not differences(again, fingerprint(whole))


def test_lazy_modules_of_other_shapes_are_refused(tmp_path):
    lazy_build(tmp_path / "a").fit(epochs=1)
    other = lazy_build(tmp_path / "a")
    other.model.load_state_dict(nn.Sequential(
        nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 2)
    ).state_dict())  # fmt: skip
    with pytest.raises(CheckpointError, match=r"0.weight \(5, 3\) instead of \(5, 7\)"):
        other.fit(epochs=2, resume=True)
