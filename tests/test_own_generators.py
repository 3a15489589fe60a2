"""Each of many processes draws its own in a fit; what the script draws outside of one is the same in all of them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from processes import run_processes
from small import loader, net, read, values, write
from torch import nn

from ignition import Trainer, distributed, optimize, seed_everything
from ignition.own_generators import OwnGenerators


def noise():
    """A number of each generator."""
    return [random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item()]


def trainer_of(inside, **options):
    model = nn.Sequential(net(), nn.Dropout(0.5))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train_fn(model, x, y):
        inside.append(noise())
        loss = nn.functional.cross_entropy(model(x), y)
        optimize(loss, optimizer)
        return {"loss": loss}

    def eval_fn(model, x, y):
        inside.append(noise())
        return {"loss": nn.functional.cross_entropy(model(x), y)}

    return Trainer(model, optimizer, train_fn, loader(24), eval_fn, loader(21), progress=False, **options)


def draw_outside(folder):
    """Draws after fits, sweeps, an evaluation, a prediction, a save and a load."""
    outside, inside = [], []
    trainer = trainer_of(inside, seed=5)
    calls = {
        "sweep": lambda: trainer.find_lr(steps=3),
        "fit": lambda: trainer.fit(epochs=1),
        "evaluate": lambda: trainer.evaluate(),
        "sweep again": lambda: trainer.find_lr(steps=3),
        "fit again": lambda: trainer.fit(epochs=1),
        "predict": lambda: trainer.predict(lambda model, x: model(x), loader(21)),
        "save": lambda: trainer.save(f"{folder}/checkpoint-{distributed.world_size()}"),
        "a second Trainer": lambda: trainer_of(inside, strategy="fsdp").fit(epochs=1),
        "load": lambda: trainer.load(f"{folder}/checkpoint-{distributed.world_size()}"),
    }
    for call in calls.values():
        call()
        outside.append(noise())
    write(folder, {"outside": outside, "inside": inside})


@pytest.mark.slow
def test_the_script_draws_the_same_in_all_processes_and_a_fit_does_not(tmp_path):
    run_processes(draw_outside, 2, tmp_path, folder=tmp_path)
    first, second = read(tmp_path, 2)
    assert first["outside"] == second["outside"]
    *others, loaded = first["outside"]
    assert loaded == others[-2], "where the first process was when it was saved"
    assert len({tuple(numbers) for numbers in others}) == 8
    for mine, theirs in zip(first["inside"], second["inside"], strict=False):
        assert not set(mine) & set(theirs)


def go_on(folder):
    """Two fits; then the second one once more from a checkpoint by hand that was taken between them."""
    inside = []
    trainer = trainer_of(inside, seed=5)
    trainer.fit(epochs=1)
    noise()
    trainer.save(f"{folder}/checkpoint")
    noise()
    before = torch.rand(3).tolist()
    seed_everything(8)  # what the script seeds is the first process's
    trainer.fit(epochs=1)
    drawn, weights = len(inside) // 2, values(trainer.model)
    trainer.load(f"{folder}/checkpoint")
    seed_everything(8)
    trainer.fit(epochs=1)
    again = inside[drawn : 2 * drawn] == inside[2 * drawn :]
    write(folder, [before, again, weights == values(trainer.model), inside[: 2 * drawn]])


@pytest.mark.slow
def test_what_each_process_draws_goes_on_from_fit_to_fit_and_from_a_checkpoint(tmp_path):
    run_processes(go_on, 2, tmp_path, folder=tmp_path)
    first, second = read(tmp_path, 2)
    assert first[0] == second[0]
    for one in (first, second):
        assert one[1:3] == [True, True]
        assert len({tuple(numbers) for numbers in one[3]}) == len(one[3])


def test_in_one_process_nothing_is_changed():
    own, before = OwnGenerators(), torch.get_rng_state()
    with own.in_use(), own.in_use():
        drawn = torch.rand(2)
    torch.set_rng_state(before)
    assert torch.equal(drawn, torch.rand(2))
