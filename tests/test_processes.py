"""A training by several processes has the numbers of one process, whose batches are as large as theirs together."""

from __future__ import annotations

import os

import pytest
import torch
from processes import run_processes
from small import loader, net, raised, read, samples, values, write
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from ignition import DDP, FSDP, TensorLoader, Trainer, distributed, evaluate_on_batch, freeze, optimize, unfreeze
from ignition.callbacks import EMA, SWA, Callback, Checkpoint, EarlyStopping
from ignition.processes import Processes


def tokens_mean(model, x, y):
    """A loss over those samples alone that have not the label 0, and how many they are."""
    counted = y != 0
    loss = nn.functional.cross_entropy(model(x), y, ignore_index=-100 if counted.all() else 0)
    return loss, counted.sum()


def trained(batches, *, weighed=False, epochs=2, model=None, callbacks=(), **options):
    """What a training comes to: the records, the norm of each step's gradient, the parameters."""
    model = net() if model is None else model
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], 0.1, momentum=0.9)
    norms = []

    def train_fn(model, x, y):
        if weighed:
            loss, weight = tokens_mean(model, x, y)
        else:
            loss, weight = nn.functional.cross_entropy(model(x), y), None
        norm = optimize(loss, optimizer, weight=weight)
        norms.extend([] if norm is None else [norm.item()])
        return {"loss": loss if weight is None else (loss, weight)}

    def eval_fn(model, x, y):
        return evaluate_on_batch(model, x, y)

    trainer = Trainer(model, optimizer, train_fn, batches, eval_fn, loader(), progress=False, **options)
    trainer.callbacks = list(callbacks)
    history = trainer.fit(epochs=epochs)
    columns = [name for name in history.columns if name not in ("seconds", "data_seconds")]
    return {"history": {name: history[name] for name in columns}, "norms": norms, "values": values(model)}


class Kept(Callback):
    """Looks what the averages come to."""

    def on_train_end(self, trainer):
        self.found = [values(one) for one in trainer.averaged.values()]


def frozen_and_unfrozen(size):
    model = net()
    freeze(model[0])
    first = trained(loader(21, size), model=model)
    unfreeze(model[0])
    return [first, trained(loader(21, size), model=model)]


def adversaries(size):
    """A training of two models, one of which train_fn freezes for the step of the other."""
    made, critic = net(), nn.Linear(3, 1)
    optimizers = [torch.optim.SGD(one.parameters(), 0.1) for one in (made, critic)]

    def train_fn(models, x, y):
        made, critic = models
        critic.requires_grad_(True)
        of_critic = critic(made(x).detach()).square().mean() - critic(nn.functional.one_hot(y, 3).float()).mean()
        optimizers[1].zero_grad()
        of_critic.backward()
        optimizers[1].step()
        critic.requires_grad_(False)
        loss = critic(made(x)).square().mean()
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()
        return {"loss": loss, "critic": of_critic}

    return Trainer([made, critic], optimizers, train_fn, loader(24, size), progress=False)


def adversaries_in_two_fits(size):
    """Two fits, and the second one of a training that was loaded after the first."""
    path = f"{os.environ['CHECKPOINTS']}-adversaries-{distributed.world_size()}"
    trainer, loaded = adversaries(size), adversaries(size)
    trainer.fit(epochs=2)
    trainer.save(path)
    loaded.load(path)
    for one in (trainer, loaded):
        one.fit(epochs=2)
    return [[one.history["train_loss"], *map(values, one.model)] for one in (trainer, loaded)]


class Unfreezes(Callback):
    """Begins with a part of the model frozen, and trains it from an event on."""

    def __init__(self, event):
        setattr(self, f"on_{event}", self.unfreeze)

    def on_train_begin(self, trainer):
        freeze(trainer.model[0])

    def unfreeze(self, trainer):
        if trainer.epoch == 2:
            unfreeze(trainer.model[0])


def unfrozen_inside_a_fit(event, size):
    return trained(loader(21, size), epochs=3, callbacks=[Unfreezes(event)])


def averages(size):
    kept = Kept()
    result = trained(loader(21, size), epochs=3, callbacks=[EMA(0.5), SWA(2), kept])
    return [result, kept.found]


def with_checkpoint(size):
    """Without a seed the order is that of torch's own, which `net` sets: with a Checkpoint one process has it too."""
    path = f"{os.environ['CHECKPOINTS']}-{distributed.world_size()}"
    return trained(loader(21, size, shuffle=True), callbacks=[Checkpoint(path)])


class OfUnknownLength:
    """Batches that nobody can count beforehand."""

    def __init__(self, size):
        self.size = size

    def __iter__(self):
        return iter(list(loader(45, self.size)))


def cases(size):
    """Trainings with batches of `size` samples, by what is tried."""
    shuffled = RandomSampler(TensorDataset(*samples()))
    return {
        "a ragged last round": lambda: trained(loader(21, size)),
        "an order drawn anew in each epoch": lambda: trained(loader(21, size, shuffle=True), seed=5),
        "windows, the last of them short": lambda: trained(loader(45, size), accumulate=2),
        "clipped windows": lambda: trained(loader(45, size), accumulate=2, clip_norm=0.05),
        "weights of one's own": lambda: trained(loader(45, size), weighed=True),
        "windows of such weights": lambda: trained(loader(45, size), weighed=True, accumulate=2),
        "a window that is closed late": lambda: trained(OfUnknownLength(size), accumulate=4),
        "a TensorLoader": lambda: trained(TensorLoader(*samples(), batch_size=size, shuffle=True), seed=3),
        "an order of no seed, with a checkpoint": lambda: with_checkpoint(size),
        "drop_last": lambda: trained(loader(21, size, drop_last=True)),
        "fewer samples than processes": lambda: trained(loader(1, size)),
        "a batch sampler": lambda: trained(
            DataLoader(TensorDataset(*samples()), batch_sampler=BatchSampler(shuffled, size, False)), seed=3
        ),
        "a list of batches": lambda: trained(list(loader(24, size))),
        "parts frozen and unfrozen": lambda: frozen_and_unfrozen(size),
        "one frozen for the other's step": lambda: adversaries_in_two_fits(size),
        "unfrozen as an epoch begins": lambda: unfrozen_inside_a_fit("epoch_begin", size),
        "unfrozen at a record": lambda: unfrozen_inside_a_fit("record", size),
        "averages": lambda: averages(size),
    }


def train_all(folder):
    write(folder, {name: case() for name, case in cases(4).items()})


def close(found, expected):
    """As `found == expected`, up to rounding."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[name], expected[name]) for name in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    return found == pytest.approx(expected, abs=1e-5, nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_the_numbers_are_those_of_one_process(tmp_path, count, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS", str(tmp_path / "checkpoints"))
    run_processes(train_all, count, tmp_path, folder=tmp_path)
    alone = {name: case() for name, case in cases(4 * count).items()}
    for result in read(tmp_path, count):
        assert {name: close(result[name], alone[name]) for name in alone} == dict.fromkeys(alone, True)


# What differs, what they agree on


def fit_of(**options):
    """A small training, whose `stop` and the like are to be tried."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train_fn(model, x, y):
        loss = nn.functional.cross_entropy(model(x), y)
        optimize(loss, optimizer)
        return {"loss": loss}

    def eval_fn(model, x, y):
        return evaluate_on_batch(model, x, y)

    return Trainer(model, optimizer, train_fn, loader(), eval_fn, loader(), progress=False, **options)


def agree(folder):
    """One process asks to stop; all draw from generators; one model, and one record."""
    number = distributed.rank()
    trainer = fit_of()

    @trainer.on("step_end")
    def stop(trainer):
        if number == 1 and trainer.step == 4:
            trainer.stop(f"asked by {number}")

    trainer.fit(epochs=1000)
    stopped = [trainer.stop_reason, trainer.step, values(trainer.model), [dict(row) for row in trainer.history.rows]]
    # Each process has drawn other weights: those of the first count. Their dropout differs.
    torch.manual_seed(number)
    drawn = nn.Linear(4, 3)
    noise = []
    trainer = Trainer(
        drawn, None, lambda model, x, y: noise.append(torch.rand(3).tolist()), loader(), seed=number, progress=False
    )
    trainer.fit(steps=1)
    early = fit_of()
    early.callbacks = [EarlyStopping("val_loss", patience=2, min_delta=10)]
    early.fit(epochs=50)
    sweep = fit_of().find_lr(steps=12)
    write(folder, [stopped, trainer.seed, noise, [early.stop_reason, early.step], [sweep.losses, sweep.suggestion]])


@pytest.mark.slow
def test_the_processes_agree_on_when_to_stop_and_on_the_seed(tmp_path):
    run_processes(agree, 2, tmp_path, folder=tmp_path)
    first, second = read(tmp_path, 2)
    assert first[0] == second[0]
    assert first[0][0] == "asked by 1"
    assert first[1] == second[1] == 0
    assert first[2] != second[2]
    assert first[3] == second[3]
    assert "has not improved" in first[3][0]
    assert first[4] == second[4]
    assert len(first[4][0]) == 12


def stop_far_from_any_meeting(folder, strategy):
    """One process asks to stop early in an epoch of 50,000 steps, in which nothing else is due."""
    trainer = fit_of(strategy=strategy)
    trainer.train_loader = TensorLoader(*samples(400_000), batch_size=4)
    stepped = []

    @trainer.on("step_end")
    def stop(trainer):
        stepped.append(trainer.step)
        if distributed.rank() == 1 and trainer.step == 40:
            trainer.stop("asked by 1")

    trainer.fit(epochs=1)
    write(folder, [trainer.stop_reason, trainer.step, stepped[-1], trainer.epoch])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_between_two_meetings_too_all_stop_after_the_same_step(tmp_path, strategy):
    run_processes(stop_far_from_any_meeting, 2, tmp_path, strategy, folder=tmp_path)
    first, second = read(tmp_path, 2)
    assert first == second
    reason, step, last, epoch = first
    assert (reason, last, epoch) == ("asked by 1", step, 1)
    assert 40 <= step < 10_000


def test_one_process_agrees_with_itself_at_no_cost():
    processes = Processes(DDP(), torch.device("cpu"))
    model = net()
    assert processes.many is False
    assert processes.wrap(None, model) is model
    assert processes.gradient_sync(model) is None
    assert processes.agree() == {}
    assert processes.begin_steps(3, None) is None
    assert processes.begin_steps(3, 10) == 7
    assert processes.goes_on(7)
    assert processes.shared_seed(None) is None
    assert processes.row_of_main({"step": 1}) == {"step": 1}


@pytest.mark.parametrize("strategy", ["auto", "ddp", "fsdp", DDP(static_graph=True), FSDP(precision=torch.bfloat16)])
def test_in_one_process_no_strategy_changes_anything(strategy):
    assert fit_of(strategy=strategy).fit(epochs=1)["train_loss"] == fit_of().fit(epochs=1)["train_loss"]


@pytest.mark.parametrize("strategy", ["dpp", None, DDP, 2])
def test_what_is_no_strategy_is_refused(strategy):
    assert raised(lambda: fit_of(strategy=strategy)).startswith("ArgumentError: strategy=")
