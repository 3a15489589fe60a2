"""What a script that is run again says otherwise than its checkpoint is told, and which of the two counts."""

from __future__ import annotations

import os
import warnings

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, StepLR
from torch.utils.data import DataLoader, TensorDataset, random_split

from ignition import TensorLoader, Trainer, crossentropy_loss, optimize
from ignition.callbacks import EMA, Callback, Checkpoint, CosineDecay, EarlyStopping, LRSchedule, Warmup
from ignition.errors import ArgumentError, CheckpointError, IgnitionWarning


@pytest.fixture(autouse=True)
def _without_flushing(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Stop(Exception):
    """Ends a run in its middle."""


class Mine(Callback):
    """A callback of the user's."""

    def __init__(self, level=1):
        self.level = level


X = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(X, (X.sum(1) > 0).long())


def script(folder, *, fits=({"epochs": 2},), kill=None, lr=0.1, loader=None, callbacks=(), hyper=None, **options):
    """Three batches an epoch; it is ended in its `kill`-th step."""
    torch.manual_seed(1)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)

    def train_fn(model, x, y, **hyper):
        if trainer.step + 1 == kill:
            raise Stop
        loss = crossentropy_loss(model(x), y)
        optimize(loss, optimizer)
        return {"loss": loss}

    loader = DataLoader(DATA, 4, shuffle=True) if loader is None else loader()
    trainer = Trainer(
        model, optimizer, train_fn, loader, lambda model, x, y: {"loss": crossentropy_loss(model(x), y)},
        [(X, DATA.tensors[1])], device="cpu", **{"progress": False, "seed": 1, **options},
    )  # fmt: skip
    trainer.hyper = hyper or {}
    own = callbacks(optimizer) if callable(callbacks) else callbacks
    trainer.callbacks = [*own, Checkpoint(folder, every=1)]
    try:
        for goal in fits:
            trainer.fit(**goal, resume=True)
    except Stop:
        assert kill is not None
    return trainer


def warned(folder, **options):
    """The warnings of a script that is run again."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        script(folder, **options)
    return [str(one.message) for one in caught]


# A seed


@pytest.mark.parametrize("kill", [5, None])
@pytest.mark.parametrize("progress", [True, False])
def test_another_seed_is_warned_of_and_the_one_of_the_checkpoint_counts(kill, progress, tmp_path, capsys):
    script(tmp_path, kill=kill)
    capsys.readouterr()
    (message,) = warned(tmp_path, seed=2, progress=progress)
    assert message.startswith(f"the script has seed=2, and the run in {tmp_path} was begun with 1, which counts")
    assert "folder of its own" in message
    assert ("seed: 2 in the script, 1 in" in capsys.readouterr().out) is progress
    assert script(tmp_path).seed == 1


def test_no_seed_in_the_script_is_no_other_one(tmp_path):
    script(tmp_path, kill=5)
    assert warned(tmp_path, seed=None) == []


def test_a_seed_that_was_taken_for_the_checkpoint_is_no_other_one(tmp_path):
    script(tmp_path, kill=5, seed=None)
    assert warned(tmp_path, seed=None, fits=({"epochs": 2}, {"epochs": 1})) == []


# Goals


def test_the_raised_number_of_an_earlier_fit_is_warned_of(tmp_path):
    script(tmp_path, fits=({"epochs": 2}, {"epochs": 1}))
    (message,) = warned(tmp_path, fits=({"epochs": 3}, {"epochs": 1}))
    assert message.startswith(
        "fit 1 has epochs=3 in the script, and was finished with epochs=2: it is passed over as it is"
    )
    assert "raise the number of the last fit" in message


@pytest.mark.parametrize("fits", [({"epochs": 2},), ({"epochs": 2}, {"epochs": 2}), ({"steps": 3}, {"epochs": 2})])
def test_a_fit_that_was_left_out_or_changed_is_warned_of(fits, tmp_path):
    script(tmp_path, fits=({"epochs": 1}, {"epochs": 2}))
    (message,) = warned(tmp_path, fits=fits)
    assert "was finished with epochs=1" in message
    assert "fits are matched by their order" in message


def test_a_fit_that_was_put_before_is_warned_of(tmp_path):
    script(tmp_path, fits=({"epochs": 2},))
    (message,) = warned(tmp_path, fits=({"epochs": 1}, {"epochs": 2}))
    assert message.startswith("fit 1 has epochs=1 in the script, and was finished with epochs=2")


def test_a_raised_number_of_a_fit_that_was_stopped_early_is_warned_of_with_the_reason(tmp_path):
    def stopping(epochs):
        trainer_stops = type("Stops", (Callback,), {"on_epoch_end": lambda self, trainer: trainer.stop("enough")})()
        return {"fits": ({"epochs": epochs},), "callbacks": [trainer_stops]}

    script(tmp_path, **stopping(5))
    assert warned(tmp_path, **stopping(5)) == []
    (message,) = warned(tmp_path, **stopping(9))
    assert "since it was stopped (enough). To train on, put another fit behind it" in message


def test_the_raised_number_of_the_last_fit_is_the_way_to_train_on(tmp_path):
    script(tmp_path, fits=({"epochs": 1}, {"epochs": 1}))
    assert warned(tmp_path, fits=({"epochs": 1}, {"epochs": 2})) == []
    assert warned(tmp_path, fits=({"epochs": 1}, {"epochs": 2})) == []  # with which it was finished by now
    assert script(tmp_path, fits=({"epochs": 1}, {"epochs": 2})).epoch == 3


# Data


def shuffled():
    return DataLoader(DATA, 4, shuffle=True)


def ordered():
    return DataLoader(DATA, 4)


@pytest.mark.parametrize("change", [(shuffled, ordered), (ordered, shuffled)])
def test_another_order_inside_an_epoch_is_an_error_with_nothing_changed(change, tmp_path):
    before, after = change
    script(tmp_path, kill=5, loader=before)
    with pytest.raises(CheckpointError, match="from the middle of an epoch that was read") as caught:
        script(tmp_path, loader=after)
    assert "shuffled by RandomSampler" in str(caught.value)
    assert "put the order back until an epoch has ended" in str(caught.value)
    assert warned(tmp_path, loader=before) == []


def test_another_order_of_tensors_inside_an_epoch_is_an_error_too(tmp_path):
    def tensors(shuffle):
        return lambda: TensorLoader(*DATA.tensors, batch_size=4, shuffle=shuffle)

    script(tmp_path, kill=5, loader=tensors(True))
    with pytest.raises(CheckpointError, match="read shuffled by TensorLoader, and now train_loader reads in order"):
        script(tmp_path, loader=tensors(False))


def test_another_order_between_two_epochs_is_told_once(tmp_path):
    script(tmp_path, fits=({"epochs": 1},), loader=shuffled)
    longer = {"fits": ({"epochs": 2},), "loader": ordered}
    (message,) = warned(tmp_path, **longer)
    assert "order of train_loader: in order in the script, which counts, shuffled by RandomSampler in the" in message
    assert warned(tmp_path, **longer) == []


@pytest.mark.parametrize("kill", [5, 7, None])
def test_a_split_that_was_drawn_anew_is_warned_of(kill, tmp_path):
    def split(seed):
        generator = torch.Generator().manual_seed(seed)
        return lambda: DataLoader(random_split(DATA, [9, 3], generator)[0], 3, shuffle=True)

    script(tmp_path, kill=kill, loader=split(3))
    assert warned(tmp_path, kill=kill, loader=split(3)) == []
    (message,) = warned(tmp_path, loader=split(4))
    assert message.startswith(f"train_loader reads other samples than in the run in {tmp_path} (9 of a Subset, ")
    assert "generator=torch.Generator().manual_seed(0)" in message


def test_weights_that_a_callback_has_changed_are_the_same_samples(tmp_path):
    def loader():
        sampler = torch.utils.data.WeightedRandomSampler([1.0] * 12, 12)
        return DataLoader(DATA, 4, sampler=sampler)

    def change(self, trainer):
        trainer.train_loader.sampler.weights[trainer.epoch] = 5.0

    callbacks = [type("Weigh", (Callback,), {"on_epoch_end": change})()]
    fits = ({"epochs": 2}, {"epochs": 2})
    script(tmp_path, kill=11, loader=loader, callbacks=callbacks, fits=fits)
    assert warned(tmp_path, loader=loader, callbacks=callbacks, fits=fits) == []


# What else is set


def changed(folder, before, after, **options):
    """What is printed and what is warned of where a run goes on with `after` that was begun with `before`."""
    script(folder, kill=5, **before, **options)
    return warned(folder, **after, **options)


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ({}, {"accumulate": 2}, "accumulate: 2 in the script, which counts, 1 in the checkpoint"),
        ({}, {"clip_norm": 1.0}, "clip_norm: 1.0 in the script, which counts, None in the checkpoint"),
        ({}, {"precision": "bf16"}, "precision: 'bf16' in the script, which counts, 'fp32' in the checkpoint"),
        (
            {"callbacks": [EMA(0.9)]}, {"callbacks": [EMA(decay=0.5)]},
            "EMA, decay: 0.5 in the script, which counts, 0.9 in the checkpoint",
        ),
        ({}, {"callbacks": [EMA(0.5)]}, "EMA: a callback in the script, which counts, nothing in the checkpoint"),
        ({"callbacks": [EMA(0.5)]}, {}, "EMA: nothing in the script, which counts, a callback in the checkpoint"),
        (
            {"callbacks": [CosineDecay("lr", 1.0, max_epochs=2)]},
            {"callbacks": [CosineDecay("lr", 1.0, max_epochs=4)]},
            "CosineDecay, max_epochs: 4 in the script, which counts, 2 in the checkpoint",
        ),
        (
            {"callbacks": [Warmup(2, CosineDecay("lr", 0.1, max_steps=4))]},
            {"callbacks": [Warmup(2, CosineDecay("lr", 0.1, max_steps=6))]},
            "max_steps=6, optimizer=None, group=None) in the script, which counts, CosineDecay(name='lr'",
        ),
        (
            {"callbacks": [EarlyStopping("val_loss", 5)]}, {"callbacks": [EarlyStopping("val_loss", 7)]},
            "EarlyStopping, patience: 7 in the script, which counts, 5 in the checkpoint",
        ),
        (
            {"callbacks": [Mine(1), Mine(1)]}, {"callbacks": [Mine(1), Mine(2)]},
            "Mine 2, level: 2 in the script, which counts, 1 in the checkpoint",
        ),
        (
            {"callbacks": lambda optimizer: [LRSchedule(StepLR(optimizer, 1))]},
            {"callbacks": lambda optimizer: [LRSchedule(StepLR(optimizer, 2))]},
            "LRSchedule(StepLR), step_size: 2 in the script, 1 in the checkpoint, which counts",
        ),
        ({"hyper": {"a": 1}}, {"hyper": {"a": 2}}, "a: 2 in the script, 1 in the checkpoint, which counts"),
        ({}, {"lr": 0.3}, "SGD, group 0, lr: 0.3 in the script, 0.1 in the checkpoint, which counts"),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) else "",
)  # fmt: skip
def test_each_other_setting_is_a_line_or_part_of_one_warning_that_says_which_counts(
    before, after, line, tmp_path, capsys
):
    (message,) = changed(tmp_path / "a", before, after)
    assert message.startswith(f"goes on from {tmp_path / 'a'}/fit-001-step-000000004 at step 4, and the script says")
    assert message.count("\n") == 1
    assert line in message
    assert capsys.readouterr().out == ""
    assert changed(tmp_path / "b", before, after, progress=True) == []
    lines = capsys.readouterr().out.splitlines()
    assert len([one for one in lines if line in one]) == len([one for one in lines if "in the checkpoint" in one]) == 1


def test_what_is_the_same_is_not_told_with_callbacks_of_many_kinds(tmp_path):
    def callbacks(optimizer):
        return [
            EMA(0.5), EarlyStopping("val_loss", 9), Mine(), Warmup(3, CosineDecay("momentum", 0.9, 0.5, max_steps=9)),
            LRSchedule(OneCycleLR(optimizer, 0.1, total_steps=12, cycle_momentum=False), every="step"),
        ]  # fmt: skip

    same = {"fits": ({"epochs": 2}, {"epochs": 2}), "hyper": {"a": [0.1, torch.ones(3)], "b": None}}
    for kill in (5, 9, None):
        assert warned(tmp_path, kill=kill, callbacks=callbacks, **same) == []


def test_a_callback_of_the_users_may_come_and_go(tmp_path):
    assert changed(tmp_path / "a", {}, {"callbacks": [Mine()]}) == []
    assert changed(tmp_path / "b", {"callbacks": [Mine()]}, {}) == []


def test_another_setting_of_a_fit_that_is_passed_over_is_told(tmp_path, capsys):
    script(tmp_path)
    (message,) = warned(tmp_path, lr=0.3)
    assert message.startswith("fit 1 was finished at step 6, and is passed over, and the script says otherwise")
    line = "  SGD, group 0, lr: 0.3 in the script, 0.1 in that fit, which is not run again"
    assert message.endswith(line)
    assert warned(tmp_path, lr=0.3, progress=True) == []
    assert line in capsys.readouterr().out.splitlines()


def test_what_the_script_decides_is_told_once_and_what_the_checkpoint_decides_as_long_as_it_is_so(tmp_path):
    script(tmp_path, kill=4)
    assert "accumulate" in warned(tmp_path, kill=5, accumulate=2, lr=0.3)[0]
    (message,) = warned(tmp_path, accumulate=2, lr=0.3)
    assert "accumulate" not in message
    assert "lr: 0.3 in the script" in message


def test_a_checkpoint_that_says_less_is_gone_on_from(tmp_path, monkeypatch):
    monkeypatch.setattr("ignition.fitting.options_of", lambda trainer, **of_fit: {})
    script(tmp_path, kill=5)
    monkeypatch.undo()
    assert warned(tmp_path, accumulate=2) == []


# A scheduler that is too short


def cycled(total):
    return lambda optimizer: [LRSchedule(OneCycleLR(optimizer, 0.1, total_steps=total), every="step")]


def test_a_scheduler_that_the_checkpoint_has_shorter_is_warned_of_and_its_end_is_an_error_that_says_what_to_do(
    tmp_path,
):
    script(tmp_path, callbacks=cycled(6))
    for _ in range(2):
        with (
            pytest.warns(
                IgnitionWarning, match=r"LRSchedule\(OneCycleLR\), total_steps is 9 in the script and 6 in the"
            ),
            pytest.raises(ArgumentError, match="was made for 6 ticks, and step 7 asks for one more") as caught,
        ):
            script(tmp_path, fits=({"epochs": 3},), callbacks=cycled(9))
        assert "another fit behind it" in str(caught.value)
        assert isinstance(caught.value.__cause__, ValueError)
