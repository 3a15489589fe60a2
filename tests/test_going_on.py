"""Where a fit goes on in a process that lives on: after an error, with a new Checkpoint, after `load`."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torchmetrics
from marks import slow
from resuming import Script, build, differences, fingerprint

from ignition.callbacks import EMA, Callback, Checkpoint
from ignition.errors import CheckpointError, IgnitionWarning

SCRIPT = Script(noise=("torch", "numpy", "python"), schedule="step", ema=True, stopping=True, every=2, epochs=3)


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, str]:
    whole = build(SCRIPT, tmp_path / "whole")
    whole.fit(epochs=3)
    return fingerprint(whole)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("fit-*"))


class Strike(Callback):
    """Raises once, at the given call of an event."""

    def __init__(self, event: str, at: int, error: type[BaseException] = ZeroDivisionError) -> None:
        self.left, self.error = at, error
        setattr(self, f"on_{event}", self.strike)

    def strike(self, trainer: Any) -> None:
        self.left -= 1
        if not self.left:
            raise self.error


# After an error


@pytest.mark.fault("an error, and fit again in the same process", "Equal 1")
@pytest.mark.parametrize("at", [slow(3), 6, slow(10)])
@pytest.mark.parametrize("place", [slow("batch_begin"), "step_end", slow("eval_begin"), "record"])
def test_after_an_error_the_fit_goes_on_from_the_folder_to_the_same_bits(place, at, tmp_path, expected):
    trainer = build(SCRIPT, tmp_path / "a")
    at = at if place in ("batch_begin", "step_end") else at // 3
    trainer.callbacks = [*trainer.callbacks, Strike(place, at)]
    with pytest.raises(ZeroDivisionError):
        trainer.fit(epochs=3, resume=True)
    trainer.callbacks = trainer.callbacks[:-1]
    trainer.fit(epochs=3, resume=True)
    assert differences(trainer, expected) == []


def test_a_step_that_was_left_half_way_is_undone(tmp_path, expected):
    trainer = build(SCRIPT, tmp_path / "a")
    function, calls = trainer.train_fn, []

    def breaking(model, x, y):
        calls.append(1)
        if len(calls) == 7:
            for parameter in model.parameters():
                parameter.data.add_(1)
                parameter.grad.fill_(9)
            raise ZeroDivisionError
        return function(model, x, y)

    trainer.train_fn = breaking
    with pytest.raises(ZeroDivisionError):
        trainer.fit(epochs=3, resume=True)
    trainer.fit(epochs=3, resume=True)
    assert differences(trainer, expected) == []


def test_after_a_second_ctrl_c_the_fit_goes_on_from_the_folder(tmp_path, expected):
    trainer = build(SCRIPT, tmp_path / "a")
    strikes = [5]

    @trainer.on("batch_begin")
    def strike(trainer):
        if trainer.step in strikes:
            strikes.clear()
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(epochs=3, resume=True)
    trainer.fit(epochs=3, resume=True)
    assert differences(trainer, expected) == []


def test_an_error_before_the_first_checkpoint_leaves_the_memory_alone_and_says_so(tmp_path):
    trainer = build(SCRIPT.change(every="epoch"), tmp_path / "a")
    strike = Strike("batch_begin", 3)
    trainer.callbacks = [*trainer.callbacks, strike]
    with pytest.raises(ZeroDivisionError):
        trainer.fit(epochs=2, resume=True)
    with pytest.warns(IgnitionWarning, match="no checkpoint of fit 1, so it goes on from what is in memory"):
        trainer.fit(epochs=2, resume=True)
    assert (trainer.epoch, trainer.step) == (2, 2 + 8)
    assert names(tmp_path / "a")[-1] == "fit-001-step-000000010-end"


def test_what_changed_in_memory_after_ctrl_c_counts(tmp_path):
    trainer = build(Script(every="epoch"), tmp_path / "a")
    trainer.callbacks = [*trainer.callbacks, Strike("step_end", 99)]
    trainer.on("step_end")(lambda trainer: trainer.step == 6 and signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(epochs=3, resume=True)
    trainer.optimizer.param_groups[0]["lr"] = 0.125
    trainer.fit(epochs=3, resume=True)
    assert trainer.history["lr"] == [0.02, 0.125, 0.125]
    assert trainer.step == 12


def test_where_another_process_has_gone_on_after_ctrl_c_its_checkpoints_count(tmp_path, expected):
    trainer = build(SCRIPT, tmp_path / "a")
    trainer.on("step_end")(lambda trainer: trainer.step == 6 and signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(epochs=3, resume=True)
    build(SCRIPT, tmp_path / "a").fit(epochs=3, resume=True)
    trainer.fit(epochs=3, resume=True)
    assert differences(trainer, expected) == []


@pytest.mark.parametrize("every", [slow(1), slow(2), "epoch"])
def test_where_a_save_fails_the_fit_goes_on_from_the_step_before_it(every, tmp_path, monkeypatch, expected):
    from ignition import checkpoint

    trainer, write = build(SCRIPT.change(every=every), tmp_path / "a"), checkpoint.write

    def refuse(path, content):
        if path.name < "fit-001-step-000000005":  # the thread may be that late
            return write(path, content)
        shutil.rmtree(tmp_path / "a", ignore_errors=True)  # with all that was there
        raise OSError(28, "No space left on device")

    trainer.on("step_end")(lambda trainer: trainer.step == 5 and monkeypatch.setattr(checkpoint, "write", refuse))
    with pytest.raises(CheckpointError, match="No space left"):
        trainer.fit(epochs=3, resume=True)
    assert trainer.step >= 6
    monkeypatch.undo()
    trainer.fit(epochs=3, resume=True)
    assert differences(trainer, expected) == []


def test_a_fit_whose_end_could_not_be_written_is_not_finished(tmp_path, monkeypatch):
    from ignition import checkpoint

    real = checkpoint.write

    def refuse(path, content):
        if path.name.endswith("-end"):
            raise OSError(28, "No space left on device")
        real(path, content)

    trainer = build(Script(every="epoch"), tmp_path / "a")
    monkeypatch.setattr(checkpoint, "write", refuse)
    with pytest.raises(CheckpointError, match="No space left"):
        trainer.fit(epochs=2, resume=True)
    monkeypatch.undo()
    trainer.fit(epochs=2, resume=True)
    assert trainer.step == 8
    assert names(tmp_path / "a")[-1] == "fit-001-step-000000008-end"


# A Checkpoint in the place of another


def test_a_new_checkpoint_on_the_folder_of_the_same_training_needs_no_resume(tmp_path):
    trainer = build(Script(), None)
    trainer.callbacks = [Checkpoint(tmp_path / "a", best="val_loss", keep=1)]
    trainer.fit(epochs=1)
    first = trainer.callbacks[0]
    trainer.callbacks = [Checkpoint(tmp_path / "a", best="val_loss", keep=1)]
    values = iter([9.0, 8.0])
    trainer.eval_fn = lambda model, x, y: {"loss": (next(values), 1)}
    trainer.test_loader = list(trainer.test_loader)[:1]
    trainer.fit(epochs=2)
    assert trainer.step == 12
    assert trainer.callbacks[0].best_value == first.best_value  # and its checkpoint is kept
    assert first.best_path.exists()
    assert names(tmp_path / "a")[-1] == "fit-002-step-000000012-end"


def test_a_script_that_makes_a_checkpoint_for_each_fit_can_be_run_again(tmp_path):
    def script(folder, until):
        trainer = build(SCRIPT, folder)
        for number in (1, 2):
            trainer.callbacks = [*trainer.callbacks[:-1], Checkpoint(folder, every=2)]
            if number == until:
                trainer.on("step_end")(lambda trainer: trainer.step == 7 and signal.raise_signal(signal.SIGTERM))
            trainer.fit(epochs=number, resume=True)
        return trainer

    whole = fingerprint(script(tmp_path / "whole", None))
    with pytest.raises(SystemExit):
        script(tmp_path / "a", 2)
    assert differences(script(tmp_path / "a", None), whole) == []


def test_a_new_checkpoint_goes_on_with_what_ctrl_c_has_left(tmp_path, expected):
    trainer = build(SCRIPT, tmp_path / "a")
    trainer.on("step_end")(lambda trainer: trainer.step == 5 and signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(epochs=3, resume=True)
    trainer.callbacks = [*trainer.callbacks[:-1], Checkpoint(tmp_path / "a", every=2)]
    trainer.fit(epochs=3, resume=True)
    assert differences(trainer, expected) == []


def test_a_folder_in_which_another_run_has_gone_on_is_refused(tmp_path):
    trainer = build(Script(), tmp_path / "a")
    trainer.fit(epochs=1)
    other = build(Script(), tmp_path / "a")
    other.fit(epochs=1, resume=True)
    other.fit(epochs=1, resume=True)
    before = names(tmp_path / "a")
    with pytest.raises(CheckpointError, match="of an earlier run"):
        trainer.fit(epochs=1)
    assert names(tmp_path / "a") == before
    assert trainer.step == 4


def test_a_new_trainer_on_the_folder_is_refused_as_ever(tmp_path):
    build(Script(), tmp_path / "a").fit(epochs=1)
    with pytest.raises(CheckpointError, match=r"resume=True\), or begin anew in another folder"):
        build(Script(), tmp_path / "a").fit(epochs=1)


# A folder of another name


@pytest.mark.fault("a checkpoint of another step swapped in", "Message 1, Equal 1")
@pytest.mark.parametrize(
    "name", ["fit-001-step-000000011", slow("fit-001-step-000000010-end"), slow("fit-002-step-000000010")]
)
def test_a_checkpoint_under_the_name_of_another_is_passed_over(name, tmp_path, expected):
    trainer = build(SCRIPT.change(keep=9), tmp_path / "a")
    trainer.fit(epochs=3)
    shutil.rmtree(tmp_path / "a" / "fit-001-step-000000012")
    shutil.rmtree(tmp_path / "a" / "fit-001-step-000000012-end")
    shutil.copytree(tmp_path / "a" / "fit-001-step-000000004", tmp_path / "a" / name)
    again = build(SCRIPT, tmp_path / "a")
    with pytest.warns(IgnitionWarning, match=r"is broken: it holds step 4 of fit 1(?s:.)*passed over"):
        again.fit(epochs=3, resume=True)
    assert differences(again, expected) == []
    assert (tmp_path / "a" / f"broken-{name}").exists()


def test_the_end_of_a_fit_under_the_name_of_another_is_an_error(tmp_path):
    trainer = build(Script(keep=9), tmp_path / "a")
    trainer.fit(epochs=1)
    trainer.fit(epochs=1)
    end = tmp_path / "a" / "fit-001-step-000000004-end"
    shutil.rmtree(end)
    shutil.copytree(tmp_path / "a" / "fit-001-step-000000002", end)
    with pytest.raises(CheckpointError, match="it holds step 2 of fit 1"):
        build(Script(), tmp_path / "a").fit(epochs=1, resume=True)


# After load


def test_load_has_the_averages_at_once(tmp_path):
    trainer = build(Script(ema=True, swa=True), tmp_path / "a")
    trainer.fit(epochs=3)
    other = build(Script(ema=True, swa=True), None)
    assert other.averaged == {}
    other.load(trainer.callbacks[-1].last_path)
    assert other.averaged.keys() == {"ema", "swa"}
    for name, model in trainer.averaged.items():
        assert model.state_dict().keys() == other.averaged[name].state_dict().keys()
        assert all(bool((one == two).all()) for one, two in zip(
            model.state_dict().values(), other.averaged[name].state_dict().values(), strict=True
        ))  # fmt: skip
    assert set(other.evaluate()) >= {"loss", "ema_loss", "swa_loss"}


class Unprepared(Callback):
    """Has its preparation fail."""

    def prepare(self, trainer: Any) -> None:
        raise LookupError("no")


def test_what_a_callback_raises_as_it_prepares_for_a_load_is_unchanged_and_the_load_undone(tmp_path):
    trainer = build(SCRIPT, tmp_path / "a")
    trainer.fit(epochs=1)
    other = build(SCRIPT, None)
    before = fingerprint(other)
    callbacks = other.callbacks
    other.callbacks = [*callbacks, Unprepared()]
    with pytest.raises(LookupError, match=r"^no$"):
        other.load(trainer.callbacks[-1].last_path)
    other.callbacks = callbacks
    assert differences(other, before) == []
    assert other.step == 0
    assert other.averaged == {}
    other.load(trainer.callbacks[-1].last_path)
    assert other.step == trainer.step


# What save may replace


@pytest.mark.parametrize("there", ["a file", "a folder with something else", "a link to nothing"])
def test_save_replaces_nothing_but_a_checkpoint(there, tmp_path):
    place = tmp_path / "precious"
    if there == "a file":
        place.write_text("data")
    elif there == "a folder with something else":
        (place / "thesis").mkdir(parents=True)
    else:
        place.symlink_to(tmp_path / "nowhere")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    trainer = build(Script(), None)
    with pytest.raises(CheckpointError, match=r"(?s)precious, which is .*to do: give it a folder of its own"):
        trainer.save(place)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_save_takes_an_empty_folder_and_replaces_a_checkpoint_even_a_damaged_one(tmp_path):
    trainer = build(Script(), None)
    (tmp_path / "a").mkdir()
    trainer.save(tmp_path / "a")
    (tmp_path / "a" / "state.json").unlink()
    trainer.fit(epochs=1)
    trainer.save(tmp_path / "a")
    other = build(Script(), None)
    other.load(tmp_path / "a")
    assert other.step == trainer.step


def test_the_average_of_what_was_loaded_goes_on(tmp_path):
    trainer = build(Script(ema=True), tmp_path / "a")
    trainer.fit(epochs=1)
    end = trainer.callbacks[-1].last_path
    trainer.fit(epochs=1)
    other = build(Script(ema=True), None)
    other.load(end)
    other.fit(epochs=1)
    ours, theirs = (next(one for one in each.callbacks if isinstance(one, EMA)) for each in (trainer, other))
    assert ours.state_dict()["updates"] == theirs.state_dict()["updates"] == 8
    assert differences(other, fingerprint(trainer) | {"seed": fingerprint(other)["seed"]}) == []


def test_a_fit_after_load_is_one_of_its_own(tmp_path):
    def script(folder, strike=False):
        trainer = build(Script(keep=99), folder)
        trainer.fit(epochs=1, resume=True)
        trainer.fit(epochs=1, resume=True)
        trainer.load(folder / "fit-001-step-000000004-end")
        if strike:
            trainer.on("step_end")(lambda trainer: trainer.step == 6 and signal.raise_signal(signal.SIGTERM))
        trainer.fit(epochs=2, resume=True)
        return trainer

    whole = script(tmp_path / "whole")
    assert whole.step == 12
    assert names(tmp_path / "whole")[-1] == "fit-003-step-000000012-end"
    with pytest.raises(SystemExit):
        script(tmp_path / "a", strike=True)
    assert differences(script(tmp_path / "a"), fingerprint(whole)) == []


def test_a_script_of_several_names_for_one_folder_is_one_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = build(Script(), Path("a"))
    trainer.fit(epochs=1)
    os.symlink(tmp_path / "a", tmp_path / "b")
    trainer.callbacks = [Checkpoint(tmp_path / "b")]
    trainer.fit(epochs=1)
    assert names(tmp_path / "a")[-1] == "fit-002-step-000000008-end"


def test_a_metric_object_has_back_what_it_had_gathered_in_the_open_epoch(tmp_path):
    def make(folder):
        trainer = build(Script(dropout=0.0), folder)
        function = trainer.train_fn
        trainer.state["mean"] = torchmetrics.MeanMetric()

        def train_fn(model, x, y):
            trainer.state["mean"].update(x.mean())
            return {"first": trainer.state["mean"], **function(model, x, y)}

        trainer.train_fn = train_fn
        return trainer

    whole = make(tmp_path / "whole")
    whole.fit(epochs=1)
    trainer = make(tmp_path / "a")
    trainer.fit(steps=2)
    trainer.fit(steps=1)
    trainer.load(tmp_path / "a" / "fit-001-step-000000002-end")
    trainer.fit(epochs=1)
    assert trainer.history["train_first"] == whole.history["train_first"]
    assert trainer.history.columns == whole.history.columns  # and in their order
    other = make(None)
    other.load(tmp_path / "a" / "fit-001-step-000000002-end")
    other.fit(epochs=1)
    assert other.history["train_first"] == whole.history["train_first"]
    assert other.history.columns == whole.history.columns
