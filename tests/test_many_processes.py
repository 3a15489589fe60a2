"""What users do around a fit on many processes: it trains as one process does, or says at once why it cannot."""

from __future__ import annotations

import pytest
import torch
from processes import run_processes
from small import loader, net, read, values, write
from torch import nn

from ignition import Trainer, optimize
from ignition.callbacks import EMA


def whole(model):
    """All parameters of a model that may be sharded."""
    parts = [one.full_tensor() if hasattr(one, "full_tensor") else one for one in model.parameters()]
    return torch.cat([one.detach().reshape(-1) for one in parts]).tolist()


def loss_of(model, x, y):
    return nn.functional.cross_entropy(model(x), y)


def adam_by_hand(size, epochs):
    """The loop of one process, written by hand."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(epochs):
        for x, y in loader(24, size):
            optimizer.zero_grad()
            loss_of(model, x, y).backward()
            optimizer.step()
    return values(model)


def adam(*, model=None, optimizer=None, **options):
    model = net() if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), 0.01) if optimizer is None else optimizer

    def train_fn(model, x, y):
        loss = loss_of(model, x, y)
        optimize(loss, optimizer)
        return {"loss": loss}

    return Trainer(model, optimizer, train_fn, loader(24), progress=False, **options)


# A sweep before the first fit


def sweep_first(folder):
    """A sweep over learning rates before the first fit, and between two."""
    found = {}
    for strategy in ("ddp", "fsdp"):
        trainer = adam(strategy=strategy)
        trainer.callbacks = [EMA(0.5)]
        first = trainer.find_lr(steps=7)
        found[f"{strategy}, put back"] = whole(trainer.model) == values(net()) and not trainer.optimizer.state
        trainer.fit(epochs=1)
        second = trainer.find_lr(steps=7)
        trainer.fit(epochs=1)
        found[strategy] = whole(trainer.model)
        found[f"{strategy}, losses"] = [first.losses, second.losses]
        found[f"{strategy}, average"] = whole(trainer.averaged["ema"])
    write(folder, found)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_after_a_sweep_before_the_first_fit_all_is_as_it_was(tmp_path, count):
    run_processes(sweep_first, count, tmp_path, folder=tmp_path)
    for one in read(tmp_path, count):
        for strategy in ("ddp", "fsdp"):
            assert one[f"{strategy}, put back"]
            assert one[strategy] == pytest.approx(adam_by_hand(4 * count, 2), abs=1e-6)
            assert one[f"{strategy}, losses"][0] != one[f"{strategy}, losses"][1]
        assert one["fsdp, average"] == pytest.approx(one["ddp, average"], abs=1e-6)
        assert one["fsdp, losses"] == [pytest.approx(losses, abs=1e-4) for losses in one["ddp, losses"]]
