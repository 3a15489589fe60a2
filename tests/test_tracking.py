"""What the trackers share, seen through one that keeps its points in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from tracked import STEPS_PER_EPOCH, Killed, build, points

from ignition import TensorLoader, Trainer
from ignition.callbacks import tracking
from ignition.callbacks.tracking import Tracker, hyperparameters, require
from ignition.errors import IgnitionError, IgnitionWarning


class InMemory(Tracker):
    """Runs by their ids; each attempt to write or to open costs `costs` seconds of `clock`, and may fail."""

    def __init__(self, every: int | None = None) -> None:
        super().__init__(every, None)
        self.runs: dict[str, list[tuple[int, dict[str, float], bool]]] = {}
        self.fails = False
        self.clock, self.costs, self.attempts = 0.0, 0.0, 0
        self.closed: list[str] = []

    def __repr__(self) -> str:
        return "InMemory()"

    def _try(self) -> None:
        self.attempts += 1
        self.clock += self.costs
        if self.fails:
            raise ConnectionError("nobody is there\nand this is too much to read")

    def _open(self, trainer: Trainer[Any]) -> tuple[int, int]:
        self._try()
        self.run_id = self.run_id or f"run {len(self.runs) + 1}"
        run = self.runs.setdefault(self.run_id, [])
        last = [max((step for step, _, is_record in run if is_record == kind), default=-1) for kind in (True, False)]
        return last[0], last[1]

    def _write(self, step: int, values: dict[str, float], is_record: bool) -> None:
        self._try()
        self.runs[str(self.run_id)].append((step, values, is_record))

    def _close(self, outcome: str) -> None:
        self.closed.append(outcome)

    def series(self) -> dict[str, list[tuple[int, float]]]:
        found: dict[str, list[tuple[int, float]]] = {}
        for step, values, _ in self.runs[str(self.run_id)]:
            for name, value in values.items():
                found.setdefault(name, []).append((step, value))
        return found


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> InMemory:
    found = InMemory()
    monkeypatch.setattr(tracking.time, "monotonic", lambda: found.clock)
    return found


def test_records_are_written_under_the_names_of_history(tracker: InMemory) -> None:
    trainer = build(tracker)
    trainer.fit(epochs=2, eval_every=3)
    assert tracker.series() == points(trainer)
    assert tracker.closed == ["finished"]


def test_metrics_of_the_batch_are_read_only_at_the_steps_that_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = InMemory(every=4)
    trainer = build(tracker)
    read, plain = [], tracking.plain_values
    monkeypatch.setattr(tracking, "plain_values", lambda values: read.append(trainer.step) or plain(values))
    trainer.fit(epochs=2)
    assert read == [4, 8]
    assert [step for step, _ in tracker.series()["batch/loss"]] == [4, 8]


def test_one_that_fails_warns_once_a_fit_with_the_first_line_of_the_reason(tracker: InMemory) -> None:
    trainer = build(tracker)

    @trainer.on("epoch_begin")
    def fail(trainer: Any) -> None:
        tracker.fails = trainer.epoch in (2, 3)

    with pytest.warns(IgnitionWarning) as caught:
        trainer.fit(epochs=3)
    (warning,) = caught
    assert str(warning.message).startswith("InMemory() could not be written: nobody is there; the training goes on")
    assert tracker.closed == ["lost"]
    tracker.fails = False
    trainer.fit(epochs=1)
    assert tracker.series() == points(trainer)
    assert tracker.closed == ["lost", "finished"]


def test_the_reason_is_what_the_library_wraps(tracker: InMemory) -> None:
    def write(*arguments: Any) -> None:
        try:
            raise OSError("the disk is full")
        except OSError as error:
            raise RuntimeError("consider this\nor that") from error

    tracker._write = write  # type: ignore[method-assign]
    with pytest.warns(IgnitionWarning, match="could not be written: the disk is full; the training goes on"):
        tracker._attempt(tracker._write)


@pytest.mark.parametrize(("costs", "wait"), [(0.0, 60), (1.0, 60), (30.0, 270)])
def test_it_is_tried_again_so_seldom_that_a_tenth_of_the_time_is_enough(
    tracker: InMemory, costs: float, wait: int
) -> None:
    trainer = build(tracker)
    seen = []

    @trainer.on("epoch_begin")
    def let_time_pass(trainer: Any) -> None:
        tracker.fails, tracker.costs = 2 <= trainer.epoch <= 8, costs
        tracker.clock += {3: wait - 0.5, 4: 0.5, 9: wait}.get(trainer.epoch, 0.0)

    @trainer.on("epoch_end")
    def count(trainer: Any) -> None:
        seen.append(tracker.attempts)

    with pytest.warns(IgnitionWarning, match=f"after {wait} s or more"):
        trainer.fit(epochs=10)
    # It fails in epoch 2, and again in epoch 4; in epoch 9 it is opened, and gets the records of eight epochs.
    assert seen == [2, 3, 3, 4, 4, 4, 4, 4, 13, 14]
    assert tracker.series() == points(trainer)


def test_one_that_fails_at_the_start_is_an_error_before_the_first_batch(tracker: InMemory) -> None:
    tracker.fails = True
    trainer = build(tracker)
    with pytest.raises(ConnectionError):
        trainer.fit(epochs=1)
    assert trainer.step == 0
    tracker.fails = False
    trainer.fit(epochs=1)
    assert tracker.series() == points(trainer)


def test_a_training_that_failed_says_so(tracker: InMemory) -> None:
    trainer = build(tracker, die_at=STEPS_PER_EPOCH + 2)
    with pytest.raises(Killed):
        trainer.fit(epochs=2)
    assert tracker.closed == ["failed"]
    assert tracker.series() == points(trainer)


def test_what_other_processes_do_is_not_logged(tracker: InMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_is_logged", lambda: False)
    tracker.every = 1
    build(tracker).fit(epochs=1)
    assert tracker.attempts == 0
    assert tracker.runs == {}


def test_hyperparameters_are_those_of_every_optimizer_of_the_options_and_the_users_own() -> None:
    model = {"G": nn.Linear(2, 2), "D": nn.Linear(2, 2)}
    optimizer = {
        "G": torch.optim.Adam(model["G"].parameters(), lr=0.1),
        "D": torch.optim.SGD(model["D"].parameters(), lr=0.2),
    }
    loader = TensorLoader(torch.zeros(4, 2), batch_size=2)
    trainer = Trainer(
        model, optimizer, lambda models, x: None, loader, accumulate=2, clip_norm=1.0, seed=5, progress=False
    )
    trainer.hyper = {"lambd": torch.tensor(4.0), "kind": "a", "table": [1, 2]}
    assert hyperparameters(trainer, {"layers": 3, "shape": (1, 2), "none": None}) == {
        "optimizer_G": "Adam", "lr_G": 0.1, "eps_G": 1e-8, "weight_decay_G": 0,
        "optimizer_D": "SGD", "lr_D": 0.2, "momentum_D": 0, "dampening_D": 0, "weight_decay_D": 0,
        "batch_size": 2, "accumulate": 2, "clip_norm": 1.0, "seed": 5,
        "lambd": 4.0, "kind": "a", "layers": 3, "shape": "(1, 2)", "none": None,
    }  # fmt: skip


def test_what_is_not_installed_is_an_error_that_names_the_extra() -> None:
    with pytest.raises(IgnitionError, match=r'pip install "torch-ignition\[mlflow\]"'):
        require("no_such_library", "mlflow", "MLflow")
