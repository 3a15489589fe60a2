"""Lazy modules get their shapes from a checkpoint, and go on as if a batch had given them these."""

from __future__ import annotations

import os

import pytest
import torch
from resuming import Killed, differences, fingerprint
from torch import nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from ignition import Trainer, crossentropy_loss, optimize
from ignition.callbacks import Callback, Checkpoint
from ignition.errors import CheckpointError
from ignition.lazy_modules import set_sizes


@pytest.fixture(autouse=True)
def _without_flushing(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Scaled(nn.modules.lazy.LazyModuleMixin, nn.Module):
    """A lazy module of the user's, with a buffer that its state dict leaves out."""

    def __init__(self):
        super().__init__()
        self.weight = nn.UninitializedParameter()
        self.register_buffer("seen", UninitializedBuffer(persistent=False), persistent=False)

    def initialize_parameters(self, x):
        if self.has_uninitialized_params():
            self.weight.materialize(x.shape[1:])
            nn.init.normal_(self.weight)
            self.seen.materialize(x.shape[1:])
            nn.init.zeros_(self.seen)

    def forward(self, x):
        self.seen += x.detach().mean(0)
        return x * self.weight + 0.1 * self.seen


def dense():
    return nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.Dropout(0.2), nn.ReLU(), nn.LazyLinear(2))


def convolution():
    return nn.Sequential(
        nn.Unflatten(1, (2, 2, 1)), nn.LazyConv2d(4, 1, groups=2), nn.LazyInstanceNorm2d(affine=True), nn.Dropout(0.2),
        nn.LazyConvTranspose2d(3, 1), nn.Flatten(), nn.LazyLinear(2),
    )  # fmt: skip


def own():
    return nn.Sequential(Scaled(), nn.Dropout(0.2), nn.LazyLinear(2))


OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.02),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adafactor": lambda parameters: torch.optim.Adafactor(parameters, lr=0.02),
    "lbfgs": lambda parameters: torch.optim.LBFGS(parameters, lr=0.5, max_iter=3, history_size=4),
}


def build(folder, make=dense, *, kill=None, optimizer="adam", callbacks=(), gathers=False):
    torch.manual_seed(3)
    model = make()
    one = OPTIMIZERS[optimizer](model.parameters())
    steps = []

    def train_fn(model, x, y):
        steps.append(1)
        if len(steps) == kill:
            raise Killed
        if optimizer == "lbfgs":
            return one.step(lambda: closure(model, x, y))
        loss = crossentropy_loss(model(x), y)
        if gathers:
            loss.backward()
            if trainer.step % 3 == 0:
                one.step()
                one.zero_grad()
        else:
            optimize(loss, one)
        return {"loss": loss}

    def closure(model, x, y):
        one.zero_grad()
        loss = crossentropy_loss(model(x), y)
        loss.backward()
        return loss

    data = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(2))
    batches = [(x, (x[:, 0] > 0).long()) for x in data]
    trainer = Trainer(model, one, train_fn, batches, device="cpu", progress=False)
    trainer.callbacks = [*(make() for make in callbacks), Checkpoint(folder, every=1, keep=100)]
    return trainer


def resumed(folder, kills=(4, 5), **options):
    for kill in kills:
        with pytest.raises(Killed):
            build(folder, kill=kill, **options).fit(epochs=2, resume=True)
    again = build(folder, **options)
    again.fit(epochs=2, resume=True)
    return again


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the Trainer's optimizer .* took no step in the first call")
@pytest.mark.parametrize(
    "options",
    [
        *({"make": make} for make in (dense, convolution, own)),
        *({"optimizer": name} for name in ("sgd", "adafactor", "lbfgs")),
        {"gathers": True},
    ],
    ids=["linear", "convolution", "own", "sgd", "adafactor", "lbfgs", "gathered"],
)
def test_a_model_of_lazy_modules_goes_on_to_the_same_bits(options, tmp_path):
    whole = build(tmp_path / "whole", **options)
    whole.fit(epochs=2, resume=True)
    again = resumed(tmp_path / "often", **options)
    assert not differences(again, fingerprint(whole))
    assert repr(again.model) == repr(whole.model)
    assert [type(one) for one in again.model.modules()] == [type(one) for one in whole.model.modules()]


def test_the_optimizer_keeps_the_parameters_that_it_was_given(tmp_path):
    build(tmp_path).fit(epochs=1)
    again = build(tmp_path)
    before = [id(one) for one in again.model.parameters()]
    again.fit(epochs=2, resume=True)
    assert [id(one) for one in again.model.parameters()] == before
    assert [id(one) for one in again.optimizer.param_groups[0]["params"]] == before


def test_a_fit_that_is_passed_over_leaves_a_model_that_can_be_called(tmp_path):
    first = build(tmp_path, convolution)
    first.fit(epochs=1)
    again = build(tmp_path, convolution)
    again.fit(epochs=1, resume=True)
    x = torch.randn(3, 4)
    assert torch.equal(again.model.eval()(x), first.model.eval()(x))


class Refusing(Callback):
    def state_dict(self):
        return {"a": 1}

    def load_state_dict(self, state):
        raise ValueError("not today")


def test_what_fails_later_leaves_them_without_a_shape(tmp_path):
    build(tmp_path, callbacks=(Refusing,)).fit(epochs=1)
    again = build(tmp_path, callbacks=(Refusing,))
    with pytest.raises(CheckpointError, match="not today"):
        again.fit(epochs=2, resume=True)
    assert all(map(is_lazy, again.model.parameters()))
    assert again.model[1].num_features == 0
    again.model(torch.randn(3, 4))
    assert [tuple(one.shape) for one in again.model[0].parameters()] == [(6, 4), (6,)]


def test_memory_of_an_optimizer_for_another_shape_is_refused_before_anything_changes(tmp_path):
    first = build(tmp_path)
    first.fit(epochs=1)
    first.optimizer.state[first.model[0].weight]["exp_avg"] = torch.zeros(2, 2)
    first.save(tmp_path / "odd")
    again = build(tmp_path)
    with pytest.raises(CheckpointError, match=r"state\.0\.exp_avg(.|\n)*of the shape \(6, 4\)"):
        again.load(tmp_path / "odd")
    assert all(map(is_lazy, again.model.parameters()))


def test_weights_of_another_type_are_those_of_another_model(tmp_path):
    build(tmp_path).fit(epochs=1)
    again = build(tmp_path, lambda: dense().double())
    with pytest.raises(CheckpointError, match=r"0\.weight torch\.float32 instead of torch\.float64"):
        again.fit(epochs=2, resume=True)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: nn.LazyConv2d(4, 1, groups=2), "in_channels"),
        (lambda: nn.LazyConvTranspose2d(4, 1, groups=2), "in_channels"),
        (lambda: nn.LazyInstanceNorm2d(affine=True), "num_features"),
        (lambda: nn.LazyBatchNorm2d(affine=False), "num_features"),
    ],
)
def test_sizes_are_those_that_torch_reads_off_a_batch(make, name):
    called, loaded = make(), make()
    called(torch.randn(2, 6, 3, 3))
    set_sizes(loaded)
    assert getattr(loaded, name) == 0  # there are no weights yet
    loaded.load_state_dict(called.state_dict())
    set_sizes(loaded)
    assert getattr(loaded, name) == getattr(called, name) == 6
