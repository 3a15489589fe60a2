"""MLflow: a training as a run in a local store or on a tracking server."""

from __future__ import annotations

import os
import posixpath
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignition.callbacks.tracking import Tracker, hyperparameters, require
from ignition.errors import ArgumentError, warn
from ignition.strategy import is_sharded
from ignition.weights import check_weights, write_weights

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["MLflow"]

_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""While it trains: by itself MLflow tries for four minutes to reach a server that is gone."""

_PARAMETERS_AT_ONCE, _LONGEST_PARAMETER = 100, 6000  # what a server takes


class MLflow(Tracker):
    """Writes a training to a run of MLflow: parameters, metrics, and at each fit's end the weights and the history.

    Metrics are every record (``train_loss``, ``val_loss``, ``lr``, ``seconds`` and so on) and every so many steps the
    batch's metrics (``batch/loss``), both by the step. Artifacts are ``history.json`` (see `History.from_json`) and,
    when no error ended the fit, ``model/model.safetensors``: plain tensors, nothing pickled.

    Without a run of its own it writes to the one that ``mlflow.start_run()`` has begun, and leaves that open. The run
    of a training that goes on from a checkpoint is the one it had; a point that a run has is not written again. The
    store may fail while it trains: see `ignition.callbacks.tracking`. A server that is gone is then asked three times,
    which takes some seconds, or as ``$MLFLOW_HTTP_REQUEST_MAX_RETRIES`` and ``$MLFLOW_HTTP_REQUEST_TIMEOUT`` say.

    Args:
        store: A folder, which then holds ``mlflow.db`` and the artifacts
            (``mlflow ui --backend-store-uri sqlite:///runs/mlflow/mlflow.db`` shows it), or the address of a tracking
            server. Default: what MLflow is set to.
        experiment: Its name; it is made if it is not there. Default: ``$MLFLOW_EXPERIMENT_NAME``, else "ignition".
        run_name: Default: one that MLflow makes up.
        every: After how many steps, 1 or more, the batch's metrics are written; None for never.
        hyper: Hyperparameters to note that the Trainer does not know, such as ``{"layers": 3}``.
        model: Whether the weights become an artifact; those that `FSDP` has split over processes do not, with a
            warning.

    Attributes:
        run_id: The run, from the first fit's start on; None before.

    Raises:
        ArgumentError: If an argument is none of these; at the fit's start if the weights cannot be written so.
        IgnitionError: If mlflow is not installed.
        mlflow.exceptions.MlflowException: At the first fit's start, if the store cannot be reached.
        OSError: At the first fit's start, if the store's folder cannot be made.

    Example:
        >>> from ignition.callbacks import MLflow
        >>> MLflow("runs/mlflow", experiment="digits")
        MLflow('runs/mlflow', experiment='digits', every=50)
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | None = None,
        experiment: str | None = None,
        run_name: str | None = None,
        every: int | None = 50,
        hyper: Mapping[str, Any] | None = None,
        model: bool = True,
    ) -> None:
        if store is not None and not (isinstance(store, (str, os.PathLike)) and os.fspath(store)):
            raise ArgumentError(
                f"MLflow got {store!r:.60} as its store",
                "a folder, or the address of a tracking server",
                "for example MLflow('runs/mlflow') or MLflow('http://localhost:5000')",
            )
        for what, name in (("experiment", experiment), ("run_name", run_name)):
            if name is not None and not (isinstance(name, str) and name):
                raise ArgumentError(f"MLflow got {name!r:.60} as its {what}", "a name", f"{what}='digits', for example")
        super().__init__(every, hyper)
        require("mlflow", "mlflow", "MLflow")
        self.store = None if store is None else os.fspath(store)
        self.experiment = experiment
        self.run_name = run_name
        self.model = model
        self._client: Any = None
        self._is_own = True
        self._names: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"MLflow({self.store!r}, experiment={self.experiment!r}, every={self.every})"

    def on_train_begin(self, trainer: Trainer[Any]) -> None:
        """Opens the run, and writes the parameters and the records that it does not have."""
        if self.model:
            try:
                check_weights(trainer.model, ".safetensors")
            except ArgumentError as error:
                error.add_note("MLflow(..., model=False) leaves the weights out")
                raise
        super().on_train_begin(trainer)

    def _attempt(self, action: Any, *arguments: Any) -> None:
        usual = {name: value for name, value in _PATIENCE.items() if name not in os.environ}
        os.environ.update(usual)  # which MLflow reads at each request
        try:
            super()._attempt(action, *arguments)
        finally:
            for name in usual:
                del os.environ[name]

    def _open(self, trainer: Trainer[Any]) -> tuple[int, int]:
        import mlflow
        from mlflow.exceptions import MlflowException

        folder = None if self.store is None or "://" in self.store or self.store == "databricks" else Path(self.store)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        uri = self.store if folder is None else f"sqlite:///{(folder / 'mlflow.db').absolute()}"
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        run = None
        if self.run_id is not None:
            try:
                run = self._client.get_run(self.run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                warn(f"the run {self.run_id} of this training is not in {self}; a new one is begun, with all records")
        active = mlflow.active_run()
        if run is None and active is not None:
            run = self._client.get_run(active.info.run_id)
        if run is None:
            run = self._client.create_run(self._experiment_id(folder), run_name=self.run_name)
        self._is_own = active is None or active.info.run_id != run.info.run_id
        self.run_id = run.info.run_id
        if self._is_own:
            self._client.update_run(self.run_id, status="RUNNING")
        self._write_parameters(trainer, run.data.params)
        batch = [name for name in run.data.metrics if name.startswith("batch/")]
        return self._last_step(["epoch"] if "epoch" in run.data.metrics else []), self._last_step(batch)

    def _experiment_id(self, folder: Path | None) -> str:
        from mlflow.exceptions import MlflowException

        name = self.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "ignition"
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        artifacts = None if folder is None else (folder / "artifacts").absolute().as_uri()
        try:
            return str(self._client.create_experiment(name, artifact_location=artifacts))
        except MlflowException:
            found = self._client.get_experiment_by_name(name)  # another process has made it meanwhile
            if found is None:
                raise
            return str(found.experiment_id)

    def _write_parameters(self, trainer: Trainer[Any], there: Mapping[str, str]) -> None:
        """Those that the run does not have: a parameter of MLflow's never changes."""
        from mlflow.entities import Param

        named = {self._accepted(name): value for name, value in hyperparameters(trainer, self.hyper).items()}
        new = [Param(name, str(value)[:_LONGEST_PARAMETER]) for name, value in named.items() if name not in there]
        for start in range(0, len(new), _PARAMETERS_AT_ONCE):
            self._client.log_batch(self.run_id, params=new[start : start + _PARAMETERS_AT_ONCE])

    def _last_step(self, names: list[str]) -> int:
        histories = [self._client.get_metric_history(self.run_id, name) for name in names]
        return max((metric.step for history in histories for metric in history), default=-1)

    def _write(self, step: int, values: dict[str, float], is_record: bool) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(self._accepted(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def _accepted(self, name: str) -> str:
        """A name that MLflow takes, and that no other has."""
        if name not in self._names:
            accepted = re.sub(r"[^/\w.\- :]", "_", name)[:240]
            if posixpath.normpath(accepted) != accepted or accepted.startswith(("/", ".")):
                accepted = re.sub(r"[/.]", "_", accepted)
            taken, unique, number = {*self._names.values()}, accepted, 2
            while unique in taken:
                unique, number = f"{accepted}_{number}", number + 1
            self._names[name] = unique
        return self._names[name]

    def _finish(self, trainer: Trainer[Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            trainer.history.to_json(os.path.join(folder, "history.json"))
            self._client.log_artifact(self.run_id, os.path.join(folder, "history.json"))
            if self.model and is_sharded(trainer.model):  # this process, which logs alone, has a part of it
                warn("MLflow keeps no model that is sharded over processes; SaveModel writes it")
            elif self.model and trainer.exception is None:
                write_weights(trainer.model, os.path.join(folder, "model.safetensors"))
                self._client.log_artifact(self.run_id, os.path.join(folder, "model.safetensors"), "model")

    def _close(self, outcome: str) -> None:
        if outcome != "lost" and self._is_own:
            self._client.set_terminated(self.run_id, "FAILED" if outcome == "failed" else "FINISHED")
        self._client = None
