"""Scripts of several fits, run again after an interruption in any of them."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from resuming import Data, Killed, Ticker, differences, fingerprint
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

from ignition import Trainer, crossentropy_loss, freeze, optimize, unfreeze
from ignition.callbacks import EMA, Checkpoint, CosineDecay, EarlyStopping, LRSchedule
from ignition.errors import ArgumentError, CheckpointError, IgnitionWarning


@pytest.fixture(autouse=True)
def _without_flushing(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def prepared(folder, ticker=None, *, every=1, lr=0.02, width=6, callbacks=(), progress=False, hyper=None):
    """A Trainer of a model whose first layer is frozen."""
    tick = (ticker or Ticker()).tick
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(4, width), nn.Dropout(0.2), nn.Linear(width, 2))
    freeze(model[0])
    optimizer = torch.optim.Adam(model[2].parameters(), lr=lr)

    def train_fn(model, x, y, **hyper):
        tick()
        loss = crossentropy_loss(model(x), y) * hyper.get("scale", 1.0)
        optimize(loss, optimizer)
        return {"loss": loss}

    def eval_fn(model, x, y):
        tick()
        return {"loss": crossentropy_loss(model(x), y), "noise": torch.rand(())}

    loader = DataLoader(Data(("torch",)), 6, shuffle=True)
    test = DataLoader(Data(samples=7), 7)
    trainer = Trainer(model, optimizer, train_fn, loader, eval_fn, test, device="cpu", progress=progress)
    trainer.hyper = hyper or {}
    saver = [] if folder is None else [Checkpoint(folder, every=every, keep=2)]
    trainer.callbacks = [EMA(0.8), *callbacks, *saver]
    return trainer


def script(folder, ticker=None, epochs=(2, 2), **options):
    """Trains the head, looks at the result, trains everything, and trains on the same once more in steps."""
    trainer = prepared(folder, ticker, **options)
    seen = []
    trainer.fit(epochs=epochs[0], resume=True)
    seen.append((trainer.evaluate(), fingerprint(trainer)["model"], trainer.step))
    unfreeze(trainer.model)
    trainer.optimizer.add_param_group({"params": trainer.model[0].parameters(), "lr": 0.001})
    trainer.callbacks = [*trainer.callbacks, LRSchedule(StepLR(trainer.optimizer, 2, gamma=0.7), every="step")]
    trainer.fit(epochs=epochs[1], resume=True)
    seen.append((trainer.evaluate(), fingerprint(trainer)["model"], trainer.step))
    trainer.fit(steps=3, resume=True)
    return trainer, seen


def interrupted(folder, at, **options):
    """Whether a run was killed at its tick number `at`."""
    try:
        script(folder, Ticker(at), **options)
    except Killed:
        return True
    return False


@pytest.mark.parametrize("every", [1, "epoch"])
@pytest.mark.slow
def test_a_script_of_several_fits_is_taken_up_at_the_interrupted_one(every, tmp_path):
    whole = Ticker()
    expected, seen = script(tmp_path / "whole", whole, every=every)
    places = range(1, whole.count + 1, 1 if every == 1 else 3)
    assert len(places) > 8
    for at in places:
        folder = tmp_path / str(at)
        assert interrupted(folder, at, every=every)
        again, seen_again = script(folder, every=every)
        assert not differences(again, fingerprint(expected)), at
        assert seen_again == seen, at
        shutil.rmtree(folder)


def test_a_script_of_several_fits_may_be_interrupted_several_times(tmp_path):
    expected, seen = script(tmp_path / "whole")
    lives = 0
    while interrupted(tmp_path / "often", 7 + lives):
        lives += 1
    assert lives > 3
    again, seen_again = script(tmp_path / "often")
    assert not differences(again, fingerprint(expected))
    assert seen_again == seen


def test_finished_fits_are_passed_over_with_their_results_loaded(tmp_path):
    expected, seen = script(tmp_path / "a")
    ticker = Ticker()
    again, seen_again = script(tmp_path / "a", ticker)
    assert not differences(again, fingerprint(expected))
    assert seen_again == seen
    assert "ema_loss" in seen_again[0][0]
    assert ticker.count == 2 * 2  # the two evaluations between the fits, of the model and of its average


def test_what_is_saved_between_fits_is_the_trained_model(tmp_path):
    def saving(folder, path):
        trainer = prepared(folder)
        trainer.fit(epochs=1, resume=True)
        torch.save(trainer.model.state_dict(), path)
        torch.save(trainer.averaged["ema"].state_dict(), f"{path}.ema")
        trainer.fit(epochs=1, resume=True)

    saving(tmp_path / "a", tmp_path / "first.pt")
    saving(tmp_path / "a", tmp_path / "second.pt")
    for ending in ("", ".ema"):
        first, second = (torch.load(f"{tmp_path / name}.pt{ending}") for name in ("first", "second"))
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_end_of_each_fit_is_kept(tmp_path):
    script(tmp_path / "a", epochs=(3, 2))
    ends = sorted(path.name for path in (tmp_path / "a").glob("fit-*-end"))
    assert ends == ["fit-001-step-000000012-end", "fit-002-step-000000020-end", "fit-003-step-000000023-end"]


def test_epochs_count_from_the_start_of_their_fit(tmp_path):
    trainer, _ = script(tmp_path / "a", epochs=(2, 3))
    assert trainer.history["epoch"] == [1, 2, 3, 4, 5]
    interrupted(tmp_path / "b", 30, epochs=(2, 3))
    again, _ = script(tmp_path / "b", epochs=(2, 3))
    assert again.history["epoch"] == [1, 2, 3, 4, 5]


def test_another_checkpoint_object_for_the_next_fit_serves_as_well(tmp_path):
    def renewing(folder, ticker=None):
        trainer = prepared(folder, ticker)
        trainer.fit(epochs=1, resume=True)
        trainer.callbacks = [EMA(0.8), Checkpoint(folder, every=1)]
        trainer.fit(epochs=1, resume=True)
        return trainer

    expected = fingerprint(renewing(tmp_path / "whole"))
    for at in (3, 6, 8, 10):
        with pytest.raises(Killed):
            renewing(tmp_path / str(at), Ticker(at))
        assert not differences(renewing(tmp_path / str(at)), expected), at


# Numbers that are changed


@pytest.mark.parametrize("goal", [{"epochs": 3}, {"steps": 11}, {"epochs": 2, "steps": 100}])
def test_a_raised_number_continues_to_where_it_would_have_come_at_once(goal, tmp_path):
    straight = prepared(tmp_path / "a")
    straight.fit(**goal, resume=True)
    prepared(tmp_path / "b").fit(**{name: (count + 1) // 2 for name, count in goal.items()}, resume=True)
    raised = prepared(tmp_path / "b")
    raised.fit(**goal, resume=True)
    assert not differences(raised, fingerprint(straight))


def test_a_lowered_number_is_reached_already(tmp_path):
    done = prepared(tmp_path / "a")
    done.fit(epochs=3, resume=True)
    again = prepared(tmp_path / "a", ticker := Ticker())
    with pytest.warns(IgnitionWarning, match="fit 1 has epochs=1 in the script, and was finished with epochs=3"):
        again.fit(epochs=1, resume=True)
    assert ticker.count == 0
    assert not differences(again, fingerprint(done))


def test_a_number_lowered_below_an_interruption_ends_there(tmp_path):
    with pytest.raises(Killed):
        prepared(tmp_path / "a", Ticker(15)).fit(epochs=3, resume=True)
    again = prepared(tmp_path / "a", ticker := Ticker())
    with pytest.warns(IgnitionWarning, match="epochs: 1 in the script, which counts, 3 in the checkpoint"):
        again.fit(epochs=1, resume=True)
    assert ticker.count == 0
    assert again.step > 4


def test_a_fit_that_was_stopped_early_is_finished(tmp_path):
    def stopping(ticker=None):
        trainer = prepared(tmp_path / "a", ticker, callbacks=[EarlyStopping("val_loss", 1, mode="max")])
        trainer.fit(epochs=50, resume=True)
        return trainer

    first = stopping()
    assert first.stop_reason is not None
    assert first.history.epochs < 50
    again = stopping(ticker := Ticker())
    assert ticker.count == 0
    assert again.stop_reason == first.stop_reason
    assert not differences(again, fingerprint(first))


def test_a_stop_is_not_forgotten_if_the_run_is_killed_right_after_it(tmp_path):
    def stopping(ticker=None):
        trainer = prepared(tmp_path / "a", ticker)

        @trainer.on("step_end")
        def _(trainer):
            if trainer.step == 6:
                trainer.stop("enough")

        trainer.fit(epochs=5, resume=True)
        return trainer

    first = stopping()
    shutil.rmtree(tmp_path / "a" / "fit-001-step-000000006-end")
    again = stopping(ticker := Ticker())
    assert ticker.count == 0
    assert not differences(again, fingerprint(first))
    assert (tmp_path / "a" / "fit-001-step-000000006-end").is_dir()


# Folders


def test_where_there_is_no_checkpoint_it_begins(tmp_path):
    for folder in (tmp_path / "new", tmp_path):
        trainer = prepared(folder)
        trainer.fit(epochs=1, resume=True)
        assert trainer.step == 4


@pytest.mark.fault("resume=False on a used folder", "Message 1")
@pytest.mark.parametrize("at", [None, 6])
def test_a_folder_in_use_is_refused_without_resume_and_both_ways_out_are_offered(at, tmp_path):
    if at is None:
        prepared(tmp_path / "a").fit(epochs=1, resume=True)
    else:
        with pytest.raises(Killed):
            prepared(tmp_path / "a", Ticker(at)).fit(epochs=3)
    files = sorted(tmp_path.rglob("*"))
    trainer = prepared(tmp_path / "a")
    before = fingerprint(trainer)
    with pytest.raises(CheckpointError) as caught:
        trainer.fit(epochs=1)
    message = str(caught.value)
    assert "resume=True" in message
    assert "another folder" in message
    assert str(tmp_path / "a") in message
    assert not differences(trainer, before)
    assert sorted(tmp_path.rglob("*")) == files
    trainer.fit(epochs=1 if at is None else 3, resume=True)  # nothing of the refused one is in the way


def test_a_second_fit_of_the_same_trainer_needs_no_resume(tmp_path):
    trainer = prepared(tmp_path / "a")
    trainer.fit(epochs=1)
    trainer.fit(epochs=1)
    assert trainer.step == 8
    assert len(list((tmp_path / "a").glob("fit-*-end"))) == 2


def test_two_fits_at_once_in_one_folder_are_refused(tmp_path):
    outer, caught = prepared(tmp_path / "a"), []

    @outer.on("step_end")
    def _(trainer):
        if trainer.step == 2:
            with pytest.raises(CheckpointError, match="being written") as error:
                prepared(tmp_path / "a").fit(epochs=1, resume=True)
            caught.append(error)

    outer.fit(epochs=1)
    assert caught
    assert outer.step == 4


@pytest.mark.parametrize("resume", [None, 1, "runs/a"])
def test_resume_is_a_boolean(resume, tmp_path):
    with pytest.raises(ArgumentError, match="True or False"):
        prepared(tmp_path / "a").fit(epochs=1, resume=resume)


def test_resume_without_a_checkpoint_is_refused():
    with pytest.raises(ArgumentError, match=r"Checkpoint\("):
        prepared(None).fit(epochs=1, resume=True)


def test_two_checkpoints_are_refused(tmp_path):
    trainer = prepared(tmp_path / "a", callbacks=[Checkpoint(tmp_path / "b")])
    with pytest.raises(ArgumentError, match="2 Checkpoint"):
        trainer.fit(epochs=1)


# What the script says otherwise


@pytest.mark.fault("other hyperparameters on resume", "the checkpoint wins, differences printed")
def test_the_checkpoint_wins_over_the_script_and_the_differences_are_printed(tmp_path, capsys):
    with pytest.raises(Killed):
        prepared(tmp_path / "a", Ticker(7), hyper={"scale": 0.5}).fit(epochs=2, resume=True)
    expected = prepared(tmp_path / "b", hyper={"scale": 0.5})
    expected.fit(epochs=2)
    again = prepared(tmp_path / "a", lr=0.7, hyper={"scale": 0.9}, progress=True)
    capsys.readouterr()
    again.fit(epochs=2, resume=True)
    printed = capsys.readouterr().out
    assert "fit-001-step-00000000" in printed
    assert [line.split()[-8:] for line in printed.splitlines() if "0.7" in line and "0.02" in line]
    assert [
        line
        for line in printed.splitlines()
        if "scale" in line and "0.9" in line and "0.5" in line and "checkpoint" in line
    ]
    assert not differences(again, fingerprint(expected))


def test_what_is_the_same_is_not_printed(tmp_path, capsys):
    with pytest.raises(Killed):
        prepared(tmp_path / "a", Ticker(7), hyper={"scale": 0.5}).fit(epochs=2, resume=True)
    prepared(tmp_path / "a", hyper={"scale": 0.5}, progress=True).fit(epochs=2, resume=True)
    assert "in the checkpoint" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_hyperparameter_that_a_schedule_moves_is_where_it_was(tmp_path):
    def scheduled(folder, ticker=None):
        decay = CosineDecay("scale", 1.0, 0.2, 3)
        trainer = prepared(folder, ticker, callbacks=[decay], hyper={"scale": 1.0})
        trainer.fit(epochs=3, resume=True)
        return trainer

    expected = fingerprint(scheduled(tmp_path / "whole"))
    for at in (3, 5, 7, 9, 12, 15):
        with pytest.raises(Killed):
            scheduled(tmp_path / str(at), Ticker(at))
        assert not differences(scheduled(tmp_path / str(at)), expected), at


def test_a_hyperparameter_that_is_new_in_the_script_has_its_schedule(tmp_path):
    prepared(tmp_path / "a").fit(epochs=1, resume=True)
    trainer = prepared(tmp_path / "a", callbacks=[CosineDecay("scale", 1.0, 0.2, 3)])
    with pytest.warns(IgnitionWarning, match="CosineDecay: a callback in the script, which counts, nothing in"):
        trainer.fit(epochs=2, resume=True)
    assert "scale" in trainer.hyper


@pytest.mark.fault("another model on resume", "Message 1")
@pytest.mark.parametrize("width", [5, 7])
def test_a_model_of_another_shape_is_refused_with_the_difference_and_nothing_is_changed(width, tmp_path):
    with pytest.raises(Killed):
        prepared(tmp_path / "a", Ticker(7)).fit(epochs=2, resume=True)
    trainer = prepared(tmp_path / "a", width=width)
    before = fingerprint(trainer)
    with pytest.raises(CheckpointError) as caught:
        trainer.fit(epochs=2, resume=True)
    message = str(caught.value)
    for part in ("0.weight", "(6, 4)", f"({width}, 4)", "fit-001-step-"):
        assert part in message
    assert not differences(trainer, before)
    assert trainer.train_loader.dataset.loaded == []


@pytest.mark.fault("another model on resume", "Message 1")
def test_names_that_are_missing_and_unexpected_are_listed(tmp_path):
    prepared(tmp_path / "a").fit(epochs=1, resume=True)
    trainer = prepared(tmp_path / "a")
    trainer.model.add_module("extra", nn.Linear(1, 1))
    del trainer.model[0].bias
    trainer.model[0].register_parameter("bias", None)
    with pytest.raises(CheckpointError) as caught:
        trainer.fit(epochs=2, resume=True)
    assert "extra.weight" in str(caught.value)
    assert "0.bias" in str(caught.value)


@pytest.mark.fault("another model on resume", "Message 1")
def test_other_parameter_groups_are_refused(tmp_path):
    prepared(tmp_path / "a").fit(epochs=1, resume=True)
    trainer = prepared(tmp_path / "a")
    trainer.optimizer.add_param_group({"params": trainer.model[0].parameters()})
    with pytest.raises(CheckpointError, match="group"):
        trainer.fit(epochs=2, resume=True)


def test_the_end_of_a_fit_that_was_raised_takes_the_place_of_the_one_before(tmp_path):
    for epochs in (1, 2, 4):
        prepared(tmp_path / "a").fit(epochs=epochs, resume=True)
        ends = sorted(path.name for path in (tmp_path / "a").glob("fit-*-end"))
        assert ends == [f"fit-001-step-{4 * epochs:09d}-end"]
    assert len(list((tmp_path / "a").glob("fit-*"))) == 2
    trainer = prepared(tmp_path / "a")
    trainer.fit(epochs=4, resume=True)
    trainer.fit(epochs=1, resume=True)
    ends = sorted(path.name for path in (tmp_path / "a").glob("fit-*-end"))
    assert ends == ["fit-001-step-000000016-end", "fit-002-step-000000020-end"]


def test_the_end_before_stays_until_the_new_one_is_whole(tmp_path):
    prepared(tmp_path / "a").fit(epochs=1, resume=True)
    with pytest.raises(Killed):
        prepared(tmp_path / "a", Ticker(20)).fit(epochs=5, resume=True)
    ends = sorted(path.name for path in (tmp_path / "a").glob("fit-*-end"))
    assert ends == ["fit-001-step-000000004-end"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["broken", "missing", "of another fit"])
@pytest.mark.parametrize("at", [13, 18])
def test_where_the_end_of_an_earlier_fit_is_lost_the_advice_leads_to_the_same_result(how, at, tmp_path):
    def before(folder, ticker=None):
        trainer = prepared(folder, ticker)
        trainer.fit(epochs=1, resume=True)
        unfreeze(trainer.model)
        trainer.optimizer.add_param_group({"params": trainer.model[0].parameters(), "lr": 0.01})
        trainer.fit(epochs=2, resume=True)
        return trainer

    expected = fingerprint(before(tmp_path / "whole"))
    with pytest.raises(Killed):
        before(tmp_path / "a", Ticker(at))
    end = tmp_path / "a" / "fit-001-step-000000004-end"
    newest = sorted((tmp_path / "a").glob("fit-002*"))[-1]
    if how == "broken":
        (end / "model.safetensors").write_bytes(b"")
    else:
        shutil.rmtree(end)
    if how == "of another fit":
        shutil.copytree(newest, end)
    for _ in range(2):  # the advice is the same as long as it is not followed
        with pytest.raises(CheckpointError) as caught:
            before(tmp_path / "a")
        message = str(caught.value)
        assert "the run had come to fit 2" in message
        assert f'put trainer.load("{newest}") in the place of fits 1 to 2, after the code between them' in message
        assert "with a Checkpoint in another folder" in message
        assert "delete" not in message

    def as_advised(ticker=None):
        trainer = prepared(tmp_path / "b", ticker)
        unfreeze(trainer.model)
        trainer.optimizer.add_param_group({"params": trainer.model[0].parameters(), "lr": 0.01})
        trainer.load(newest)
        trainer.fit(steps=12 - trainer.step, resume=True)
        return trainer

    with pytest.raises(Killed):
        as_advised(Ticker(2))
    assert not differences(as_advised(), expected)
