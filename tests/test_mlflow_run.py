"""MLflow in a local store, read back with MLflow's own client."""

from __future__ import annotations

import math
import random
import socket
import sqlite3
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow.exceptions import MlflowException
from safetensors.torch import load_file
from tracked import Killed, build, points, run, without_times

from ignition import History, Trainer
from ignition.callbacks import MLflow
from ignition.errors import ArgumentError, IgnitionError, IgnitionWarning

pytestmark = pytest.mark.slow  # the tables of a new store take a second or two


@pytest.fixture(scope="module")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of an empty store: to make its tables takes longer than all that the tests do with it."""
    folder = tmp_path_factory.mktemp("store")
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    return (folder / "mlflow.db").read_bytes()


@pytest.fixture
def store(tmp_path: Path, new_store: bytes) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(new_store)
    return folder


def client(store: Path) -> Any:
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")


def runs(store: Path) -> list[Any]:
    experiments = [one.experiment_id for one in client(store).search_experiments()]
    return list(client(store).search_runs(experiments))


def metrics(store: Path, run_id: str) -> dict[str, list[tuple[int, float]]]:
    reader = client(store)
    return {
        name: sorted((one.step, one.value) for one in reader.get_metric_history(run_id, name))
        for name in reader.get_run(run_id).data.metrics
    }


def records(store: Path, run_id: str) -> dict[str, list[tuple[int, float]]]:
    return {name: series for name, series in metrics(store, run_id).items() if not name.startswith("batch/")}


def test_a_run_has_the_parameters_the_records_and_the_batches(store: Path) -> None:
    tracker = MLflow(store, experiment="digits", run_name="first", every=2, hyper={"layers": 2, "kind": [1, "a"]})
    trainer = build(tracker)
    trainer.fit(epochs=2, eval_every=3)

    (found,) = runs(store)
    assert found.info.run_id == tracker.run_id
    assert (found.info.run_name, found.info.status) == ("first", "FINISHED")
    assert client(store).get_experiment(found.info.experiment_id).name == "digits"
    expected = {"lr": "0.1", "momentum": "0.9", "optimizer": "SGD", "batch_size": "8", "lambd": "4.0", "layers": "2"}
    assert {name: found.data.params[name] for name in expected} == expected
    assert found.data.params["kind"] == "[1, 'a']"
    assert records(store, tracker.run_id) == points(trainer)
    assert [step for step, _ in metrics(store, tracker.run_id)["batch/loss"]] == [2, 4, 6, 8, 10]


def test_the_weights_and_the_history_are_artifacts_that_can_be_read_again(store: Path) -> None:
    tracker = MLflow(store)
    trainer = build(tracker)
    trainer.fit(epochs=2)
    folder = Path(client(store).get_run(tracker.run_id).info.artifact_uri.removeprefix("file://"))
    assert sorted(path.name for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")) == [
        "history.json",
        "model.safetensors",
    ]
    weights = load_file(folder / "model" / "model.safetensors")
    assert weights.keys() == trainer.model.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in trainer.model.state_dict().items())
    assert History.from_json(folder / "history.json").rows == trainer.history.rows


def test_with_model_false_there_are_no_weights(store: Path) -> None:
    tracker = MLflow(store, model=False)
    build(tracker).fit(epochs=1)
    assert [one.path for one in client(store).list_artifacts(tracker.run_id)] == ["history.json"]


def test_nan_infinity_and_names_that_mlflow_refuses_are_made_acceptable(store: Path) -> None:
    tracker = MLflow(store, every=5)
    build(tracker, metrics={"recall@5": math.nan, "recall#5": math.inf, "a//b": -math.inf}).fit(epochs=1)
    found = metrics(store, tracker.run_id)
    assert math.isnan(found["batch/recall_5"][0][1])
    assert found["batch/recall_5_2"][0][1] > 1e300  # the most that the store can hold
    assert found["batch_a__b"][0][1] < -1e300


def test_the_random_numbers_of_the_training_are_left_alone(store: Path) -> None:
    trainer = build(MLflow(store))
    random.seed(7)
    expected = random.Random(7).random()
    trainer.fit(epochs=1)
    assert random.random() == expected


def test_a_folder_is_made_into_a_store(tmp_path: Path) -> None:
    tracker = MLflow(tmp_path / "new" / "store")
    build(tracker).fit(epochs=1)
    assert [one.info.run_id for one in runs(tmp_path / "new" / "store")] == [tracker.run_id]
    assert sorted(path.name for path in (tmp_path / "new" / "store").iterdir()) == ["artifacts", "mlflow.db"]


def test_a_run_that_the_user_has_begun_is_written_to_and_left_open(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store / 'mlflow.db'}")
    experiment = client(store).create_experiment("mine", artifact_location=(store / "artifacts").as_uri())
    with mlflow.start_run(experiment_id=experiment) as mine:
        mlflow.log_param("lr", "mine")
        trainer = build(MLflow(model=False))
        trainer.fit(epochs=1)
        assert mlflow.active_run().info.run_id == mine.info.run_id
        assert client(store).get_run(mine.info.run_id).info.status == "RUNNING"
    assert records(store, mine.info.run_id) == points(trainer)
    assert client(store).get_run(mine.info.run_id).data.params["lr"] == "mine"


# Going on


@pytest.mark.parametrize("die_at", [6, 9, 12, 15])
def test_a_killed_run_that_goes_on_has_each_step_once_with_the_values_of_one_that_was_left_alone(
    die_at: int, store: Path, tmp_path: Path
) -> None:
    whole, killed = MLflow(store, every=1), MLflow(store, every=1)
    run(tmp_path / "whole", whole)
    run(tmp_path / "killed", killed, die_at=die_at)
    assert client(store).get_run(killed.run_id).info.status == "FAILED"

    again = MLflow(store, every=1)
    run(tmp_path / "killed", again)
    assert again.run_id == killed.run_id
    found = metrics(store, killed.run_id)
    assert without_times(found) == without_times(metrics(store, whole.run_id))
    assert [step for step, _ in found["batch/loss"]] == list(range(1, 16))
    assert [step for step, _ in found["seconds"]] == [5, 10, 15]
    assert client(store).get_run(killed.run_id).info.status == "FINISHED"


def test_several_fits_are_one_run_and_so_is_one_after_an_error(store: Path) -> None:
    tracker = MLflow(store, every=1)
    trainer = build(tracker, die_at=7)
    trainer.fit(epochs=1)
    with pytest.raises(Killed):
        trainer.fit(epochs=1)
    assert client(store).get_run(tracker.run_id).info.status == "FAILED"
    plain = build()
    trainer.train_fn = lambda model, x, y, lambd: plain.train_fn(model, x, y, lambd)
    with pytest.warns(IgnitionWarning):  # the other Trainer's optimizer takes the steps
        trainer.fit(epochs=1)
    assert len(runs(store)) == 1
    assert records(store, tracker.run_id) == points(trainer)


def test_another_trainer_is_another_run(store: Path) -> None:
    tracker = MLflow(store)
    build(tracker).fit(epochs=1)
    first = tracker.run_id
    trainer = build(tracker)
    trainer.fit(epochs=1)
    assert {one.info.run_id for one in runs(store)} == {first, tracker.run_id}
    assert first != tracker.run_id
    assert records(store, tracker.run_id) == points(trainer)


def test_a_run_that_was_deleted_from_the_store_is_begun_anew_with_all_records(store: Path, tmp_path: Path) -> None:
    killed = MLflow(store)
    run(tmp_path, killed, die_at=12)
    with sqlite3.connect(store / "mlflow.db") as tables:
        for name in ("metrics", "latest_metrics", "params", "tags", "runs"):
            tables.execute(f"DELETE FROM {name}")
    tables.close()
    again = MLflow(store)
    with pytest.warns(IgnitionWarning, match="a new one is begun"):
        trainer = run(tmp_path, again)
    assert records(store, again.run_id) == points(trainer)


# What goes wrong


def test_a_store_that_fails_while_it_trains_warns_once_and_lacks_nothing_after_the_next_fit(store: Path) -> None:
    tracker = MLflow(store, every=1)
    trainer = build(tracker)
    away = store.with_name("away.db")

    @trainer.on("epoch_begin")
    def take_away(trainer: Trainer[Any]) -> None:
        if trainer.epoch == 2:  # the tables are gone
            (store / "mlflow.db").rename(away)
            (store / "mlflow.db").touch()

    with pytest.warns(IgnitionWarning, match="MLflow.*could not be written.*the training goes on") as caught:
        trainer.fit(epochs=3)
    assert len([one for one in caught if issubclass(one.category, IgnitionWarning)]) == 1
    assert (trainer.step, len(trainer.history), trainer.exception) == (15, 3, None)

    away.rename(store / "mlflow.db")
    trainer.fit(epochs=1)
    assert records(store, tracker.run_id) == points(trainer)


def test_a_server_that_cannot_be_reached_is_an_error_before_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        trainer = build(MLflow(f"http://127.0.0.1:{taken.getsockname()[1]}"))
        with pytest.raises(MlflowException, match="127"):
            trainer.fit(epochs=1)
    assert trainer.step == 0


def test_weights_that_the_format_cannot_hold_are_an_error_before_the_first_batch(store: Path) -> None:
    trainer = build(MLflow(store))
    trainer.model[0].register_buffer("graph", torch.eye(2).to_sparse())
    with pytest.raises(ArgumentError) as caught:
        trainer.fit(epochs=1)
    assert "model=False" in "".join(caught.value.__notes__)
    assert not runs(store)


@pytest.mark.parametrize(
    ("name", "value"), [("store", 3), ("store", ""), ("experiment", ""), ("run_name", 5), ("every", 0)]
)
def test_bad_arguments_are_errors_at_once(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=name):
        MLflow(**{name: value})


def test_without_mlflow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ignition.callbacks.tracking.find_spec", lambda name: None)
    with pytest.raises(IgnitionError, match=r"torch-ignition\[mlflow\]"):
        MLflow()
