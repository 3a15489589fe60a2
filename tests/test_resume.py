"""A run that was interrupted anywhere and started again ends in the bits of the one that never was."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from itertools import product

import pytest
import torch
from resuming import Killed, Script, Ticker, build, differences, fingerprint, run

ALL_NOISE = ("torch", "numpy", "python", "collate")
NEVER = 10**6  # steps between two checkpoints: no more than that of the fit's end

PRODUCT = {
    f"dropout {dropout}, {data}, noise {bool(noise)}, accumulate {accumulate}, extras {extras}": Script(
        dropout=dropout,
        data=data,
        noise=noise,
        accumulate=accumulate,
        schedule="step" if extras else "",
        ema=extras,
    )
    for dropout, data, noise, accumulate, extras in product(
        (0.0, 0.2), ("shuffled", "ordered"), ((), ALL_NOISE), (1, 3), (False, True)
    )
}
SPECIAL = {
    "a seed": Script(seed=7, noise=ALL_NOISE),
    "batches fetched together": Script(noise=("torch", "numpy", "python", "together"), dropout=0.0),
    "one cycle": Script(schedule="one cycle", optimizer="sgd"),
    "a plateau": Script(schedule="plateau", eval_every=2),
    "a hyperparameter": Script(schedule="hyper"),
    "a warmup": Script(schedule="warmup", accumulate=2, optimizer="adamw"),
    "weight averages": Script(swa=True, ema=True),
    "early stopping": Script(stopping=True, epochs=6),
    "early stopping in steps": Script(stopping=True, epochs=6, eval_every=1),
    "a generator of the loader": Script(data="own generator", noise=("torch",)),
    "a last batch dropped": Script(data="dropping"),
    "a sampler": Script(data="sampler", noise=("numpy",)),
    "a sampler that knows the epoch": Script(data="epochs"),
    "a batch sampler": Script(data="batch sampler", noise=("python",)),
    "a weighted sampler": Script(data="weighted"),
    "samples as they are": Script(data="samples"),
    "a TensorLoader": Script(data="tensors", accumulate=2),
    "a list": Script(data="list", accumulate=3),
    "fp16": Script(precision="fp16", ema=True),
    "bf16": Script(precision="bf16", clip=0.5),
    "two models": Script(kind="gan", ema=True),
    "two models under fp16": Script(kind="gan", accumulate=2, precision="fp16"),
    "LBFGS": Script(kind="lbfgs", optimizer="lbfgs", dropout=0.0),
    "a carried state": Script(kind="carried", noise=("torch",)),
    "frozen parts": Script(kind="frozen", ema=True),
    "records in steps": Script(eval_every=3, best="val_loss"),
    "records in windows": Script(eval_every=2, accumulate=2),
    "an end in steps": Script(epochs=None, steps=10, eval_every=4),
    "an end inside a window's epoch": Script(epochs=None, steps=5, accumulate=3),
    "everything": Script(
        noise=ALL_NOISE, accumulate=2, schedule="step", ema=True, stopping=True, eval_every=3, clip=1.0, epochs=4,
        best="val_loss",
    ),
}  # fmt: skip
SCRIPTS = PRODUCT | SPECIAL
WORKERS = {
    f"{workers} workers, persistent {persistent}, prefetch {prefetch}, then {others}": (
        Script(workers=workers, persistent=persistent, prefetch=prefetch, noise=ALL_NOISE, data=data, accumulate=2),
        {"workers": others, "persistent": not persistent and others > 0},
    )
    for workers, persistent, prefetch, others, data in (
        (1, False, None, 0, "shuffled"),
        (1, True, 4, 2, "sampler"),
        (2, False, 1, 1, "batch sampler"),
        (2, True, None, 0, "shuffled"),
        (2, True, 3, 2, "weighted"),
        (0, False, None, 2, "own generator"),
    )
}


@pytest.fixture(autouse=True)
def _without_flushing(monkeypatch):
    """What lasts through a loss of power is no matter here, and flushing is most of the time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def uninterrupted(script, folder):
    """The fingerprint of a run that nothing disturbs, and the checkpoints of each of its steps."""
    expected = fingerprint(run(script.change(every=1, keep=1000), folder))
    return expected, sorted(path for path in folder.iterdir() if path.name.startswith("fit-"))


def go_on_from(checkpoint, script, folder):
    """The run that finds this one checkpoint in its folder: what a kill right after it leaves."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkpoint, folder / checkpoint.name)
    return run(script, folder)


def live(script, folder, ticker):
    """One life of a process; the trainer if it came to its end."""
    try:
        return run(script, folder, ticker)
    except (Killed, SystemExit, KeyboardInterrupt):
        return None


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_from_each_checkpoint_a_run_goes_on_to_the_same_bits(name, tmp_path, seen):
    script = SCRIPTS[name]
    expected, checkpoints = uninterrupted(script, tmp_path / "whole")
    assert len(checkpoints) >= 5
    wrong = {}
    for checkpoint in checkpoints:  # the last is that of the fit's end, which is passed over
        again = go_on_from(checkpoint, script.change(every=NEVER), tmp_path / "again")
        if differences(again, expected):
            wrong[checkpoint.name] = differences(again, expected)
    assert not wrong
    seen("resumed at every step", len(checkpoints), f"Equal {len(checkpoints)}")


@pytest.mark.parametrize("name", ["everything", "two models", "a carried state", "LBFGS", "an end in steps"])
def test_from_some_checkpoints_a_run_goes_on_to_the_same_bits(name, tmp_path):
    script = SCRIPTS[name]
    expected, checkpoints = uninterrupted(script, tmp_path / "whole")
    for checkpoint in checkpoints[::4]:
        again = go_on_from(checkpoint, script.change(every=NEVER), tmp_path / "again")
        assert not differences(again, expected), checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKERS)
def test_a_run_goes_on_with_another_number_of_workers(name, tmp_path, seen):
    script, others = WORKERS[name]
    expected, checkpoints = uninterrupted(script, tmp_path / "whole")
    alone = fingerprint(run(script.change(workers=0, persistent=False, prefetch=None), tmp_path / "alone"))
    assert alone == expected
    places = checkpoints[1:-1:3]
    for checkpoint in places:
        changed = script.change(every=NEVER, prefetch=None, **others)
        again = go_on_from(checkpoint, changed, tmp_path / "again")
        assert not differences(again, expected), checkpoint
        again.training._keyed.clear()  # persistent workers end with their loader; as a part of a cycle, after 5 s each
        gc.collect()
    seen("another number of workers on resume", len(places), f"Equal {len(places)}")


MOMENTS = {
    "plain": Script(),
    "each epoch": Script(every="epoch", noise=ALL_NOISE),
    "a hyperparameter": Script(schedule="hyper", eval_every=3),
    "each second step": Script(every=2, accumulate=2, eval_every=2, noise=("torch",)),
    "by the clock": Script(every="0.005s", schedule="step", eval_every=3),
    "everything": SPECIAL["everything"].change(keep=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("by", [None, signal.SIGUSR1, signal.SIGINT], ids=["killed", "SIGUSR1", "SIGINT"])
@pytest.mark.parametrize("name", MOMENTS)
def test_at_each_call_of_a_function_a_run_can_be_interrupted(name, by, tmp_path, seen):
    script, whole = MOMENTS[name], Ticker()
    expected = fingerprint(run(script, tmp_path / "whole", whole))
    wrong, places = {}, range(1 + (by == signal.SIGINT), whole.count + 1, 2)
    for at in places:
        folder = tmp_path / str(at)
        live(script, folder, Ticker(at, by))
        again = run(script, folder)
        if differences(again, expected):
            wrong[at] = differences(again, expected)
        shutil.rmtree(folder)
    assert not wrong
    seen("ended at every other call of a function, in one process", len(places), f"Equal {len(places)}")


@pytest.mark.fault("interrupted again and again, in one process", "Equal 1")
@pytest.mark.parametrize("by", [None, signal.SIGTERM], ids=["killed", "SIGTERM"])
@pytest.mark.parametrize("name", ["plain", "each second step"])
def test_a_run_may_be_interrupted_several_times(name, by, tmp_path):
    script = MOMENTS[name]
    expected = fingerprint(run(script, tmp_path / "whole"))
    ended, lives = None, 0
    while ended is None:
        lives += 1
        ended = live(script, tmp_path / "often", Ticker(4 + lives // 3, by))
    assert lives > 3
    assert not differences(ended, expected)


def test_an_evaluation_that_is_interrupted_is_begun_anew(tmp_path):
    script, whole = Script(epochs=1, noise=ALL_NOISE), Ticker()
    expected = fingerprint(run(script, tmp_path / "whole", whole))
    assert live(script, tmp_path / "again", Ticker(5, signal.SIGTERM)) is None  # the first of the evaluation's two
    assert not differences(run(script, tmp_path / "again"), expected)


def test_a_record_that_is_due_at_the_last_step_is_written_after_an_interruption(tmp_path):
    script = Script(epochs=None, steps=6, eval_every=3)
    expected = fingerprint(run(script, tmp_path / "whole"))
    ticks = 3 + 2 + 1 + 2 + 2 + 1  # three steps and a record, the epoch's last one and its record, two more steps
    assert live(script, tmp_path / "again", Ticker(ticks, signal.SIGTERM)) is None
    again = run(script, tmp_path / "again")
    assert [row["step"] for row in again.history.rows] == [3, 4, 6]
    assert not differences(again, expected)


def test_a_checkpoint_changes_nothing_of_a_run_with_a_seed(tmp_path):
    script = Script(seed=7, noise=ALL_NOISE, accumulate=2, ema=True)
    without = build(script, None)
    without.fit(epochs=3)
    assert not differences(run(script, tmp_path / "a"), fingerprint(without))


def test_without_a_seed_the_one_of_torch_is_taken_and_nothing_is_drawn(tmp_path):
    script = Script(noise=ALL_NOISE)
    trainer = run(script, tmp_path / "a")
    assert trainer.seed == torch.initial_seed() == 11
    expected = fingerprint(trainer)
    assert not differences(run(script, tmp_path / "b"), expected)


def test_without_seed_and_checkpoint_the_loader_is_read_as_it_is():
    trainer = build(Script(), None)
    assert trainer.training.source("train", trainer.train_loader) is trainer.train_loader
    trainer.fit(epochs=1)
    assert trainer.seed is None


def test_a_finished_script_is_passed_over_and_run_again_changes_nothing(tmp_path):
    script = SPECIAL["weight averages"]
    expected = fingerprint(run(script, tmp_path / "a"))
    ticker = Ticker()
    again = run(script, tmp_path / "a", ticker)
    assert ticker.count == 0
    assert not differences(again, expected)
    assert set(again.evaluate()) >= {"loss", "ema_loss", "swa_loss"}


def test_the_folder_may_be_moved(tmp_path):
    script = Script(best="val_loss")
    expected = fingerprint(run(script, tmp_path / "whole"))
    live(script, tmp_path / "here", Ticker(9))
    shutil.move(tmp_path / "here", tmp_path / "there")
    again = run(script, tmp_path / "there")
    assert not differences(again, expected)
    assert again.callbacks[-1].best_path.parent == tmp_path / "there"


@pytest.mark.fault("the clock moved back, files of any age", "Equal 1")
def test_the_newest_is_told_by_its_step_and_not_by_the_times_of_files(tmp_path):
    script = Script(every=1, keep=100)
    expected = fingerprint(run(script, tmp_path / "whole"))
    live(script, tmp_path / "a", Ticker(9))
    paths = sorted(path for path in (tmp_path / "a").iterdir() if path.name.startswith("fit-"))
    for age, path in enumerate(paths):  # the clock went back: the later the step, the older the file
        for file in (path, *path.iterdir()):
            os.utime(file, (10**9 - 10**5 * age,) * 2)
    ticker = Ticker()
    again = run(script, tmp_path / "a", ticker)
    assert not differences(again, expected)
    assert ticker.count == 18 - 8  # none of the steps that a checkpoint holds is done again


@pytest.mark.fault("the clock moved back, files of any age", "Equal 1")
def test_the_clock_of_the_system_has_no_say(tmp_path, monkeypatch):
    clock = iter(range(10**9, 0, -3600))
    monkeypatch.setattr("time.time", lambda: float(next(clock)))
    script = Script(every="0.005s", best="val_loss")
    expected = fingerprint(run(script, tmp_path / "whole"))
    live(script, tmp_path / "a", Ticker(10))
    assert not differences(run(script, tmp_path / "a"), expected)


@pytest.mark.fault("one loaded state used several times", "Equal 3", 3)
def test_one_loaded_state_serves_several_trainings(tmp_path):
    from ignition.checkpoint import read
    from ignition.snapshot import apply

    script = Script(ema=True, schedule="step", optimizer="adamw", stopping=True)
    expected, checkpoints = uninterrupted(script, tmp_path / "whole")
    content = read(checkpoints[5])
    for _ in range(3):  # each goes on in place from what it was given
        trainer = build(script, None)
        apply(trainer.training, content, "memory")
        trainer.training.fit["number"] -= 1
        start = trainer.training.fit["start_epoch"]
        trainer.fit(epochs=start + 3 - trainer.training.epochs_ended)
        assert not differences(trainer, expected)
