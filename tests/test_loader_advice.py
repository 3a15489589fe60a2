"""A training that waits for its loader is told so once, with what to set."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from ignition import TensorLoader, Trainer
from ignition.loader_advice import Advisor, advice, faster


class Indexed(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.zeros(1)


class Streamed(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (DataLoader(TensorDataset(torch.zeros(4))), "TensorLoader(*tensors"),
        (DataLoader(Indexed()), "set num_workers=4 or more, persistent_workers=True in its DataLoader"),
        (DataLoader(Streamed()), "gives each worker its part, persistent_workers=True"),
        (DataLoader(Indexed(), num_workers=2), "set more num_workers than 2, persistent_workers=True in"),
        (
            DataLoader(Indexed(), num_workers=2, persistent_workers=True),
            "set more num_workers than 2 in its DataLoader",
        ),
        (TensorLoader(torch.zeros(4), batch_size=2), "take larger batches"),
        ([torch.zeros(1)], "read through a DataLoader with num_workers"),
    ],
)
def test_what_to_set_depends_on_the_loader(loader, words, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert words in faster(loader)


def test_an_accelerator_has_advice_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert "pin_memory=True" in faster(DataLoader(Indexed()))
    assert 'device="auto"' in faster(TensorLoader(torch.zeros(4), batch_size=2))


@pytest.mark.parametrize(
    ("seconds", "data_seconds", "is_told"),
    [(9, 3.1, True), (9, 2.9, False), (1.2, 0.9, False), (0.0, 0.0, False)],
)
def test_it_is_told_from_a_third_of_the_time_on_if_that_is_a_second_at_least(seconds, data_seconds, is_told):
    assert (advice([], seconds, data_seconds) is not None) == is_told


def test_short_records_add_up_until_they_tell_enough():
    advisor = Advisor()
    short = {"seconds": 0.5, "data_seconds": 0.3}
    assert [advisor.after(short, []) is not None for _ in range(6)] == [False, False, False, True, False, False]


def test_what_was_fast_for_long_is_not_held_against_what_is_slow_now():
    advisor = Advisor()
    assert [advisor.after({"seconds": 10.0, "data_seconds": 0.5}, []) for _ in range(9)] == [None] * 9
    assert advisor.after({"seconds": 4.0, "data_seconds": 2.0}, []) is not None


class Clock:
    """A clock that the loader sets, in the place of the real one."""

    now = 0.0

    def __call__(self):
        return self.now


def waiting(clock):
    class Waiting:
        def __iter__(self):
            for _ in range(4):
                clock.now += 2.0
                yield torch.zeros(1)

    return Waiting()


@pytest.mark.parametrize("progress", [True, False])
def test_a_trainer_says_it_once_and_not_without_progress(monkeypatch, capsys, progress):
    clock = Clock()
    for module in ("training", "loop", "passes", "clock"):
        monkeypatch.setattr(f"ignition.{module}.perf_counter", clock)

    def train_fn(model, x):
        clock.now += 1.0

    trainer = Trainer(nn.Identity(), None, train_fn, waiting(clock), progress=progress)
    trainer.fit(epochs=2)
    trainer.fit(epochs=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if "waiting" in line]
    expected = "67% of the time was spent waiting for the train loader: read through a DataLoader with num_workers"
    assert lines == [expected] * progress
    assert trainer.history.last["data_seconds"] == 8.0
