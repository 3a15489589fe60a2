"""TensorBoard, read back with TensorBoard's own reader."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tracked import Killed, build, points, run, without_times

from ignition.callbacks import TensorBoard
from ignition.errors import ArgumentError, IgnitionError, IgnitionWarning


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    events.Reload()
    return events


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = read(folder)
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def records(folder: Path) -> dict[str, list[tuple[int, float]]]:
    return {name: series for name, series in scalars(folder).items() if not name.startswith("batch/")}


def in_single_precision(series: dict[str, list[tuple[int, float]]]) -> dict[str, Any]:
    """TensorBoard keeps 32 bits."""
    return {name: [(step, torch.tensor(value).item()) for step, value in one] for name, one in series.items()}


def test_each_record_is_there_under_the_names_of_history(tmp_path: Path) -> None:
    trainer = build(TensorBoard(tmp_path / "a" / "b"))
    trainer.fit(epochs=2, eval_every=3)
    assert records(tmp_path / "a" / "b") == in_single_precision(points(trainer))


def test_the_batch_is_there_every_so_many_steps_with_what_the_train_function_returned(tmp_path: Path) -> None:
    seen = []
    trainer = build(TensorBoard(tmp_path, every=3))

    @trainer.on("batch_end")
    def look(trainer: Any) -> None:
        seen.append(trainer.batch_metrics["loss"])

    trainer.fit(epochs=2)
    assert scalars(tmp_path)["batch/loss"] == [(step, torch.tensor(seen[step - 1]).item()) for step in (3, 6, 9)]
    assert [step for step, _ in scalars(tmp_path)["batch/acc"]] == [3, 6, 9]


def test_with_every_none_no_step_is_looked_at(tmp_path: Path) -> None:
    tracker = TensorBoard(tmp_path, every=None)
    trainer = build(tracker)
    trainer.fit(epochs=1)
    assert not [name for name in scalars(tmp_path) if name.startswith("batch/")]
    assert "on_step_end" not in vars(tracker)


def test_hyperparameters_and_the_metrics_to_compare_stand_in_the_run_itself(tmp_path: Path) -> None:
    trainer = build(TensorBoard(tmp_path, hyper={"layers": 2, "shape": (4, 3)}))
    trainer.fit(epochs=1)
    content = read(tmp_path).SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    numbers = {name: found[name].number_value for name in ("lr", "momentum", "lambd", "layers", "batch_size")}
    assert numbers == {"lr": 0.1, "momentum": 0.9, "lambd": 4.0, "layers": 2, "batch_size": 8}
    assert found["optimizer"].string_value == "SGD"
    assert found["shape"].string_value == "(4, 3)"
    assert all(path.is_file() for path in tmp_path.iterdir())  # add_hparams would make another run


def test_the_curve_of_the_loss_and_the_users_own_figures_are_images(tmp_path: Path) -> None:
    tracker = TensorBoard(tmp_path)
    trainer = build(tracker)

    @trainer.on("record")
    def draw(trainer: Any) -> None:
        figure = Figure(figsize=(2, 1))
        figure.add_subplot().plot([1, 2])
        tracker.add_figure("mine", figure)
        tracker.writer.add_histogram("weights", trainer.model[0].weight, trainer.step)

    trainer.fit(epochs=2)
    events = read(tmp_path)
    assert [one.step for one in events.Images("mine")] == [5, 10]
    assert [(one.width, one.height) for one in events.Images("mine")] == [(200, 100)] * 2
    (curve,) = events.Images("loss")
    assert curve.step == 10
    assert curve.encoded_image_string.startswith(b"\x89PNG")
    assert [one.step for one in events.Histograms("weights")] == [5, 10]
    assert tracker.writer is None


def test_nan_infinity_and_any_name_are_written(tmp_path: Path) -> None:
    metrics = {"recall@5 (%)": math.nan, "größe/x y": math.inf}
    trainer = build(TensorBoard(tmp_path, every=1), metrics=metrics)
    trainer.fit(epochs=1)
    found = scalars(tmp_path)
    assert all(math.isnan(value) for _, value in found["batch/recall@5 (%)"])
    assert [value for _, value in found["train_größe/x y"]] == [math.inf]


# Going on


@pytest.mark.slow
@pytest.mark.parametrize("die_at", [2, 9, 12, 15])
def test_a_killed_run_that_goes_on_has_each_step_once_with_the_values_of_one_that_was_left_alone(
    die_at: int, tmp_path: Path
) -> None:
    run(tmp_path / "whole", TensorBoard(tmp_path / "whole" / "log", every=1))
    run(tmp_path / "killed", TensorBoard(tmp_path / "killed" / "log", every=1), die_at=die_at)
    lost = scalars(tmp_path / "killed" / "log")["batch/loss"]
    assert [step for step, _ in lost] == list(range(1, die_at))

    run(tmp_path / "killed", TensorBoard(tmp_path / "killed" / "log", every=1))
    found, expected = scalars(tmp_path / "killed" / "log"), scalars(tmp_path / "whole" / "log")
    assert without_times(found) == without_times(expected)
    assert [step for step, _ in found["batch/loss"]] == list(range(1, 16))
    assert [step for step, _ in found["seconds"]] == [5, 10, 15]


@pytest.mark.slow
def test_the_next_fits_go_on_in_the_folder_and_one_after_an_error_too(tmp_path: Path) -> None:
    trainer = build(TensorBoard(tmp_path, every=1))
    trainer.fit(epochs=1)
    trainer.callbacks = [TensorBoard(tmp_path, every=1)]  # as a notebook's cell makes it that is run again

    @trainer.on("batch_begin")
    def fail(trainer: Any) -> None:
        if trainer.step == 7 and trainer.exception is None and not failed:
            failed.append(True)
            raise Killed

    failed: list[bool] = []
    with pytest.raises(Killed):
        trainer.fit(epochs=1)
    trainer.fit(epochs=1)
    assert records(tmp_path) == in_single_precision(points(trainer))
    assert [step for step, _ in scalars(tmp_path)["batch/loss"]] == list(range(1, trainer.step + 1))


def test_a_tracker_that_joins_later_writes_the_records_from_before(tmp_path: Path) -> None:
    trainer = build()
    trainer.fit(epochs=2)
    trainer.callbacks = [TensorBoard(tmp_path)]
    trainer.fit(epochs=1)
    assert records(tmp_path) == in_single_precision(points(trainer))


@pytest.mark.slow
def test_another_training_in_the_folder_hides_the_one_before(tmp_path: Path) -> None:
    tracker = TensorBoard(tmp_path, every=1)
    build(tracker).fit(epochs=2)
    trainer = build(tracker)
    trainer.fit(epochs=1)
    assert records(tmp_path) == in_single_precision(points(trainer))


# What goes wrong


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of the writer's thread
def test_a_folder_that_is_taken_away_warns_once_and_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "log"
    trainer = build(TensorBoard(folder, every=1))

    @trainer.on("epoch_begin")
    def take_away(trainer: Any) -> None:
        if trainer.epoch == 2:
            shutil.rmtree(folder)
            folder.touch()

    with pytest.warns(IgnitionWarning, match="TensorBoard.*could not be written.*the training goes on") as caught:
        trainer.fit(epochs=4)
    assert len([one for one in caught if issubclass(one.category, IgnitionWarning)]) == 1
    assert (trainer.step, len(trainer.history), trainer.exception) == (20, 4, None)

    folder.unlink()
    trainer.fit(epochs=1)
    assert records(folder) == in_single_precision(points(trainer))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_is_well_again_gets_the_records_that_it_lacks_in_the_same_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ignition.callbacks.tracking.RETRY_SECONDS", 0.0)
    tracker = TensorBoard(tmp_path)
    trainer = build(tracker)

    @trainer.on("epoch_begin")
    def break_and_mend(trainer: Any) -> None:
        if trainer.epoch == 2:

            def fail(*arguments: Any) -> None:
                raise OSError(28, "No space left on device")

            tracker.writer.file_writer.event_writer._async_writer._writer.write = fail
        elif trainer.epoch == 4:
            time.sleep(0.5)  # more than nine times what the failure took

    with pytest.warns(IgnitionWarning, match="No space left"):
        trainer.fit(epochs=4)
    assert records(tmp_path) == in_single_precision(points(trainer))


def test_a_folder_that_cannot_be_made_is_an_error_before_the_first_batch(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    trainer = build(TensorBoard(tmp_path / "runs" / "log"))
    with pytest.raises(OSError, match="runs"):
        trainer.fit(epochs=1)
    assert trainer.step == 0


@pytest.mark.parametrize("folder", [None, 3, b"runs"])
def test_what_is_no_folder_is_an_error_at_once(folder: Any) -> None:
    with pytest.raises(ArgumentError, match="the path of a folder"):
        TensorBoard(folder)


@pytest.mark.parametrize(("name", "value"), [("every", 0), ("every", 2.5), ("hyper", [1]), ("hyper", {1: 2})])
def test_what_is_no_number_of_steps_and_no_hyperparameters_is_an_error_at_once(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=name):
        TensorBoard("runs", **{name: value})


def test_without_tensorboard_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ignition.callbacks.tracking.find_spec", lambda name: None)
    with pytest.raises(IgnitionError, match=r"torch-ignition\[tensorboard\]"):
        TensorBoard("runs")
