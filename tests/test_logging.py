"""CSVLogger against `History`, read with csv and with pandas."""

from __future__ import annotations

import csv
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ignition import Trainer
from ignition.callbacks import logging
from ignition.callbacks.logging import CSVLogger
from ignition.errors import ArgumentError, IgnitionWarning
from ignition.history import History


class StandIn:
    """What CSVLogger sees of a Trainer."""

    def __init__(self, callback: CSVLogger, history: History | None = None) -> None:
        self.callback: Any = callback
        self.history = History() if history is None else history
        self.exception: BaseException | None = None

    def fit(self, *records: dict[str, Any], begin: bool = True, end: bool = True) -> None:
        if begin:
            self.callback.on_train_begin(self)
        for record in records:
            self.add(record)
            self.callback.on_record(self)
        if end:
            self.callback.on_train_end(self)

    def add(self, record: dict[str, Any]) -> None:
        number = len(self.history) + 1
        self.history.append({"epoch": number, "step": 10 * number, **record}, epoch_ended=True)


def assert_holds(path: Path, history: History) -> None:
    """The file, read by csv and by pandas, is the history."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [list(history.columns)] * len(history)
    for row, record in zip(rows, history.rows, strict=True):
        for column, text in row.items():
            value = record.get(column)
            if value is None or (isinstance(value, float) and math.isnan(value)):
                assert text == ""
            else:
                assert type(value)(text) == value
    frame = pandas.read_csv(path)
    pandas.testing.assert_frame_equal(frame, history.to_frame(), check_dtype=False)


def test_after_each_record_the_file_is_the_history(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "log.csv"
    trainer = StandIn(CSVLogger(path))
    trainer.fit(end=False)
    for value in (0.1, 1 / 3, 1e-300, 0.0, 7, math.nan, math.inf):
        trainer.fit({"train_loss": value, "val_acc": 1.0}, begin=False, end=False)
        assert_holds(path, trainer.history)


def test_a_new_column_is_in_the_header_and_in_every_line(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    trainer = StandIn(CSVLogger(path))
    trainer.fit(end=False)
    for record in ({"train_loss": 1.0}, {"train_loss": 0.5, "lambd": 4}, {"val_acc": 0.5}, {"train_loss": 0.2}):
        trainer.fit(record, begin=False, end=False)
        assert_holds(path, trainer.history)
    assert path.read_text().splitlines()[0] == "epoch,step,train_loss,val_acc,lambd"


cells = st.floats() | st.integers(-(10**6), 10**6)
rows = st.lists(st.dictionaries(st.sampled_from(["train_a", "val_b", "lr", 'hyper, "quoted"\n']), cells), max_size=6)


@pytest.mark.slow
@settings(max_examples=50)
@given(rows)
def test_the_file_is_byte_for_byte_what_to_csv_writes(tmp_path_factory: pytest.TempPathFactory, records: Any) -> None:
    folder = tmp_path_factory.mktemp("log")
    trainer = StandIn(CSVLogger(folder / "log.csv"))
    trainer.fit(end=False)
    for record in records:
        trainer.fit(record, begin=False, end=False)
        trainer.history.to_csv(folder / "reference.csv")
        assert (folder / "log.csv").read_bytes() == (folder / "reference.csv").read_bytes()


def test_text_among_the_hyperparameters_is_quoted_as_it_must_be(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    trainer = StandIn(CSVLogger(path))
    trainer.fit({"kind": "a,b"}, {"kind": 'say "x"'}, {"kind": "two\nlines, größer"})

    assert_holds(path, trainer.history)


def test_a_record_is_appended_and_nothing_before_it_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = StandIn(CSVLogger(tmp_path / "log.csv"))
    trainer.fit({"train_loss": 1.0}, end=False)
    monkeypatch.setattr(History, "to_csv", None)
    trainer.fit({"train_loss": 0.5}, {"train_loss": 0.25}, begin=False)
    monkeypatch.undo()

    assert_holds(tmp_path / "log.csv", trainer.history)


def test_the_next_fit_doubles_nothing(tmp_path: Path) -> None:
    trainer = StandIn(CSVLogger(tmp_path / "log.csv"))
    for _ in range(3):
        trainer.fit({"train_loss": 1.0}, {"train_loss": 0.5})
        assert_holds(tmp_path / "log.csv", trainer.history)


def test_a_logger_that_joins_later_writes_what_was_before(tmp_path: Path) -> None:
    earlier = StandIn(CSVLogger(tmp_path / "other.csv"))
    earlier.fit({"train_loss": 1.0}, {"train_loss": 0.5})
    trainer = StandIn(CSVLogger(tmp_path / "log.csv"), earlier.history)
    trainer.fit()
    assert_holds(tmp_path / "log.csv", trainer.history)
    trainer.fit({"train_loss": 0.2})
    assert_holds(tmp_path / "log.csv", trainer.history)


def test_a_resumed_training_goes_on_in_its_file_from_the_record_of_the_checkpoint(tmp_path: Path) -> None:
    trainer = StandIn(CSVLogger(tmp_path / "log.csv"))
    trainer.fit({"train_loss": 1.0}, {"train_loss": 0.5}, end=False)
    checkpoint = trainer.history.state_dict()
    trainer.fit({"train_loss": 0.3}, begin=False, end=False)  # written, and lost in the crash

    history = History()
    history.load_state_dict(checkpoint)
    resumed = StandIn(CSVLogger(tmp_path / "log.csv"), history)
    resumed.fit({"train_loss": 0.25})
    assert_holds(tmp_path / "log.csv", resumed.history)
    assert len(resumed.history) == 3


def test_the_file_of_another_training_is_replaced_at_the_first_record_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    StandIn(CSVLogger(path)).fit({"train_loss": 1.0})
    old = path.read_text()
    logger = CSVLogger(path)
    StandIn(logger).fit()
    assert path.read_text() == old

    trainer = StandIn(logger)
    trainer.fit({"val_acc": 0.0})
    assert_holds(path, trainer.history)


def test_a_record_whose_event_was_lost_to_another_callbacks_error_is_written_at_the_end(tmp_path: Path) -> None:
    trainer = StandIn(CSVLogger(tmp_path / "log.csv"))
    trainer.fit({"train_loss": 1.0}, end=False)
    trainer.add({"train_loss": math.nan})
    trainer.callback.on_train_end(trainer)
    assert_holds(tmp_path / "log.csv", trainer.history)

    trainer.fit(end=False)
    trainer.add({"train_loss": 0.5})
    trainer.add({"train_loss": 0.25})
    trainer.callback.on_train_end(trainer)
    assert_holds(tmp_path / "log.csv", trainer.history)


def test_a_file_that_was_taken_away_is_written_anew(tmp_path: Path) -> None:
    trainer = StandIn(CSVLogger(tmp_path / "log.csv"))
    trainer.fit({"train_loss": 1.0}, end=False)
    (tmp_path / "log.csv").unlink()
    trainer.fit({"train_loss": 0.5}, begin=False)

    assert_holds(tmp_path / "log.csv", trainer.history)


# What goes wrong


@contextmanager
def disk_full_beyond(size: int) -> Iterator[None]:
    """No file can be written beyond `size` bytes: what a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 5])
def test_a_full_disk_warns_once_leaves_whole_lines_and_all_records_come_later(room: int, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    trainer = StandIn(CSVLogger(path))
    trainer.fit({"train_loss": 1.0}, end=False)
    whole = path.read_bytes()

    def three_epochs() -> None:
        for value in (0.5, 0.25, 0.125):
            trainer.fit({"train_loss": value}, begin=False, end=False)
            assert path.read_bytes() == whole

    with disk_full_beyond(len(whole) + room), pytest.warns(IgnitionWarning, match="the training goes on") as caught:
        three_epochs()
    assert len(caught) == 1

    trainer.fit({"train_loss": 0.1}, begin=False, end=False)
    assert_holds(path, trainer.history)
    assert [file.name for file in tmp_path.iterdir()] == ["log.csv"]


def test_what_the_full_disk_kept_out_is_written_at_the_end_of_the_fit(tmp_path: Path) -> None:
    trainer = StandIn(CSVLogger(tmp_path / "log.csv"))
    trainer.fit({"train_loss": 1.0}, end=False)
    with disk_full_beyond(10), pytest.warns(IgnitionWarning, match=r"log\.csv"):
        trainer.fit({"train_loss": 0.5}, begin=False, end=False)
    trainer.fit(begin=False)

    assert_holds(tmp_path / "log.csv", trainer.history)


def test_a_folder_of_that_name_is_an_error_before_the_first_batch(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="which is a folder"):
        StandIn(CSVLogger(tmp_path)).fit()


def test_a_folder_that_cannot_be_made_is_an_error_before_the_first_batch(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()

    with pytest.raises(OSError, match="runs"):
        StandIn(CSVLogger(tmp_path / "runs" / "log.csv")).fit()


@pytest.mark.parametrize("path", [None, 3, b"log.csv", ["log.csv"]])
def test_what_is_no_path_is_an_error_at_once(path: Any) -> None:
    with pytest.raises(ArgumentError, match="the path of a file"):
        CSVLogger(path)


def test_the_callback_says_what_it_is() -> None:
    assert repr(CSVLogger("runs/log.csv")) == "CSVLogger('runs/log.csv')"
    assert logging.__all__ == ["CSVLogger"]


# In a training


def test_the_file_of_a_training_is_its_history(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    seen = []

    def train_fn(model: nn.Module, x: float) -> dict[str, float]:
        return {"loss": x} | ({"late": 1.0} if trainer.epoch == 2 else {})

    trainer = Trainer(nn.Linear(1, 1), None, train_fn, [0.5, 0.25], progress=False, device="cpu")
    trainer.hyper = {}
    trainer.callbacks = [CSVLogger(path)]

    @trainer.on("record")
    def look(trainer: Any) -> None:
        assert_holds(path, trainer.history)
        seen.append(trainer.step)

    with pytest.warns(IgnitionWarning):  # a batch without a tensor counts as one sample, and says so
        trainer.fit(epochs=3, eval_every=3)
    trainer.fit(epochs=1)
    assert seen == [2, 3, 4, 6, 8]
    assert_holds(path, trainer.history)
