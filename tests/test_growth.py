"""What grows inside a fit is warned of, since the script that is run again begins without it."""

from __future__ import annotations

import os
import signal
import warnings

import pytest
import torch
from resuming import Killed, differences, fingerprint
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ignition import Trainer, crossentropy_loss, optimize
from ignition.callbacks import Checkpoint
from ignition.errors import CheckpointError, IgnitionWarning


@pytest.fixture(autouse=True)
def _without_flushing(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Points(Dataset):
    def __init__(self):
        self.count = 18

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.full((4,), float(index)), index % 2


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.LazyLinear(2)
        self.register_buffer("mean", None)

    def forward(self, x):
        self.mean = x.mean(0).detach()
        return self.head(self.body(x) - self.mean)


def build(folder, change=None, at="epoch_end", kill=None):
    torch.manual_seed(0)
    model = Model()
    steps = []

    def train_fn(model, x, y):
        steps.append(1)
        if len(steps) == kill:
            raise Killed
        loss = crossentropy_loss(model(x), y)
        optimize(loss, trainer.optimizer)
        return {"loss": loss}

    optimizer = torch.optim.Adam(model.head.parameters(), lr=0.02)
    trainer = Trainer(model, optimizer, train_fn, DataLoader(Points(), 6, shuffle=True), device="cpu", progress=False)
    trainer.callbacks = [Checkpoint(folder, every=1, keep=100)]
    if change is not None:

        @trainer.on(at)
        def change_it(trainer):
            if trainer.epoch == (at == "epoch_end"):
                change(trainer)

    return trainer


def add_group(trainer):
    trainer.optimizer.add_param_group({"params": list(trainer.model.body.parameters()), "lr": 0.01})


def add_samples(trainer):
    trainer.train_loader.dataset.count = 30


def add_buffer(trainer):
    trainer.model.register_buffer("scale", torch.ones(2))


def drop_weights(trainer):
    trainer.model.body.bias = None


def widen(trainer):
    trainer.model.body = nn.Linear(4, 5).double()


CHANGES = [
    (add_group, r"the parameter groups of the optimizer \(\[2\] to \[2, 2\]\)"),
    (add_samples, r"the size of the data \(18 samples, 6 in a batch to 30 samples, 6 in a batch\)"),
    (add_buffer, r"the weights and buffers of the model \(new: scale\)"),
    (drop_weights, r"the weights and buffers of the model \(gone: body\.bias\)"),
]


@pytest.mark.parametrize(("change", "found"), CHANGES)
@pytest.mark.parametrize("at", ["epoch_end", "train_begin"])
def test_what_grows_inside_a_fit_is_warned_of_once_and_really_is_refused(change, found, at, tmp_path):
    with pytest.warns(IgnitionWarning, match=found) as caught:
        build(tmp_path, change, at).fit(epochs=3)
    assert len(caught) == 1
    assert "changed inside the fit. The script, run again, begins this fit without that" in str(caught[0].message)
    with pytest.raises(CheckpointError):
        build(tmp_path, change, at).fit(epochs=3, resume=True)


def test_weights_of_another_shape_are_named(tmp_path):
    trainer = build(tmp_path, lambda trainer: widen(trainer) or trainer.stop("enough"))
    with pytest.warns(IgnitionWarning, match=r"another shape or type: body\.bias, body\.weight\)"):
        trainer.fit(epochs=3)


def test_the_warning_comes_with_the_first_such_checkpoint(tmp_path):
    warned_at = []

    def note(message, *others, **more):
        warned_at.append(trainer.step)

    trainer = build(tmp_path, add_samples)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        trainer.fit(epochs=3)
    assert warned_at == [3]


@pytest.mark.parametrize("change", [add_group, add_samples])
def test_between_two_fits_the_same_change_is_exact_as_the_warning_says(change, tmp_path):
    def script(folder, kill=None):
        trainer = build(folder, kill=kill)
        trainer.fit(epochs=1, resume=True)
        change(trainer)
        trainer.fit(epochs=2, resume=True)
        return trainer

    whole = script(tmp_path / "whole")
    for kill in (2, 4, 3):
        with pytest.raises(Killed):
            script(tmp_path / "often", kill)
    assert not differences(script(tmp_path / "often"), fingerprint(whole))


def test_a_model_that_gets_its_shapes_and_buffers_from_the_first_batch_has_not_grown(tmp_path):
    build(tmp_path).fit(epochs=2)
    build(tmp_path).fit(epochs=3, resume=True)


def test_what_is_added_before_an_interrupted_fit_goes_on_is_warned_of_too(tmp_path):
    trainer = build(tmp_path)
    trainer.on("step_end")(lambda trainer: trainer.step == 2 and signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(epochs=1)
    add_group(trainer)
    with pytest.warns(IgnitionWarning, match="the parameter groups of the optimizer"):
        trainer.fit(epochs=1, resume=True)
    with pytest.raises(CheckpointError, match="has groups of"):
        build(tmp_path).fit(epochs=1, resume=True)


SHARES = {
    "a list": (lambda trainer: trainer.state.update(a=[1], b={}) or trainer.state["b"].update(c=trainer.state["a"]),
               "one list at 'a' and 'b.c'"),
    "a parameter": (lambda trainer: trainer.state.update(w=trainer.model.body.weight),
                    "one parameter of the model at 'body.weight' and 'w'"),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARES)
def test_what_has_come_to_be_in_two_places_of_the_state_is_named_once(name, tmp_path):
    change, message = SHARES[name]
    trainer = build(tmp_path)
    trainer.on("train_begin")(lambda trainer: change(trainer))
    with pytest.warns(IgnitionWarning) as caught:
        trainer.fit(epochs=3, resume=True)
    told = [str(one.message) for one in caught if "trainer.state has one" in str(one.message)]
    assert len(told) == 1
    assert message in told[0]


def test_what_was_in_two_places_before_the_fit_stays_so(tmp_path):
    for kill in (5, None):
        trainer = build(tmp_path, kill=kill)
        trainer.state["a"] = [0]
        trainer.state["b"] = {"c": trainer.state["a"]}
        trainer.on("step_end")(lambda trainer: trainer.state["a"].append(trainer.step))
        try:
            trainer.fit(epochs=3, resume=True)
        except Killed:
            continue
    assert trainer.state["b"]["c"] is trainer.state["a"]
    assert trainer.state["a"] == list(range(trainer.step + 1))
