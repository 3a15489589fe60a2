"""Batch norm over the batches of all processes is batch norm over one batch."""

from __future__ import annotations

import pytest
import torch
from processes import run_processes
from small import loader, read, values, write
from torch import nn

from ignition import DDP, Trainer, optimize
from ignition.batch_norm import SyncedBatchNorm, synchronise_batch_norm


def normed(momentum=0.1, affine=True, running=True):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(5, momentum=momentum, affine=affine, track_running_stats=running)
    return nn.Sequential(nn.Linear(4, 5), norm, nn.Tanh(), nn.Linear(5, 3))


def images(momentum=0.1):
    """The same of images ``(batch, 2, 2, 1)``: statistics over several axes."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (2, 2, 1)), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(6, 3)
    )


MODELS = {
    "plain": normed,
    "cumulative": lambda: normed(momentum=None),
    "without weights": lambda: normed(affine=False),
    "without statistics": lambda: normed(running=False),
    "images": images,
}


def trained(model, size, **options):
    """Two epochs on 24 samples and one of 21, whose last round is uneven."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def train_fn(model, x, y):
        loss = nn.functional.cross_entropy(model(x), y)
        optimize(loss, optimizer)
        return {"loss": loss}

    def eval_fn(model, x, y):
        return {"loss": nn.functional.cross_entropy(model(x), y)}

    trainer = Trainer(model, optimizer, train_fn, loader(24, size), eval_fn, loader(20), progress=False, **options)
    trainer.fit(epochs=2)
    trainer.train_loader = loader(21, size)
    history = trainer.fit(epochs=1)
    buffers = [value for buffer in model.buffers() for value in buffer.reshape(-1).tolist()]
    return [*history["train_loss"], *history["val_loss"], *values(model), *buffers]


def train_all(folder):
    sync = DDP(sync_batch_norm=True)
    write(folder, {name: trained(make(), 4, strategy=sync) for name, make in MODELS.items()})


@pytest.mark.slow
def test_two_processes_have_the_statistics_of_one(tmp_path):
    run_processes(train_all, 2, tmp_path, folder=tmp_path)
    first, second = read(tmp_path, 2)
    assert first == second
    alone = {name: trained(make(), 8) for name, make in MODELS.items()}
    assert {name: first[name] == pytest.approx(alone[name], abs=1e-5) for name in alone} == dict.fromkeys(alone, True)


def test_layers_are_changed_in_place_with_all_that_they_have():
    model = normed()
    layer, weight = model[1], model[1].weight
    layer.mark = "kept"
    called = []
    layer.register_forward_hook(lambda *_: called.append(1))
    synchronise_batch_norm(model)
    assert model[1] is layer
    assert (type(layer), layer.weight is weight, layer.mark) == (SyncedBatchNorm, True, "kept")
    model(torch.randn(6, 4))
    assert called == [1]


def test_what_is_synchronised_or_knows_no_size_stays():
    model = nn.Sequential(nn.SyncBatchNorm(3), nn.LazyBatchNorm1d(), nn.LayerNorm(3), nn.GroupNorm(1, 3))
    kinds = [type(one) for one in model]
    synchronise_batch_norm(model)
    assert [type(one) for one in model] == kinds


@pytest.mark.parametrize("training", [True, False])
def test_in_one_process_it_is_batch_norm(training):
    plain, synced = normed().train(training), normed().train(training)
    synchronise_batch_norm(synced)
    x = torch.randn(6, 4)
    assert torch.equal(plain(x), synced(x))
    assert torch.equal(plain[1].running_mean, synced[1].running_mean)
    assert torch.equal(plain[1].running_var, synced[1].running_var)
