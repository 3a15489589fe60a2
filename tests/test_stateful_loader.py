"""torchdata's StatefulDataLoader as train_loader: a loader that keeps its place by itself, of another library's."""

from __future__ import annotations

import gc
import os
import shutil

import numpy as np
import pytest
import torch
from resuming import Data, Killed, differences, fingerprint, small_training
from torchdata.stateful_dataloader import StatefulDataLoader

from ignition import Trainer, crossentropy_loss
from ignition.callbacks import Checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata's use of torch


@pytest.fixture(autouse=True)
def _without_flushing(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def _workers_ended():
    yield
    gc.collect()  # the loader ends its workers when it goes


def build(folder, *, workers=0, shuffle=True, generator=None, noise=(), every=1, kill=None):
    torch.manual_seed(4)
    np.random.seed(4)
    generator = None if generator is None else torch.Generator().manual_seed(generator)
    loader = StatefulDataLoader(Data(noise), 6, shuffle=shuffle, num_workers=workers, generator=generator)
    model, optimizer, train_fn = small_training(kill)

    def eval_fn(model, x, y):
        return {"loss": crossentropy_loss(model(x), y), "noise": torch.rand(())}

    test = [(torch.ones(3, 4), torch.tensor([0, 1, 1]))]
    trainer = Trainer(model, optimizer, train_fn, loader, eval_fn, test, device="cpu", progress=False)
    trainer.callbacks = [Checkpoint(folder, every=every, keep=1000)]
    return trainer


def resumed_from_each_step(tmp_path, **options):
    """The parts that differ from the uninterrupted run, for each checkpoint that a run goes on from."""
    whole = build(tmp_path / "whole", **options)
    whole.fit(epochs=3, resume=True)
    expected = fingerprint(whole)
    found = {}
    for checkpoint in sorted((tmp_path / "whole").glob("fit-*")):
        shutil.copytree(checkpoint, tmp_path / "again" / checkpoint.name)
        again = build(tmp_path / "again", every=1000, **options)
        again.fit(epochs=3, resume=True)
        found[checkpoint.name] = differences(again, expected)
        shutil.rmtree(tmp_path / "again")
    assert len(found) == 13  # 12 steps, and the end
    return {name: parts for name, parts in found.items() if parts}


@pytest.mark.slow
@pytest.mark.parametrize("generator", [None, 3])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("noise", [(), ("torch", "numpy", "python")])
def test_a_run_that_goes_on_from_any_step_equals_the_whole_one(shuffle, generator, noise, tmp_path):
    assert resumed_from_each_step(tmp_path, shuffle=shuffle, generator=generator, noise=noise) == {}


@pytest.mark.slow
@pytest.mark.parametrize("generator", [None, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_with_workers_too_where_the_data_set_draws_no_random_numbers(shuffle, generator, tmp_path):
    assert resumed_from_each_step(tmp_path, shuffle=shuffle, generator=generator, workers=2) == {}


def test_it_survives_several_interruptions(tmp_path):
    whole = build(tmp_path / "whole")
    whole.fit(epochs=3, resume=True)
    for kill in (4, 3, 2, 3):
        with pytest.raises(Killed):
            build(tmp_path / "often", kill=kill).fit(epochs=3, resume=True)
    again = build(tmp_path / "often")
    again.fit(epochs=3, resume=True)
    assert not differences(again, fingerprint(whole))
