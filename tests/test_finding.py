"""`Trainer.find_lr`: what it does with any training, and that afterwards nothing has happened, to the bit."""

from __future__ import annotations

import gc
import io
import signal
import sys

import numpy as np
import pytest
import torch
from marks import slow
from resuming import Killed, Script, Ticker, build, differences, fingerprint
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ignition import TensorLoader, Trainer, crossentropy_loss, fit_on_batch, freeze, optimize
from ignition.callbacks import CSVLogger, LinearDecay, SaveModel
from ignition.data import drop_workers
from ignition.errors import ArgumentError, BatchError, FunctionError, HyperparameterError, MetricError, OptimizerError

SCRIPTS = {
    "plain": Script(),
    "sgd, ema, schedule": Script(optimizer="sgd", ema=True, schedule="warmup"),
    "seeded": Script(seed=3, ema=True, noise=("python", "numpy", "torch")),
    "noise": Script(noise=("python", "numpy", "torch")),
    "own generator": Script(data="own generator"),
    "sampler with epochs": Script(data="epochs"),
    "tensors": Script(data="tensors", swa=True),
    "accumulate and clip": Script(accumulate=3, clip=0.1),
    "fp16": Script(precision="fp16", norm=False),
    "torch's schedule": Script(schedule="one cycle"),
    "plateau": Script(schedule="plateau", stopping=True),
    "hyperparameter": Script(schedule="hyper"),
    "gan": Script(kind="gan"),
    "lbfgs": Script(kind="lbfgs", optimizer="lbfgs", dropout=0.0),
    "frozen": Script(kind="frozen"),
    "carried state": Script(kind="carried"),
}


def sweep(trainer, **arguments):
    metric = "d_loss" if isinstance(trainer.model, dict) else "loss"
    return trainer.find_lr(**({"start_lr": 1e-5, "end_lr": 1e-1, "steps": 9, "metric": metric} | arguments))


class Notes:
    """What a function writes down, where it is not put back: an object that nobody can ask for its state."""

    def __init__(self):
        self.lines = []


def trained(script, look):
    """Three fits, of which the second ends inside an epoch; `look` is called before, between and after them."""
    trainer = build(script, None)
    look(trainer)
    for goal in ({"epochs": 1}, {"steps": 6, "eval_every": 5}, {"epochs": 2}):
        trainer.fit(**goal)
        look(trainer)
    return trainer


@pytest.mark.parametrize("name", [slow(name) if place % 3 else name for place, name in enumerate(SCRIPTS)])
def test_training_goes_on_as_if_nothing_had_happened(name):
    expected = fingerprint(trained(SCRIPTS[name], lambda trainer: None))
    assert differences(trained(SCRIPTS[name], sweep), expected) == []


@pytest.mark.parametrize("name", ["plain", "seeded", "accumulate and clip", "carried state", "gan"])
@pytest.mark.parametrize("number", [None, signal.SIGINT])
def test_it_is_also_so_where_the_train_function_raises_or_somebody_presses_ctrl_c(name, number):
    ticker = Ticker()

    def killed(trainer):
        ticker.at, ticker.by = ticker.count + 5, number
        with pytest.raises(Killed if number is None else KeyboardInterrupt):
            sweep(trainer)
        ticker.at = None

    def train(look):
        trainer = build(SCRIPTS[name], None, ticker)
        for goal in ({"steps": 3}, {"epochs": 1}):
            look(trainer)
            trainer.fit(**goal)
        return trainer

    expected = fingerprint(train(lambda trainer: None))
    assert differences(train(killed), expected) == []


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_of_an_open_epoch_go_on(persistent):
    script = Script(workers=2, persistent=persistent, noise=("torch",))

    def sweep_inside_an_epoch(trainer):
        if trainer.epoch_open:
            sweep(trainer)

    whole, swept = trained(script, lambda trainer: None), trained(script, sweep_inside_an_epoch)
    assert differences(swept, fingerprint(whole)) == []
    for trainer in (whole, swept):  # persistent workers end with their loader; as a part of a cycle, after 5 s each
        trainer.training._keyed.clear()
        drop_workers(trainer.train_loader)
    gc.collect()


class Stream(IterableDataset):
    """Batches that are numbered on, and a place that can be saved."""

    def __init__(self, length):
        self.length, self.place = length, 0

    def __iter__(self):
        while self.place < self.length:
            self.place += 1
            x = torch.linspace(-1, 1, 12).reshape(3, 4) * self.place
            yield x, torch.tensor([0, 1, 2])
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


def classifier(loader, optimizer=None, **options):
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.3), nn.Linear(5, 3))
    if optimizer is None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def train_fn(model, x, y):
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    return Trainer(model, optimizer, train_fn, loader, progress=False, **options)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_stream_that_keeps_its_place_goes_on_from_there(wrapped):
    def train(look):
        stream = Stream(10)
        trainer = classifier(DataLoader(stream, batch_size=None) if wrapped else stream)
        for steps in (3, 9, 9):
            look(trainer)
            trainer.fit(steps=steps)
        return trainer

    expected = fingerprint(train(lambda trainer: None))
    assert differences(train(sweep), expected) == []


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_torchdatas_loader_goes_on_from_its_place(tiny_data):
    module = pytest.importorskip("torchdata.stateful_dataloader")

    def train(look):
        torch.manual_seed(0)
        loader = module.StatefulDataLoader(TensorDataset(*tiny_data), batch_size=4, shuffle=True)
        trainer = classifier(loader)
        for steps in (2, 7, 5):
            look(trainer)
            trainer.fit(steps=steps)
        return trainer

    expected = fingerprint(train(lambda trainer: None))
    assert differences(train(sweep), expected) == []


def test_an_infinite_stream_gives_what_the_sweep_takes_and_no_more():
    taken = []

    class Endless:
        def __iter__(self):
            for number in range(10**9):
                taken.append(number)
                yield torch.ones(3, 4), torch.tensor([0, 1, 2])

    assert len(sweep(classifier(Endless())).lrs) == 9
    assert taken == list(range(9))


def test_what_can_be_read_only_once_is_refused_before_anything_is_read(tiny_loader):
    batches = iter(list(tiny_loader))
    with pytest.raises(ArgumentError, match="read only once"):
        sweep(classifier(batches))
    assert len(list(batches)) == len(tiny_loader)


def test_a_loader_that_is_shorter_begins_again(tiny_loader):
    notes = Notes()
    trainer = classifier(tiny_loader)
    train_fn = trainer.train_fn

    def counting(model, x, y):
        notes.lines.append(len(x))
        return train_fn(model, x, y)

    trainer.train_fn = counting
    assert len(sweep(trainer, steps=14).lrs) == 14
    assert notes.lines == [4, 4, 4, 4, 4, 1] * 2 + [4, 4]


def test_the_curve_is_that_of_a_loop_written_by_hand(tiny_loader):
    found = classifier(TensorLoader(*tiny_loader.dataset.tensors, batch_size=4)).find_lr(1e-3, 1.0, 11)

    losses, lrs, batches = [], np.geomspace(1e-3, 1.0, 11), [*tiny_loader, *tiny_loader]
    expected = classifier(tiny_loader)
    for lr, (x, y) in zip(lrs, batches, strict=False):
        expected.optimizer.param_groups[0]["lr"] = lr
        loss = nn.functional.cross_entropy(expected.model.train()(x), y)
        expected.optimizer.zero_grad()
        loss.backward()
        expected.optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(found.lrs, lrs)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5)


def test_under_accumulation_a_step_is_a_window_and_its_loss_the_mean_over_its_samples(tiny_data):
    x, y = tiny_data
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train_fn(model, x, y):
        loss = crossentropy_loss(model(x), y)
        optimize(loss, optimizer)
        return loss

    trainer = Trainer(
        model, optimizer, train_fn, TensorLoader(x, y, batch_size=8), accumulate=3, device="cpu", progress=False
    )
    whole = nn.functional.cross_entropy(model(x), y).item()
    found = trainer.find_lr(1e-9, 1e-8, 4)
    assert found.losses == pytest.approx([whole] * 4)


def test_groups_and_optimizers_keep_their_ratios(tiny_loader):
    model = {"A": nn.Linear(4, 3), "B": nn.Linear(4, 3)}
    first = torch.optim.SGD(
        [{"params": [model["A"].weight], "lr": torch.tensor(0.1)}, {"params": [model["A"].bias], "lr": 0.02}]
    )
    second = torch.optim.Adam(model["B"].parameters(), lr=0.5)
    tensor, notes = first.param_groups[0]["lr"], Notes()

    def train_fn(models, x, y):
        loss = crossentropy_loss(models["A"](x) + models["B"](x), y)
        for optimizer in (first, second):
            optimizer.zero_grad()
        loss.backward()
        for optimizer in (first, second):
            optimizer.step()
        notes.lines.append([float(group["lr"]) for one in (first, second) for group in one.param_groups])
        return {"d_loss": loss}

    optimizers = {"A": first, "B": second}
    trainer = Trainer(model, optimizers, train_fn, tiny_loader, device="cpu", progress=False)
    lrs = np.array(sweep(trainer).lrs)
    np.testing.assert_allclose(notes.lines, np.stack([lrs, lrs / 5, lrs * 5], axis=1), rtol=1e-6)
    assert first.param_groups[0]["lr"] is tensor
    assert (tensor.item(), second.param_groups[0]["lr"]) == (pytest.approx(0.1), 0.5)
    notes.lines.clear()
    lrs = sweep(trainer, optimizer="B").lrs
    np.testing.assert_allclose(notes.lines, [[0.1, 0.02, lr] for lr in lrs], rtol=1e-6)


def test_learning_rates_of_zero_are_swept_together(tiny_loader):
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.0)
    notes = Notes()

    def train_fn(model, x, y):
        notes.lines.append([group["lr"] for group in optimizer.param_groups])
        return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

    lrs = sweep(Trainer(model, optimizer, train_fn, tiny_loader, device="cpu", progress=False)).lrs
    assert notes.lines == [[lr, lr] for lr in lrs]
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]


def test_all_is_there_again_and_the_very_same_objects(tiny_loader):
    trainer = classifier(tiny_loader)
    trainer.model.register_buffer("calls", torch.zeros(1), persistent=False)
    freeze(trainer.model[2])
    trainer.fit(steps=2)
    model, optimizer = trainer.model, trainer.optimizer
    for parameter in model[0].parameters():
        parameter.grad = torch.ones_like(parameter)
    model[0].eval()
    train_fn = trainer.train_fn

    def changing(model, x, y):
        model.calls += 1
        model[0].train()
        return train_fn(model, x, y)

    trainer.train_fn = changing
    trainer.state = {"seen": 1}
    trainer.stop("for a rest")
    state, history, means = trainer.state, trainer.history, trainer.batch_metrics
    tensors = [*model.parameters(), *(p.grad for p in model[0].parameters())]
    tensors += [buffer["momentum_buffer"] for buffer in optimizer.state.values()]
    before = [(id(tensor), tensor.data_ptr(), tensor.clone()) for tensor in tensors]

    sweep(trainer)

    after = [*model.parameters(), *(p.grad for p in model[0].parameters())]
    after += [buffer["momentum_buffer"] for buffer in optimizer.state.values()]
    assert [(id(tensor), tensor.data_ptr()) for tensor in after] == [entry[:2] for entry in before]
    assert all(torch.equal(now, then) for now, (_, _, then) in zip(after, before, strict=True))
    assert (model.calls.item(), model[0].training, model[2].training) == (0, False, False)
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, False]
    assert (trainer.state is state, trainer.history is history, trainer.stop_reason) == (True, True, "for a rest")
    assert (trainer.epoch, trainer.epoch_open, trainer.step, trainer.batch_metrics) == (1, True, 2, means)
    assert trainer.optimizer.param_groups[0]["lr"] == 0.05
    assert not optimizer._optimizer_step_pre_hooks


def test_no_callback_runs_and_nothing_is_written(tiny_loader, tmp_path):
    trainer = classifier(tiny_loader)
    calls = []
    logger = CSVLogger(tmp_path / "log.csv")
    trainer.callbacks = [SaveModel(tmp_path / "model.safetensors"), logger]
    for event in ("train_begin", "epoch_begin", "batch_end", "step_end", "record", "train_end"):
        trainer.on(event)(lambda trainer: calls.append(trainer.step))
    sweep(trainer, steps=20)
    assert (calls, list(tmp_path.iterdir()), len(trainer.history)) == ([], [], 0)
    trainer.fit(epochs=1)
    assert trainer.callbacks[1] is logger
    assert calls


def test_a_schedule_supplies_its_hyperparameter_and_the_lr_is_the_sweeps(tiny_loader):
    notes = Notes()
    trainer = classifier(tiny_loader)
    plain = trainer.train_fn

    def train_fn(model, x, y, lambd):
        notes.lines.append((lambd, trainer.optimizer.param_groups[0]["lr"]))
        return plain(model, x, y)

    trainer.train_fn = train_fn
    trainer.callbacks = [LinearDecay("lambd", 4.0, 1.0, 60), LinearDecay("lr", 0.5, 0.1, max_steps=5)]
    lrs = sweep(trainer).lrs
    assert notes.lines == [(4.0, lr) for lr in lrs]
    assert trainer.hyper == {}


def test_a_train_function_may_stop_it(tiny_loader):
    trainer = classifier(tiny_loader)
    train_fn = trainer.train_fn

    def stopping(model, x, y):
        stopping.calls += 1
        if stopping.calls == 3:
            trainer.stop("enough")
        return train_fn(model, x, y)

    stopping.calls = 0
    trainer.train_fn = stopping
    found = sweep(trainer)
    assert (len(found.lrs), found.end, trainer.stop_reason) == (3, "it was stopped", None)


def test_it_stops_where_the_loss_is_not_finite(tiny_loader):
    trainer = classifier(tiny_loader)
    found = trainer.find_lr(1e-2, 1e30, 60)
    assert len(found.lrs) < 60
    assert "diverged" in found.end or "became" in found.end
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


def test_another_metric_may_be_the_loss(tiny_loader):
    found = sweep(classifier(tiny_loader), metric="acc")
    assert found.metric == "acc"
    assert all(0 <= value <= 1 for value in found.losses)


def test_a_metric_that_is_not_there_is_an_error_that_lists_what_is(tiny_loader):
    with pytest.raises(MetricError, match=r"no 'cost'\n  expected: one of loss, acc"):
        sweep(classifier(tiny_loader), metric="cost")
    trainer = classifier(tiny_loader)
    trainer.train_fn = lambda model, x, y: (trainer.optimizer.step(), None)[1]
    with pytest.raises(MetricError, match="return the loss"):
        sweep(trainer)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"start_lr": 0}, "start_lr"),
        ({"end_lr": 1e-9}, "end_lr"),
        ({"steps": 1}, "steps"),
        ({"smoothing": 1.0}, "smoothing"),
        ({"metric": None}, "metric"),
        ({"optimizer": "A"}, "optimizer='A'"),
        ({"optimizer": 1.5}, "optimizer=1.5"),
    ],
)
def test_a_wrong_argument_is_refused(tiny_loader, arguments, named):
    with pytest.raises(ArgumentError, match=named):
        sweep(classifier(tiny_loader), **arguments)


def test_without_an_optimizer_there_is_nothing_to_sweep(tiny_loader):
    trainer = Trainer(nn.Linear(4, 3), None, lambda model, x, y: 1.0, tiny_loader, progress=False)
    with pytest.raises(ArgumentError, match="no optimizer with a learning rate"):
        sweep(trainer)


def test_a_wrong_optimizer_is_found_in_the_first_step(tiny_loader):
    stale = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    trainer = classifier(tiny_loader)
    trainer.train_fn = lambda model, x, y: (stale.step(), crossentropy_loss(model(x), y))[1]
    with pytest.raises(OptimizerError, match="find_lr"):
        sweep(trainer)


def test_an_empty_loader_and_functions_that_do_not_fit_are_errors(tiny_loader):
    with pytest.raises(BatchError):
        sweep(classifier([]))
    trainer = classifier(tiny_loader)
    trainer.hyper = {"lambd": 1.0}
    with pytest.raises(HyperparameterError):
        sweep(trainer)
    trainer = classifier([torch.ones(3, 4)])
    with pytest.raises(FunctionError):
        sweep(trainer)


@pytest.mark.parametrize("inner", [lambda trainer: trainer.find_lr(), lambda trainer: trainer.fit(epochs=1)])
def test_it_takes_place_outside_fits_and_sweeps(tiny_loader, inner):
    trainer = classifier(tiny_loader)
    trainer.on("epoch_begin")(lambda trainer: trainer.find_lr())
    with pytest.raises(ArgumentError, match="find_lr was called inside a fit"):
        trainer.fit(epochs=1)
    trainer.train_fn = lambda model, x, y: inner(trainer)
    with pytest.raises(ArgumentError, match="inside a fit"):
        sweep(trainer)


def test_in_a_terminal_there_is_a_bar_that_goes_away(tiny_data, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    trainer = classifier(DataLoader(TensorDataset(*tiny_data), batch_size=4))
    trainer.training.progress = type(trainer.training.progress)(True)
    monkeypatch.setattr(sys, "stdout", Terminal())
    trainer.find_lr(steps=5)
    assert "find_lr" in sys.stdout.getvalue()
    assert not trainer.training.progress.is_open
