"""What goes wrong in a fit: the error comes out as it was raised, all is cleared up once, and the run can go on."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from marks import slow
from resuming import Killed, Script, Ticker, build, differences, fingerprint, run
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ignition import Trainer, crossentropy_loss, optimize
from ignition.callbacks import Callback, Checkpoint, CosineDecay, TerminateOnNaN
from ignition.callbacks.base import EVENTS
from ignition.errors import ArgumentError, CheckpointError, HyperparameterError, IgnitionWarning, NotFiniteError


@pytest.fixture(autouse=True)
def _without_flushing(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def _no_hang():
    """Ends a test that takes longer than 10 seconds to fail."""

    def hang(number, frame):
        raise TimeoutError("a failure did not come out in 10 seconds")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


class Fault(Exception):
    """What a user's code raises."""


class Counting(Callback):
    """Counts how often a fit is begun and cleared up; raises where it is told to."""

    def __init__(self, fault=None, at=6):
        self.calls, self.fault, self.at = [], fault, at

    def on_train_begin(self, trainer):
        self.calls.append("begin")

    def on_exception(self, trainer):
        self.calls.append(type(trainer.exception).__name__)

    def on_train_end(self, trainer):
        self.calls.append("end")


def faulty(event, at):
    def method(self, trainer):
        if trainer.step >= at:
            raise Fault(event)

    return type("Faulty", (Callback,), {f"on_{event}": method})()


class Loaded(Dataset):
    """Data of which one sample cannot be loaded, or takes its worker with it, from the second time on."""

    def __init__(self, fault):
        self.fault, self.main = fault, os.getpid()

    def __len__(self):
        return 22

    def __getitem__(self, index):
        if index == 15 and self.fault == "error":
            raise Fault("loading")
        if index == 15 and self.fault == "killed" and os.getpid() != self.main:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.ones(4) * index, index % 2


def prepared(folder, *, train=None, evaluate=None, data=None, workers=0, callbacks=()):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def train_fn(model, x, y):
        if train is not None:
            train(trainer)
        loss = crossentropy_loss(model(x), y)
        optimize(loss, optimizer)
        return {"loss": loss}

    def eval_fn(model, x, y):
        if evaluate is not None:
            evaluate(trainer)
        return {"loss": crossentropy_loss(model(x), y)}

    loader = DataLoader(data or Loaded(None), 6, num_workers=workers)
    test = [(torch.ones(3, 4), torch.tensor([0, 1, 1]))]
    trainer = Trainer(model, optimizer, train_fn, loader, eval_fn, test, device="cpu", progress=False)
    trainer.callbacks = [*callbacks, Counting(), Checkpoint(folder, every=1)]
    return trainer


def raising(step):
    def fault(trainer):
        if trainer.step == step:
            raise Fault("here")

    return fault


FAULTS = {
    "train_fn": {"train": raising(6)},
    "eval_fn": {"evaluate": raising(8)},
    "on_step_end": {"callbacks": (faulty("step_end", 6),)},
    "on_batch_begin": {"callbacks": (faulty("batch_begin", 6),)},
    "on_record": {"callbacks": (faulty("record", 8),)},
    "on_epoch_end": {"callbacks": (faulty("epoch_end", 8),)},
    "on_train_end": {"callbacks": (faulty("train_end", 8),)},
    "a worker": {"data": Loaded("error"), "workers": 1},
    "the data": {"data": Loaded("error")},
}


@pytest.mark.fault("an error in a function, callback, loader", "Message 1, Equal 1")
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.slow
def test_an_exception_comes_out_as_it_was_and_the_run_goes_on_without_it(name, tmp_path):
    expected = prepared(tmp_path / "whole")
    expected.fit(epochs=3)
    trainer, handlers = prepared(tmp_path / "a", **FAULTS[name]), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Fault) as caught:
        trainer.fit(epochs=3)
    signal.alarm(0)  # it came out; torch itself takes five seconds to give up a worker
    if name == "a worker":  # torch raises it anew, with the worker's traceback for a message
        assert "in __getitem__" in str(caught.value)
    else:
        assert any(entry.path.name == "test_fitting.py" for entry in caught.traceback[1:])
    assert trainer.callbacks[-2].calls in (["begin", "Fault", "end"], ["begin", "end"])
    assert ("Fault" in trainer.callbacks[-2].calls) == (name != "on_train_end")
    assert signal.getsignal(signal.SIGTERM) is handlers
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ignition-checkpoint")]
    del trainer, caught
    gc.collect()  # workers end with their loader
    again = prepared(tmp_path / "a")  # the lock is free, and the newest checkpoint whole
    again.fit(epochs=3, resume=True)
    ends = {"trained", "optimizer", "model", "history", "place", "generators", "seed"}
    assert not ends.intersection(differences(again, fingerprint(expected)))
    assert again.callbacks[-2].calls == ["begin", "end"]


KILLING = """
import sys
from pathlib import Path
from test_fitting import Loaded, prepared
prepared(Path(sys.argv[1]), data=Loaded("killed"), workers=1).fit(epochs=2)
"""


@pytest.mark.slow
def test_a_killed_worker_is_told_and_the_run_goes_on(tmp_path):
    # In a process of its own: torch raises once more in whatever runs when another child of the process ends.
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", KILLING, str(tmp_path / "a")]
    signal.alarm(60)  # importing torch takes some of it
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "DataLoader worker" in ended.stderr
    expected = prepared(tmp_path / "whole")
    expected.fit(epochs=2)
    again = prepared(tmp_path / "a")
    again.fit(epochs=2, resume=True)
    assert not {"model", "history", "generators"}.intersection(differences(again, fingerprint(expected)))


@pytest.mark.fault("a loss that is NaN", "Message 1")
def test_what_is_not_finite_ends_the_run_before_it_is_saved(tmp_path):
    def spoil(trainer):
        if trainer.step == 5:
            with torch.no_grad():
                trainer.model[0].weight[0, 0] = float("nan")

    with pytest.raises(NotFiniteError, match=r"'loss' is nan in step 6 \(epoch 2\)"):
        prepared(tmp_path / "a", train=spoil, callbacks=[TerminateOnNaN()]).fit(epochs=3)
    expected = prepared(tmp_path / "whole")
    expected.fit(epochs=3)
    again = prepared(tmp_path / "a")
    again.fit(epochs=3, resume=True)
    assert not {"model", "history", "generators"}.intersection(differences(again, fingerprint(expected)))


def test_a_fit_whose_end_failed_is_not_finished(tmp_path):
    with pytest.raises(Fault):
        prepared(tmp_path / "a", callbacks=[faulty("train_end", 8)]).fit(epochs=2)
    assert not list((tmp_path / "a").glob("*-end"))
    again = prepared(tmp_path / "a")
    again.fit(epochs=2, resume=True)
    assert again.callbacks[-2].calls == ["begin", "end"]
    assert list((tmp_path / "a").glob("*-end"))


def test_a_fit_inside_a_fit_is_refused(tmp_path):
    trainer = prepared(tmp_path / "a", train=lambda trainer: trainer.fit(epochs=1))
    with pytest.raises(ArgumentError, match="inside a fit"):
        trainer.fit(epochs=1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_a_signal_the_same_objects_go_on(number, tmp_path):
    script = Script(ema=True, schedule="step", noise=("torch",))
    expected = fingerprint(run(script, tmp_path / "whole"))
    for at in (3, 6, 9, 12):
        trainer = build(script, tmp_path / str(at), Ticker(at, number))
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
            trainer.fit(epochs=3, resume=True)
        assert len(trainer.history) == trainer.history.epochs
        trainer.fit(epochs=3, resume=True)
        assert not differences(trainer, expected), at


def test_a_fit_that_never_begins_leaves_everything_as_it_was(tmp_path):
    trainer = build(Script(), tmp_path / "a")
    trainer.hyper = {"unknown": 1}
    trainer.train_fn = lambda model, x, y: None
    before = fingerprint(trainer)
    with pytest.raises(HyperparameterError):
        trainer.fit(epochs=1)
    assert not differences(trainer, {name: value for name, value in before.items() if name != "seed"})
    assert trainer.training.fit["number"] == 0
    assert not list((tmp_path / "a").glob("fit-*"))


def test_a_schedule_that_cannot_be_bound_leaves_everything_as_it_was(tmp_path):
    trainer = build(Script(), tmp_path / "a")
    trainer.callbacks = [CosineDecay("nothing", 1.0, 0.1, 3), *trainer.callbacks]
    trainer.train_fn = lambda model, x, y: None
    with pytest.raises(HyperparameterError):
        trainer.fit(epochs=1)
    trainer.callbacks = trainer.callbacks[1:]
    assert trainer.hyper == {}


def test_a_broken_checkpoint_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(Killed):
        run(Script(), tmp_path / "a", Ticker(7))
    trainer = build(Script(norm=False), tmp_path / "a", ticker := Ticker())
    with pytest.raises(CheckpointError):
        trainer.fit(epochs=3, resume=True)
    assert ticker.count == 0


# Saving by hand inside a fit


class SavingIn(Callback):
    """Saves in one call of one event."""

    def __init__(self, event, folder, at):
        self.folder, self.at, self.calls, self.warned = folder, at, 0, None
        setattr(self, f"on_{event}", self.save)

    def save(self, trainer):
        self.calls += 1
        if self.calls == self.at:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                trainer.save(self.folder)
            self.warned = bool(caught)


# Of the calls of an event: whether some are between two steps, and whether some are not.
BETWEEN = {
    event: (True, False) for event in ("train_begin", "epoch_begin", "eval_begin", "record", "epoch_end", "train_end")
}
BETWEEN |= {
    "batch_begin": (True, True),
    "step_end": (True, True),
    "batch_end": (False, True),
    "eval_end": (False, True),
}


@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("first", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("event", [name if name in ("record", "batch_end") else slow(name) for name in EVENTS])
def test_what_is_saved_by_hand_in_a_fit_is_exact_or_a_warning_comes(event, first, accumulate, tmp_path):
    script = Script(schedule="step", ema=True, stopping=True, accumulate=accumulate, seed=3)
    exact, warned = [], []
    for at in range(1, 20):
        whole, saving = build(script, None), SavingIn(event, tmp_path / str(at), at)
        whole.callbacks.insert(0 if first else len(whole.callbacks), saving)
        whole.fit(epochs=2, eval_every=2)
        if saving.calls < at:
            break
        again = build(script, None)
        again.callbacks.append(Callback())  # as many as before
        again.load(tmp_path / str(at))
        left = 2 - again.training.epochs_ended
        if left:
            again.fit(epochs=left, eval_every=2)
        whole.callbacks.remove(saving)
        again.callbacks.pop()
        if saving.warned:
            warned.append(at)
        else:
            exact.append(at)
            assert not differences(again, fingerprint(whole)), at
    if not first:
        expected = (True, False) if (event, accumulate) == ("batch_begin", 1) else BETWEEN.get(event, (False, False))
        assert (bool(exact), bool(warned)) == expected


class CountingEvaluations(Callback):
    """Has a memory that changes as an evaluation begins."""

    def __init__(self):
        self.count = 0

    def on_eval_begin(self, trainer):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


@pytest.mark.parametrize("first", [True, False])
def test_as_an_evaluation_begins_what_was_called_before_the_save_comes_again(first, tmp_path):
    whole, counting, saving = build(Script(), None), CountingEvaluations(), SavingIn("eval_begin", tmp_path / "a", 1)
    whole.callbacks = [saving, counting] if first else [counting, saving]
    whole.fit(epochs=1)
    again = build(Script(), None)
    again.callbacks = [CountingEvaluations()]
    again.load(tmp_path / "a")
    again.fit(epochs=1)
    assert (again.callbacks[0].count == counting.count) is first
    assert saving.warned is not first


def test_what_is_saved_by_hand_inside_a_function_comes_with_a_warning(tmp_path):
    trainer = build(Script(), None)
    train_fn = trainer.train_fn

    def saving(model, x, y):
        trainer.save(tmp_path / "a")
        return train_fn(model, x, y)

    trainer.train_fn = saving
    with pytest.warns(IgnitionWarning, match="a function of the loop, in the middle of a step"):
        trainer.fit(steps=1)


def test_what_is_saved_by_hand_after_an_error_comes_with_a_warning(tmp_path):
    trainer = build(Script(), None, Ticker(at=3))
    trainer.on("exception")(lambda trainer: trainer.save(tmp_path / "a"))
    with pytest.raises(Killed), pytest.warns(IgnitionWarning, match="on_exception, after an error inside a step"):
        trainer.fit(epochs=1)
