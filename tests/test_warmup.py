"""Warmup: a slow start, by the table of its formula."""

import pytest
import torch
from torch import nn

from ignition import Trainer
from ignition.callbacks import LinearDecay, Schedule, Warmup
from ignition.errors import ArgumentError

batches = [torch.zeros(1)] * 4


def rates(schedule, epochs=2, lr=0.8):
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    seen = []

    def train_fn(model, x):
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
        seen.append(optimizer.param_groups[0]["lr"])

    trainer = Trainer(model, optimizer, train_fn, batches, progress=False)
    trainer.callbacks = [schedule]
    trainer.fit(epochs=epochs)
    return seen


def test_alone_it_brings_the_optimizers_own_value_up_to_what_it_was():
    # lr * s / steps for s = 1 ... 4
    assert rates(Warmup(4)) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8])


def test_it_begins_with_its_start_factor():
    # lr * (f + (1 - f) s / steps), f = 0.5
    assert rates(Warmup(4, start_factor=0.5)) == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8])


def test_what_comes_then_counts_from_its_end():
    then = LinearDecay("lr", start_value=1.0, end_value=0.0, max_steps=5)
    assert rates(Warmup(2, then=then)) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0])


def test_what_comes_then_by_epoch_is_scaled_while_it_warms_up():
    then = LinearDecay("lr", start_value=1.0, end_value=0.5, max_epochs=2)
    assert rates(Warmup(2, then=then)) == pytest.approx([0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5])


def test_it_takes_the_name_of_what_comes_then():
    assert Warmup(2, then=Schedule("momentum", lambda step: 0.9, every="step")).name == "momentum"
    with pytest.raises(ArgumentError, match=r"(?s)expected: .*to do: "):
        Warmup(2, then=Schedule("momentum", lambda step: 0.9, every="step"), name="lr")


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"steps": 1.5}, {"steps": 2, "start_factor": float("nan")}])
def test_what_makes_no_warm_up_is_an_error(arguments):
    with pytest.raises(ArgumentError, match=r"(?s)expected: .*to do: "):
        Warmup(**arguments)


def test_a_value_of_zero_cannot_be_warmed_up_to():
    with pytest.raises(ArgumentError, match=r"(?s)expected: .*to do: "):
        rates(Warmup(2), lr=0.0)
