"""Checkpoint: when it saves, what it keeps, what goes on beside the training, and what a signal does."""

from __future__ import annotations

import copy
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from marks import slow
from resuming import Script, build, differences, fingerprint
from torch import nn

from ignition import Trainer, checkpoint, crossentropy_loss, evaluate_on_batch, fit_on_batch
from ignition.background import Writer
from ignition.callbacks import Callback, Checkpoint, SaveModel
from ignition.errors import ArgumentError, CheckpointError, IgnitionWarning, MetricError

SCRIPT = Script(noise=("torch", "numpy", "python"), schedule="step")  # 3 epochs of 4 steps


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("fit-*"))


def steps(folder: Path) -> list[int]:
    return [int(name.split("-")[3]) for name in names(folder) if not name.endswith("-end")]


def state(path: Path | None) -> Any:
    assert path is not None
    return json.loads((path / "state.json").read_text())["state"]


def make(folder: Path, losses: list[float] | None = None, **options: Any) -> tuple[Trainer[Any], Checkpoint]:
    """A training of two steps an epoch, whose val_loss is given for each evaluation."""
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.randn(4, 2), torch.tensor([0, 1, 0, 1])) for _ in range(2)]
    values = iter(losses or range(99, 0, -1))
    trainer = Trainer(
        model, optimizer, lambda model, x, y: fit_on_batch(model, x, y, crossentropy_loss, optimizer), batches,
        lambda model, x, y: {"loss": float(next(values))}, batches[:1], device="cpu", progress=False,
    )  # fmt: skip
    saver = Checkpoint(folder, **options)
    trainer.callbacks = [saver]
    return trainer, saver


# When


def test_an_epoch_a_number_of_steps_and_a_time_are_intervals(tmp_path):
    trainer, _ = make(tmp_path / "epochs", keep=99)
    trainer.fit(epochs=3)
    assert names(tmp_path / "epochs") == [
        "fit-001-step-000000002", "fit-001-step-000000004", "fit-001-step-000000006", "fit-001-step-000000006-end"
    ]  # fmt: skip
    trainer, _ = make(tmp_path / "steps", every=3, keep=99)
    trainer.fit(epochs=4)
    assert steps(tmp_path / "steps") == [3, 6]
    trainer, _ = make(tmp_path / "time", every="1s", keep=99)
    trainer.fit(epochs=2)
    assert steps(tmp_path / "time") == []


def test_a_time_is_looked_at_after_each_step(tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 4))  # each look at the clock takes four seconds
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    trainer, _ = make(tmp_path, every="1s", keep=99)
    trainer.fit(steps=5, eval_every=2)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]
    assert trainer.history["step"] == [2, 4]


@pytest.mark.parametrize("every", [0, -1, 1.5, True, None, "epochs", "", "0s", "-1min"])
def test_every_that_is_no_interval_is_an_error(every, tmp_path):
    with pytest.raises(ArgumentError, match="every"):
        Checkpoint(tmp_path, every=every)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"folder": ""}, "folder"),
        ({"folder": 3}, "folder"),
        ({"folder": b"runs"}, "folder"),
        ({"keep": 0}, "keep"),
        ({"keep": True}, "keep"),
        ({"best": 3}, "metric"),
        ({"best": "val_energy"}, "mode"),
        ({"best": "val_loss", "mode": "less"}, "mode"),
        ({"mode": "min"}, "without best"),
    ],
)
def test_arguments_that_make_no_sense_are_errors(arguments, words, tmp_path):
    with pytest.raises(ArgumentError, match=words):
        Checkpoint(**{"folder": tmp_path, **arguments})


def test_two_checkpoints_and_resume_without_one_are_errors_before_anything_is_written(tmp_path):
    trainer, saver = make(tmp_path / "a")
    trainer.callbacks = [saver, Checkpoint(tmp_path / "b")]
    with pytest.raises(ArgumentError, match="2 Checkpoint"):
        trainer.fit(epochs=1)
    trainer.callbacks = [SaveModel(tmp_path / "x.pt")]
    with pytest.raises(ArgumentError, match="no Checkpoint"):
        trainer.fit(epochs=1, resume=True)
    trainer.callbacks = [saver]
    with pytest.raises(ArgumentError, match="resume"):
        trainer.fit(epochs=1, resume="yes")
    assert list(tmp_path.iterdir()) == []
    trainer.fit(epochs=1)


def test_a_folder_in_use_offers_both_ways_out(tmp_path):
    make(tmp_path)[0].fit(epochs=1)
    trainer, _ = make(tmp_path)
    with pytest.raises(CheckpointError, match=r"resume=True\), or begin anew in another folder"):
        trainer.fit(epochs=2)
    assert trainer.step == 0
    trainer.fit(epochs=2, resume=True)
    assert trainer.step == 4


def test_a_folder_that_is_a_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("mine")
    trainer, _ = make(tmp_path / "file")
    with pytest.raises(CheckpointError, match="file cannot be used for checkpoints"):
        trainer.fit(epochs=1)
    assert (tmp_path / "file").read_text() == "mine"


# What is kept


def test_the_newest_are_kept_and_the_best_and_the_end_of_each_fit(tmp_path):
    trainer, saver = make(tmp_path, [5, 1, 4, 3, 6, 7, 8], keep=2, best="val_loss")
    trainer.fit(epochs=5)
    trainer.fit(epochs=2)
    assert names(tmp_path) == [
        "fit-001-step-000000004",  # the best
        "fit-001-step-000000010-end",
        "fit-002-step-000000014",
        "fit-002-step-000000014-end",
    ]
    assert saver.best_path == tmp_path / "fit-001-step-000000004"
    assert saver.best_value == 1
    assert saver.last_path == tmp_path / "fit-002-step-000000014-end"


def test_the_best_one_holds_its_metric_and_value_and_its_own_record(tmp_path):
    trainer, saver = make(tmp_path, [5, 1, 4], keep=1, best="val_loss")
    trainer.fit(epochs=3)
    best = state(saver.best_path)
    assert best["best"] == {"metric": "val_loss", "value": 1.0}
    assert best["position"]["step"] == 4
    trainer.load(saver.best_path)
    assert trainer.history["val_loss"] == [5, 1]  # evaluated, recorded, chosen, saved
    assert state(saver.last_path)["best"] is None


def test_the_best_is_saved_between_its_turns_too_and_at_zero(tmp_path):
    trainer, saver = make(tmp_path, [0.5, 0.0, float("nan"), 0.1], every=100, best="val_loss")
    trainer.fit(epochs=4)
    assert steps(tmp_path) == [2, 4]
    assert saver.best_value == 0


def test_the_best_so_far_survives_a_resume(tmp_path):
    make(tmp_path, [5, 1, 4], keep=1, best="val_loss")[0].fit(epochs=3)
    trainer, saver = make(tmp_path, [2, 3], keep=1, best="val_loss")
    trainer.fit(epochs=5, resume=True)
    assert saver.best_value == 1
    assert saver.best_path == tmp_path / "fit-001-step-000000004"
    assert saver.best_path.exists()
    assert len(trainer.history) == 5


@pytest.mark.parametrize(("keep", "best"), [(9, 5), (3, 4)])  # of those that are still there
def test_with_another_metric_the_history_tells_which_checkpoint_is_the_best(keep, best, tmp_path):
    make(tmp_path, [5, 1, 4], best="val_loss", keep=keep)[0].fit(epochs=3)
    trainer, saver = make(tmp_path, [2, 3], best="val_loss", mode="max", keep=2)
    with pytest.warns(IgnitionWarning, match="Checkpoint, mode: 'max' in the script, which counts, 'min' in the"):
        trainer.fit(epochs=5, resume=True)
    assert saver.best_value == best
    assert saver.best_path is not None
    assert state(saver.best_path)["history"]["records"][-1]["val_loss"] == best


def test_a_checkpoint_that_is_best_by_another_metric_too_stays(tmp_path):
    make(tmp_path, [5, 1, 4], keep=1, best="val_loss")[0].fit(epochs=3)
    trainer, saver = make(tmp_path, [3, 2], keep=1, best="train_loss")
    with pytest.warns(IgnitionWarning, match="Checkpoint, best: 'train_loss' in the script"):
        trainer.fit(epochs=5, resume=True)
    kept = {path: state(path)["history"]["records"][-1]["train_loss"] for path in tmp_path.glob("fit-*")}
    assert saver.best_value == min(kept.values())
    assert kept[saver.best_path] == saver.best_value


def test_a_metric_that_nobody_returns_is_an_error_that_lists_those_there_are(tmp_path):
    trainer, _ = make(tmp_path, best="val_acc")
    with pytest.raises(MetricError, match="val_loss"):
        trainer.fit(epochs=1)


def test_the_order_is_by_fit_and_step_whatever_the_times_of_the_files(tmp_path):
    import os

    trainer, _ = make(tmp_path, keep=99)
    trainer.fit(epochs=3)
    for age, name in enumerate(names(tmp_path)):
        os.utime(tmp_path / name, (10**9 - age, 10**9 - age))
    again, _saver = make(tmp_path, keep=2)
    again.fit(epochs=4, resume=True)
    assert again.step == 8
    assert names(tmp_path) == ["fit-001-step-000000008", "fit-001-step-000000008-end"]


# Beside the training


class Gate:
    """Holds every write until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.called, self.opened = threading.Event(), threading.Event()
        self.running, self.most, self.calls = 0, 0, 0
        self.write = checkpoint.write
        monkeypatch.setattr(checkpoint, "write", self)

    def __call__(self, path: Path, content: Any) -> None:
        self.calls += 1
        self.called.set()
        self.running += 1
        self.most = max(self.most, self.running)
        self.opened.wait(10)
        self.write(path, content)
        self.running -= 1


def test_training_goes_on_while_a_checkpoint_is_written_of_the_weights_as_they_were(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    trainer, saver = make(tmp_path, every=2, keep=99)
    weights = []

    @trainer.on("step_end")
    def look(trainer):
        weights.append(trainer.model.weight.detach().clone())
        if trainer.step == 4:  # two steps after the save began
            assert gate.called.wait(10)
            assert gate.calls == 1
            assert saver.last_path is None
            gate.opened.set()

    trainer.fit(epochs=2)
    written = checkpoint.read(tmp_path / "fit-001-step-000000002")
    assert torch.equal(written.tensors["model"]["weight"], weights[1])
    assert not torch.equal(weights[3], weights[1])


def test_one_is_written_at_a_time(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    gate.opened.set()
    make(tmp_path, every=1)[0].fit(epochs=4)
    assert gate.calls == 9
    assert gate.most == 1


@pytest.mark.parametrize("every", [1, "epoch", "1h"])
@pytest.mark.slow
def test_what_fails_beside_the_training_is_raised_at_the_next_step_with_its_cause(every, tmp_path, monkeypatch):
    failed = threading.Event()

    def refuse(path: Path, content: Any) -> None:
        failed.set()
        raise OSError(28, "No space left on device")

    trainer, saver = make(tmp_path, every=every, best="val_loss")
    trainer.train_loader = list(trainer.train_loader) * 10
    monkeypatch.setattr(checkpoint, "write", refuse)

    @trainer.on("step_end")
    def wait(trainer):
        if trainer.step > 20 or (every == 1 and trainer.step > 1):
            assert failed.wait(10)
            time.sleep(0.02)

    with pytest.raises(CheckpointError, match="No space left") as raised:
        trainer.fit(epochs=3)
    assert isinstance(raised.value.__cause__, OSError)
    assert trainer.step == {1: 2, "epoch": 21, "1h": 21}[every]
    assert saver.best_value is None
    monkeypatch.undo()
    trainer.fit(epochs=1)  # with room on the disk again
    assert saver.last_path == tmp_path / names(tmp_path)[-1]


def test_a_failure_of_the_very_last_save_is_raised_by_fit(tmp_path, monkeypatch):
    trainer, _saver = make(tmp_path)
    real = checkpoint.write

    def refuse(path: Path, content: Any) -> None:
        if path.name.endswith("-end"):
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(checkpoint, "write", refuse)
    with pytest.raises(CheckpointError, match="No space left"):
        trainer.fit(epochs=2)
    assert names(tmp_path) == ["fit-001-step-000000002", "fit-001-step-000000004"]
    monkeypatch.undo()
    again, _ = make(tmp_path)
    again.fit(epochs=2, resume=True)
    assert again.step == 4
    assert names(tmp_path)[-1] == "fit-001-step-000000004-end"


def test_an_error_that_a_signal_raises_as_the_thread_begins_comes_out_as_it_is(monkeypatch):
    start = threading.Thread.start

    def struck(thread: threading.Thread) -> None:
        start(thread)
        try:
            raise RuntimeError("DataLoader worker is killed")
        except RuntimeError:
            raise KeyError(thread)  # noqa: B904  (as Python does, which clears up what is clear already)

    monkeypatch.setattr(threading.Thread, "start", struck)
    writer, written = Writer(), []
    with pytest.raises(RuntimeError, match="is killed"):
        writer.start(lambda: written.append(1), lambda: None)
    writer.finish()
    assert written == [1]
    writer.free()


def test_a_state_that_cannot_be_saved_is_an_error_and_the_best_stays_the_one_on_the_disk(tmp_path):
    trainer, saver = make(tmp_path, [2, 1], best="val_loss")

    @trainer.on("epoch_begin")
    def spoil(trainer):
        if trainer.epoch == 2:
            trainer.state["file"] = object()

    with pytest.raises(CheckpointError, match="file"):
        trainer.fit(epochs=2)
    assert saver.best_value == 2
    assert saver.best_path is not None
    assert saver.best_path.exists()


# Signals


def interrupted(folder: Path, number: int, place: str, at: int) -> Trainer[Any]:
    """A run that a signal ends, at a call of the train or the eval function."""
    trainer = build(SCRIPT.change(every="epoch"), folder)
    calls = 0
    name = f"{place}_fn"
    function = getattr(trainer, name)

    def signalling(model, x, y):
        nonlocal calls
        calls += 1
        if calls == at:
            signal.raise_signal(number)
        return function(model, x, y)

    setattr(trainer, name, signalling)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        trainer.fit(epochs=3, resume=True)
    setattr(trainer, name, function)
    return trainer


@pytest.mark.parametrize("place", ["train", "eval"])
@pytest.mark.parametrize("at", [slow(1), slow(2), slow(3), 4, slow(5), slow(6)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, slow(signal.SIGUSR1)])
def test_a_signal_ends_the_fit_where_both_a_new_process_and_this_one_go_on_exactly(number, at, place, tmp_path):
    whole = build(SCRIPT.change(every="epoch"), tmp_path / "whole")
    whole.fit(epochs=3)
    expected = fingerprint(whole)

    before = signal.getsignal(number)
    trainer = interrupted(tmp_path / "stopped", number, place, at)
    assert signal.getsignal(number) is before
    assert trainer.step == (at if place == "train" else 4 * -(-at // 2))
    assert len(trainer.history) <= trainer.epoch
    assert copy.deepcopy(trainer.model).eval()(torch.zeros(1, 4)).isfinite().all()  # usable at once

    trainer.fit(epochs=3, resume=True)  # as when a notebook's cell is run again
    assert differences(trainer, expected) == []


@pytest.mark.slow
@pytest.mark.parametrize("place", ["train", "eval"])
def test_a_new_process_goes_on_exactly_after_a_signal(place, tmp_path):
    whole = build(SCRIPT.change(every="epoch"), tmp_path / "whole")
    whole.fit(epochs=3)
    for at in range(1, 7):
        folder = tmp_path / str(at)
        stopped = interrupted(folder, signal.SIGTERM, place, at)
        assert names(folder)[-1] == f"fit-001-step-{stopped.step:09d}"
        again = build(SCRIPT.change(every="epoch"), folder)
        again.fit(epochs=3, resume=True)
        assert differences(again, fingerprint(whole)) == []


def test_after_ctrl_c_a_plain_fit_trains_as_many_epochs_more(tmp_path):
    trainer = interrupted(tmp_path, signal.SIGINT, "train", 6)
    trainer.fit(epochs=1)
    assert (trainer.epoch, trainer.step) == (2, 8)
    trainer.fit(epochs=1)
    assert (trainer.epoch, trainer.step) == (3, 12)


def test_the_callbacks_see_the_end_once_and_what_ended_it(tmp_path):
    class Ends(Callback):
        def __init__(self):
            self.seen = []

        def on_exception(self, trainer):
            self.seen.append(type(trainer.exception).__name__)

        def on_train_end(self, trainer):
            self.seen.append("end")

    trainer, saver = make(tmp_path)
    ends = Ends()
    trainer.callbacks = [saver, ends]
    trainer.on("step_end")(lambda trainer: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit) as raised:
        trainer.fit(epochs=3)
    assert raised.value.code == 143
    assert ends.seen == ["SystemExit", "end"]
    assert names(tmp_path) == ["fit-001-step-000000001"]


def test_a_second_signal_gives_the_epoch_up_and_the_next_fit_begins_it_anew(tmp_path):
    trainer, _ = make(tmp_path)
    strikes = [3]

    @trainer.on("batch_begin")
    def strike(trainer):
        if trainer.step in strikes:
            strikes.clear()
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(epochs=3)
    assert trainer.step == 3
    assert not trainer.epoch_open
    trainer.fit(epochs=1)
    assert trainer.step == 5


def test_a_signal_in_the_middle_of_a_save_is_heeded_after_it(tmp_path, monkeypatch):
    real, capture = checkpoint.write, []

    def write(path: Path, content: Any) -> None:
        if not capture:
            capture.append(path)
            signal.raise_signal(signal.SIGTERM)
        real(path, content)

    monkeypatch.setattr(checkpoint, "write", write)
    trainer, _ = make(tmp_path, every=1)
    with pytest.raises(SystemExit):
        trainer.fit(epochs=3)
    assert names(tmp_path)[-1] == f"fit-001-step-{trainer.step:09d}"
    assert trainer.step <= 3


def test_outside_the_main_thread_it_trains_and_leaves_the_signals_alone(tmp_path):
    trainer, _ = make(tmp_path)
    before, during = signal.getsignal(signal.SIGTERM), []
    trainer.on("step_end")(lambda trainer: during.append(signal.getsignal(signal.SIGTERM)))
    thread = threading.Thread(target=trainer.fit, args=(2,))
    thread.start()
    thread.join(10)
    assert trainer.step == 4
    assert set(during) == {before}
    assert names(tmp_path)[-1].endswith("-end")


# Used again


def test_a_checkpoint_of_two_trainers_takes_each_for_a_training_of_its_own(tmp_path):
    trainer, saver = make(tmp_path, [1], best="val_loss")
    trainer.fit(epochs=1)
    other, _ = make(tmp_path, [5, 6], best="val_loss")
    other.callbacks = [saver]
    with pytest.raises(CheckpointError, match="earlier run"):
        other.fit(epochs=1)
    other.fit(epochs=2, resume=True)
    assert other.step == 4
    assert saver.best_value == 1
    for path in tmp_path.glob("fit-*"):
        checkpoint.remove(path)
    third, _ = make(tmp_path, [7], best="val_loss")
    third.callbacks = [saver]
    third.fit(epochs=1)
    assert saver.best_value == 7


def test_a_copy_is_a_checkpoint_of_its_own(tmp_path):
    _, saver = make(tmp_path / "a", every="1h", best="val_loss")
    assert copy.copy(saver).on_step_end.__self__ is not saver
    copied = copy.deepcopy(saver)
    copied.folder = tmp_path / "b"
    trainer, _ = make(tmp_path / "c")
    trainer.callbacks = [copied]
    trainer.fit(epochs=1)
    assert repr(copied) == repr(saver).replace("/a'", "/b'")
    assert saver.last_path is None
    assert names(tmp_path / "b") == ["fit-001-step-000000002", "fit-001-step-000000002-end"]


def test_a_fit_that_fails_before_its_first_step_can_be_called_once_more(tmp_path):
    make(tmp_path)[0].fit(epochs=2)
    trainer, _ = make(tmp_path)
    broken = []

    class Refuse(Callback):
        def prepare(self, trainer):
            if not broken:
                broken.append(True)
                raise ZeroDivisionError

    trainer.callbacks = [*trainer.callbacks, Refuse()]
    with pytest.raises(ZeroDivisionError):
        trainer.fit(epochs=3, resume=True)
    trainer.fit(epochs=3, resume=True)
    assert trainer.step == 6  # and not three epochs more


def test_checkpoints_of_two_fits_at_one_step_are_two(tmp_path):
    trainer, _ = make(tmp_path, keep=99)
    trainer.fit(steps=1)
    trainer.fit(steps=1)
    again, _ = make(tmp_path, keep=99)
    again.fit(steps=1, resume=True)
    assert again.step == 1
    again.fit(steps=1, resume=True)
    assert again.step == 2
    assert names(tmp_path) == ["fit-001-step-000000001-end", "fit-002-step-000000002", "fit-002-step-000000002-end"]


def test_a_broken_one_is_passed_over_with_a_warning_and_another_release_is_an_error(tmp_path, monkeypatch):
    make(tmp_path, keep=99)[0].fit(epochs=2)
    newest = tmp_path / names(tmp_path)[-1]
    (newest / "model.safetensors").write_bytes(b"")
    trainer, _ = make(tmp_path, keep=99)
    with pytest.warns(IgnitionWarning, match="broken"):
        trainer.fit(epochs=3, resume=True)
    assert trainer.step == 6
    assert (tmp_path / f"broken-{newest.name}").exists()

    newest = tmp_path / names(tmp_path)[-1]
    monkeypatch.setattr(checkpoint, "VERSION", 99)  # a later release, which reads another format
    trainer, _ = make(tmp_path, keep=99)
    with pytest.raises(CheckpointError, match="format version 1"):
        trainer.fit(epochs=3, resume=True)
    assert newest.exists()


def test_an_evaluation_that_is_paused_for_a_checkpoint_is_not_cut_short(tmp_path):
    trainer, _ = make(tmp_path, every=1)
    trainer.eval_fn = lambda model, x, y: trainer.training.pause() or evaluate_on_batch(model, x, y)
    trainer.test_loader = list(trainer.train_loader) * 3
    trainer.fit(epochs=2)
    assert len(trainer.history) == 2
    assert trainer.step == 4


def add_group(trainer):
    trainer.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.0})


def add_batch(trainer):
    trainer.train_loader.append(trainer.train_loader[0])


@pytest.mark.parametrize(("grow", "what"), [(add_group, "the parameter groups"), (add_batch, "the size of the data")])
@pytest.mark.parametrize("event", ["train_begin", "epoch_begin"])
def test_what_grows_inside_a_fit_is_warned_of_once_and_cannot_be_loaded(grow, what, event, tmp_path):
    trainer, _ = make(tmp_path, every=1)
    trainer.on(event)(lambda trainer: grow(trainer) if trainer.epoch == (event == "epoch_begin") else None)
    with pytest.warns(IgnitionWarning, match=f"{what}.* changed inside the fit.*between two fits") as caught:
        trainer.fit(epochs=3)
    assert len(caught) == 1
    again, _ = make(tmp_path, every=1)
    with pytest.raises(CheckpointError, match=r"groups of|train_loader of"):
        again.fit(epochs=3, resume=True)


@pytest.mark.parametrize("grow", [add_group, add_batch])
def test_what_grows_between_two_fits_is_not_warned_of(grow, tmp_path):
    for epochs in (2, 4):  # the second time the last fit goes on
        trainer, _ = make(tmp_path, every=1)
        trainer.fit(epochs=2, resume=True)
        grow(trainer)
        trainer.fit(epochs=epochs, resume=True)
    assert trainer.epoch == 6


def test_a_fit_that_is_left_while_its_checkpoint_is_written_keeps_the_folder_until_it_is(tmp_path, monkeypatch):
    begun, go_on, finish, wait = threading.Event(), threading.Event(), checkpoint.finish, Writer.finish

    def slow_finish(path, content):
        begun.set()
        go_on.wait(30)
        finish(path, content)

    def interrupted(writer):
        if writer._done is not None:
            raise KeyboardInterrupt
        wait(writer)

    monkeypatch.setattr(checkpoint, "finish", slow_finish)
    monkeypatch.setattr(Writer, "finish", interrupted)
    trainer, saver = make(tmp_path, every=2)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(epochs=1)
    monkeypatch.setattr(Writer, "finish", wait)
    other, _ = make(tmp_path)
    with pytest.raises(CheckpointError, match="is being written by another fit of this process"):
        other.fit(epochs=1, resume=True)
    assert begun.wait(30)
    assert [path.name for path in tmp_path.glob(".*")] != []  # what is being written is still there
    go_on.set()
    saver._writer.finish()
    for thread in threading.enumerate():
        if thread.name.startswith("ignition-checkpoint"):
            thread.join(30)
    other.fit(epochs=1, resume=True)
    assert names(tmp_path)[0] == "fit-001-step-000000002"
    assert (tmp_path / "fit-001-step-000000002" / "state.json").exists()


def test_a_number_that_is_too_long_to_be_written_is_told_as_that(tmp_path):
    trainer, _ = make(tmp_path)
    trainer.state["many"] = 10**5000
    with pytest.raises(CheckpointError, match=r"(?s)whole number that cannot be written.*at most 4300 digits"):
        trainer.fit(epochs=1)
    assert names(tmp_path) == []
    with pytest.raises(CheckpointError, match="whole number that cannot be written"):
        trainer.save(tmp_path / "by-hand")
    assert not (tmp_path / "by-hand").exists()
