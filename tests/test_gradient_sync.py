"""Gradients of many processes: reduced once a window, exact for unequal batches, and an error where they are not."""

from __future__ import annotations

import warnings

import pytest
import torch
from processes import run_processes
from small import loader, net, raised, read, samples, values, write
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ignition import IgnitionWarning, Trainer, distributed, optimize
from ignition.callbacks import Checkpoint
from ignition.gradient_sync import GradientSync
from ignition.roll_call import Word
from ignition.strategy import Replica


def loss_of(model, x, y, **options):
    return nn.functional.cross_entropy(model(x), y, **options)


def plain_training(batches, epochs=1):
    """A training by the plain steps of a loop written by hand."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def train_fn(model, x, y):
        optimizer.zero_grad()
        loss_of(model, x, y).backward()
        optimizer.step()

    Trainer(model, optimizer, train_fn, batches, progress=False).fit(epochs=epochs)
    return values(model)


def by_hand(count, size, epochs):
    """A DDP loop written by hand: each process takes its own of each round's batches."""
    model = net()
    replica = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(epochs):
        for number, (x, y) in enumerate(loader(count, size)):
            if number % 2 == distributed.rank():
                optimizer.zero_grad()
                loss_of(replica, x, y).backward()
                optimizer.step()
    return values(model)


def stepping_first(folder, steps, ends_around=None):
    """A training whose function begins with the step on the gradients of the call before; it goes on where it was."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def train_fn(prepared, x, y):
        optimizer.step()
        optimizer.zero_grad()
        around = ends_around is not None and trainer.step >= ends_around
        loss_of(model if around else prepared, x, y).backward()

    trainer = Trainer(model, optimizer, train_fn, loader(24), progress=False)
    trainer.callbacks = [Checkpoint(folder)]
    trainer.fit(steps=steps, resume=True)
    return values(model)


def stepping_first_by_hand(epochs):
    model = net()
    replica = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(epochs):
        for number, (x, y) in enumerate(loader(24)):
            if number % 2 == distributed.rank():
                optimizer.step()
                optimizer.zero_grad()
                loss_of(replica, x, y).backward()
    return values(model)


def warnings_of(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in caught if issubclass(one.category, IgnitionWarning)]


def ignoring(marks, reduction="mean"):
    """A training in which a label of -100 counts nothing; the loss of a batch of nothing else is NaN.

    Args:
        marks: For each sample of 16 whether it counts.
    """
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, y = samples(16)
    y = torch.where(torch.tensor(marks), y, -100)

    def train_fn(model, x, y):
        counted = (y != -100).sum()
        norm = optimize(loss_of(model, x, y), optimizer, weight=counted)
        return {"norm": (norm, 1)}

    batches = list(zip(x.split(4), y.split(4), strict=True))
    trainer = Trainer(model, optimizer, train_fn, batches, progress=False)
    trainer.fit(epochs=1)
    return values(model)


NOTHING_IN_ONE = [True] * 4 + [False] * 4 + [True, False, True, False] + [True] * 4
NOTHING_AT_ALL = [False] * 8 + [True] * 8


def counted_reductions():
    """How often gradients travelled in windows of 3 batches: asked of DDP itself."""
    model, travelled = net(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train_fn(model, x, y):
        travelled.append(model._ignition_replica.require_backward_grad_sync)
        optimize(loss_of(model, x, y), optimizer)

    Trainer(model, optimizer, train_fn, loader(28), progress=False, accumulate=3).fit(epochs=1)
    return travelled


def with_lbfgs(size, evaluations):
    """A training by LBFGS, which asks for the loss and its gradient as often as it likes in a step."""
    model = net().double()  # how far a step goes hangs on the last digits
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=6, line_search_fn="strong_wolfe")

    def train_fn(model, x, y):
        def closure():
            evaluations.append(1)
            optimizer.zero_grad()
            loss = loss_of(model, x.double(), y)
            loss.backward()
            return loss

        return {"loss": optimizer.step(closure)}

    trainer = Trainer(model, optimizer, train_fn, loader(24, size), progress=False)
    return trainer.fit(epochs=2)["train_loss"] + values(model)


def around(steps, optimized):
    """What is raised where the loss comes from a model from outside, or from a part of the model."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train_fn(prepared, x, y):
        loss = nn.functional.cross_entropy(steps(model, prepared)(x), y)
        if optimized:
            optimize(loss, optimizer)
        else:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    Trainer(model, optimizer, train_fn, loader(24), progress=False).fit(epochs=1)


def reduce_gradients(folder, what):
    if what == "right":
        evaluations = []
        found = {
            "LBFGS": with_lbfgs(4, evaluations),
            "evaluations": len(evaluations),
            "plain": plain_training(loader(24), 2),
            "by hand": by_hand(24, 4, 2),
            "warned": [
                warnings_of(lambda: plain_training(loader(21), 3)),
                warnings_of(lambda: plain_training(loader(24), 3)),
            ],
            "nothing in one": ignoring(NOTHING_IN_ONE),
            "nothing at all": ignoring(NOTHING_AT_ALL),
            "travelled": counted_reductions(),
            "first": stepping_first(f"{folder}/first", 6),
            "first, resumed": [stepping_first(f"{folder}/resumed", steps) for steps in (4, 6)],
            "first, by hand": stepping_first_by_hand(2),
            "around": raised(lambda: around(lambda model, prepared: model, optimized=True)),
        }
    elif what == "later":
        found = {"around": raised(lambda: stepping_first(f"{folder}/around", 6, ends_around=3))}
    else:
        found = {"around": raised(lambda: around(lambda model, prepared: nn.Sequential(*prepared), optimized=False))}
    write(folder, found)


def exact(marks):
    """One process, in rounds of two batches, by hand: the mean over what counts."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, y = samples(16)
    y = torch.where(torch.tensor(marks), y, -100)
    for xs, ys in zip(x.split(8), y.split(8), strict=True):
        optimizer.zero_grad()
        (loss_of(model, xs, ys, reduction="sum") / max(1, int((ys != -100).sum()))).backward()
        optimizer.step()
    return values(model)


@pytest.mark.slow
def test_gradients_come_together_as_a_loop_by_hand_has_them(tmp_path):
    run_processes(reduce_gradients, 2, tmp_path, "right", folder=tmp_path)
    first, second = read(tmp_path, 2)
    assert first["plain"] == first["by hand"]
    assert first["first"] == first["first, resumed"][-1] == first["first, by hand"]
    for name in ("plain", "nothing in one", "nothing at all", "travelled", "first", "first, resumed"):
        assert first[name] == second[name]
    assert first["nothing in one"] == pytest.approx(exact(NOTHING_IN_ONE), abs=1e-6)
    assert first["nothing at all"] == pytest.approx(exact(NOTHING_AT_ALL), abs=1e-6)
    alone = []
    assert first["LBFGS"] == second["LBFGS"] == pytest.approx(with_lbfgs(8, alone), abs=1e-5)
    assert first["evaluations"] == second["evaluations"] == len(alone) > 6
    # 7 batches, in rounds of 2 processes: 3 whole ones and a split one; the last window is short.
    assert first["travelled"] == [False, False, True, True]
    warned, silent = first["warned"]
    assert len(warned) == 1  # once, for three epochs
    assert "optimize(loss, optimizer)" in warned[0]
    assert silent == []
    assert second["warned"] == [[], []]  # one voice
    assert any("about to step on gradients of this process alone" in one["around"] for one in (first, second))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["around", "later"])
def test_a_plain_step_around_the_model_is_an_error(tmp_path, when):
    run_processes(reduce_gradients, 2, tmp_path, when, folder=tmp_path)
    assert any("about to step on gradients of this process alone" in one["around"] for one in read(tmp_path, 2))


# In one process


def test_without_ddp_there_is_nothing_to_reduce():
    sync = GradientSync([net(), nn.Identity()])
    sync.begin_batch(4, opening=True, closing=False)
    sync.check(torch.optim.SGD(net().parameters(), 0.1))
    assert sync.warn_if_unequal() is False


def test_what_is_said_in_passing_is_heard_the_next_time(monkeypatch):
    heard, hear = [], Word.heard
    monkeypatch.setattr(Word, "heard", lambda word: heard.append(word) or hear(word))
    sync = GradientSync([net()])
    sync.calls.batch = 1
    assert sync.pass_by(0.5) == 0
    assert heard == []
    sync.calls.batch = 2
    assert sync.pass_by(0.7) == 0.5
    assert len(heard) == 1
    assert sync.meet(0.9) == 0.9  # the one before is heard here, and of no more use
    assert sync.pass_by(0.1) == 0
    assert len(heard) == 3


def test_losses_are_measured_in_the_weight_of_the_first_batch():
    sync = GradientSync([])
    assert [sync.share(weight) for weight in (8, 4, 0)] == [1, 0.5, 0]
    assert sync.unit == 8
    assert GradientSync([], unit=2).share(3) == 1.5
    assert GradientSync([]).share(0) == 0


def test_the_gradient_of_a_mean_over_nothing_is_zero():
    parameter = nn.Parameter(torch.ones(3))
    sync = GradientSync([])
    (gradient,) = torch.autograd.grad(sync.stand_in(parameter.sum() * torch.nan, 0.0, [parameter]), parameter)
    assert gradient.tolist() == [0, 0, 0]
    (gradient,) = torch.autograd.grad(sync.stand_in(parameter.sum(), 0.0, [parameter]), parameter)
    assert gradient.tolist() == [0, 0, 0]


def test_a_replica_is_ddps():
    assert issubclass(Replica, DistributedDataParallel)
