"""The Trainer: what a user hands in, checked; the fit, and what can be read and set around it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import torch

from ignition import arguments, distributed, finding, fitting, loop, parting
from ignition.assigned import Callbacks, Hyper
from ignition.callbacks.base import Callback
from ignition.data import iterate
from ignition.device import as_device, move_model
from ignition.events import adding_to, check_callbacks
from ignition.history import History
from ignition.lr_finder import LRSweep
from ignition.markup import trainer_html
from ignition.precision import autocasting, check_precision
from ignition.processes import Processes
from ignition.progress import Progress
from ignition.rng import check_seed
from ignition.signature import TRAINER_CALL, Signature
from ignition.strategy import DDP, FSDP, check_strategy
from ignition.training import Training
from ignition.transfer import transferred
from ignition.types import EvalFn, Model, PredictFn, TrainFn

__all__ = ["Trainer"]

F = TypeVar("F", bound=Callable[[Any], Any])


class Trainer(Generic[Model]):
    """Trains a model with a function for one batch, and keeps the history.

    Args:
        model: An ``nn.Module``, or a list, tuple or dict of them. It is moved to `device` in place.
        optimizer: The optimizer that `train_fn` steps, or a list, tuple or dict of several, or None.
        train_fn: ``train_fn(model, *batch, **hyper)``: trains on one batch, and returns metrics: a dict of numbers,
            0-d tensors, ``(value, weight)`` pairs or metric objects; or the loss alone; or None.
        train_loader: Any iterable of batches. A tuple or list is unpacked into the function's arguments.
        eval_fn: ``eval_fn(model, *batch)``: measures one batch, and returns metrics. It receives the
            hyperparameters that it names; all of them where it has ``**kwargs``.
        test_loader: Any iterable of batches that can be read again and again.
        batch_axis: The axis along which the samples of a batch lie in its first tensor: its size is what a batch
            weighs in the means.
        device: ``"auto"`` (the accelerator if there is one), or a device or its name.
        precision: ``"fp32"``; ``"bf16"``: both functions run under autocast; ``"fp16"``: the loss is scaled too, and
            `train_fn` takes its steps by `optimize`.
        accumulate: How many batches, 1 or more, make a step: their gradients are gathered, and their weighted mean is
            used. From 2 on `train_fn` takes its steps by `optimize`. An epoch's last window may be shorter.
        clip_norm: The largest Euclidean norm, above 0, of a step's gradient over all parameters of its optimizer.
        strategy: How many processes, started by ``torchrun`` or ``srun``, train one model: ``"ddp"``, which ``"auto"``
            is too; ``"fsdp"``; or one of them with options, `DDP` or `FSDP`. In one process it changes nothing.
        compile: Whether the functions receive the model compiled by ``torch.compile``, or its options. `model` itself,
            and so all that is saved of it, stays plain. ``"step"``: on CUDA, calls of `train_fn` are captured as graphs
            and replayed: what Python does in it (prints, counts) happens at the capture only, and floats of `hyper` are
            0-d tensors. What cannot be captured (no CUDA, many processes, `accumulate`, fp16, what writes outside
            itself or waits for the GPU) is warned of and runs eagerly.
        seed: An integer from 0 to 2**63 - 1. It seeds all generators at the first fit, and the order of the data and
            the randomness of each batch follow from it, whatever the number of workers. None leaves everything to the
            user; one process then shuffles otherwise than many do, unless there is a `Checkpoint`.
        progress: Whether to show a bar (in a terminal or a notebook) and a line for each record.

    Attributes:
        state: What the functions carry from batch to batch.
        history: The records, a `History`.
        device: Where model and batches are.
        seed: The one given, or the one that was taken for a `Checkpoint` or for many processes; else None.
        stop_reason: Why the last fit was stopped before its end, or None.
        exception: What ended the last fit, or None. It keeps the tensors of the failed step until the next fit.

    Raises:
        ArgumentError: If an argument, or what is set later, has the wrong type, value or place.
        HyperparameterError: If `hyper` is set with a name that is taken, or that no parameter can have.
        CheckpointError, ProcessError: If `train_loader` is set in a fit with a `Checkpoint`; if processes do not meet.

    Example:
        >>> from torch import nn
        >>> from ignition import Trainer, crossentropy_loss, fit_on_batch
        >>> model = nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> def train_fn(model, x, y):
        ...     return fit_on_batch(model, x, y, crossentropy_loss, optimizer)
        >>> batches = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(5)]
        >>> trainer = Trainer(model, optimizer, train_fn, batches, progress=False)
        >>> len(trainer.fit(epochs=2)["train_loss"])
        2
    """

    _repr_html_ = trainer_html

    def __init__(
        self, model: Model, optimizer: Any, train_fn: TrainFn, train_loader: Iterable[Any],
        eval_fn: EvalFn | None = None, test_loader: Iterable[Any] | None = None, *,
        batch_axis: int = 0, device: str | torch.device = "auto", precision: str = "fp32",
        accumulate: int = 1, clip_norm: float | None = None, strategy: str | DDP | FSDP = "auto",
        compile: bool | str | Mapping[str, Any] = False, seed: int | None = None, progress: bool = True,
    ) -> None:  # fmt: skip
        parting.start()
        arguments.check_parts(model, optimizer, train_fn, train_loader, eval_fn, test_loader, batch_axis)
        strategy, seed = check_strategy(strategy), None if seed is None else check_seed(seed)
        self.device = as_device(device)
        processes = Processes(strategy, self.device)
        self.seed = processes.shared_seed(seed)
        rules = arguments.check_rules(accumulate, clip_norm, check_precision(precision))
        self.compile = arguments.check_compile(compile)
        self._model, self._optimizer = model, optimizer
        self._train_fn, self._eval_fn = train_fn, eval_fn
        self._train_loader, self._test_loader = train_loader, test_loader
        self.batch_axis, self._precision = batch_axis, precision
        self.state: dict[str, Any] = {}
        self.history = History()
        self.stop_reason: str | None = None
        self.exception: BaseException | None = None
        self._hyper, self._callbacks = Hyper(), Callbacks()
        self._functions: list[tuple[str, Callable[[Any], Any]]] = []
        train_signature = self._read(train_fn, "train_fn")
        measure_signature = None if eval_fn is None else self._read(eval_fn, "eval_fn")
        move_model(model, optimizer, self.device)
        shown = Progress(progress and distributed.is_main())
        self.training = Training(self, train_signature, measure_signature, self.device, shown, rules, processes)

    @property
    def model(self) -> Model:
        """The user's own model."""
        return self._model

    @property
    def train_fn(self) -> TrainFn:
        """The train function. Another one may be set between fits, as when a notebook's cell is run again."""
        return self._train_fn

    @train_fn.setter
    def train_fn(self, function: TrainFn) -> None:
        self.training.train_signature = self._read(function, "train_fn")
        self._train_fn = function

    @property
    def eval_fn(self) -> EvalFn | None:
        """The eval function; another one may be set between fits."""
        return self._eval_fn

    @eval_fn.setter
    def eval_fn(self, function: EvalFn) -> None:
        self.training.eval_signature = self._read(function, "eval_fn")
        self._eval_fn = function

    @property
    def epoch(self) -> int:
        """The number of the last epoch that began, from 1 on; 0 before the first."""
        return self.training.position.epoch

    @property
    def epoch_open(self) -> bool:
        """Whether that epoch is still to be finished: inside a fit, or after one that ended inside an epoch."""
        return self.training.open_pass is not None

    @property
    def step(self) -> int:
        """The number of steps finished."""
        return self.training.position.step

    @property
    def updates(self) -> int:
        """The number of steps but for those that changed nothing, because their gradients overflowed (fp16)."""
        return self.training.position.step - self.training.position.skipped

    def updated(self, optimizer: Any = None) -> bool:
        """Whether an optimizer, by default any, really stepped last; False unless a callback ``needs_updates``."""
        window = self.training.window
        return window is not None and any(optimizer is None or one is optimizer for one in window.updated)

    @property
    def averaged(self) -> dict[str, Any]:
        """The averages of the model that the callbacks keep: ``{"ema": model}``."""
        return {name: model for callback in self._callbacks for name, model in callback.averaged().items()}

    def training_batches(self) -> Iterator[Any]:
        """The batches of one more pass over the training data, on the device, apart from any fit."""
        return transferred(iterate(self.training.source("again", self._train_loader)), self.device)

    @property
    def batch_metrics(self) -> dict[str, Any]:
        """What was returned last (of pairs the value, none of weight 0): floats, objects, tensors on accelerators."""
        return self.training.means.last

    @property
    def hyper(self) -> dict[str, Any]:
        """The hyperparameters: `train_fn` receives all by name, `eval_fn` those that it names (``**kwargs``: all)."""
        return self._hyper

    @hyper.setter
    def hyper(self, hyper: Mapping[str, Any]) -> None:
        hyper = arguments.checked_hyper(hyper)
        self._hyper.clear()  # the same object, since the loop holds it
        self._hyper.update(hyper)

    @property
    def callbacks(self) -> list[Callback]:
        """The callbacks of the next fit. Schedules run first, whatever their place in the list."""
        return self._callbacks

    @callbacks.setter
    def callbacks(self, callbacks: list[Callback] | tuple[Callback, ...]) -> None:
        self._callbacks = Callbacks(check_callbacks(callbacks))

    @property
    def train_loader(self) -> Iterable[Any]:
        """What is trained on. Setting it gives up an epoch left open; inside a fit the next epoch reads it."""
        return self._train_loader

    @train_loader.setter
    def train_loader(self, loader: Iterable[Any]) -> None:
        arguments.check_loader(loader, "train_loader", "set it to a DataLoader, or to a list of batches")
        fitting.begin_with(self, loader)
        self._train_loader = loader

    @property
    def test_loader(self) -> Iterable[Any] | None:
        """What is evaluated on."""
        return self._test_loader

    @test_loader.setter
    def test_loader(self, loader: Iterable[Any]) -> None:
        arguments.check_loader(loader, "test_loader", "set it to a DataLoader, or to a list of batches")
        self._test_loader = loader

    @property
    def optimizer(self) -> Any:
        """The optimizer or optimizers that `train_fn` steps; another may be set between fits."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Any) -> None:
        arguments.check_model_and_optimizer(self.model, optimizer)
        self._optimizer = optimizer

    def on(self, event: str) -> Callable[[F], F]:
        """A decorator that has a plain function called at an event, in all later fits: ``function(trainer)``.

        Args:
            event: ``"train_begin"``, ``"train_end"``, ``"epoch_begin"``, ``"epoch_end"``, ``"batch_begin"``,
                ``"batch_end"``, ``"step_end"``, ``"eval_begin"``, ``"eval_end"``, ``"record"`` or ``"exception"``.

        Raises:
            ArgumentError: If there is no such event, or what is decorated is no function.
        """
        return adding_to(self._functions, event)

    # Training

    def fit(
        self, epochs: int | None = None, *, steps: int | None = None,
        eval_every: int | None = None, max_eval_steps: int | None = None, resume: bool = False,
    ) -> History:  # fmt: skip
        """Trains on, from where the last fit ended.

        With both `epochs` and `steps`, what is reached first ends it. A fit that ends inside an epoch keeps its
        place in the loader, and the next one goes on there; finishing that epoch counts as one.

        Args:
            epochs: How many epochs to end, 1 or more.
            steps: How many steps to take, 1 or more.
            eval_every: Evaluate and write a record whenever the number of steps is a multiple of it, 1 or more, besides
                the record at each epoch's end.
            max_eval_steps: Evaluate on no more than that many batches, 1 or more; None for all.
            resume: Go on from the folder of the `Checkpoint` among the callbacks, where an earlier run of the script
                was; begin where it is empty. Fits are matched by their order in the script, and `epochs` and `steps`
                count from where the fit began then.

        Returns:
            The history, ``trainer.history``.

        Raises:
            ArgumentError: If neither `epochs` nor `steps` is given, one of the numbers is no positive integer, a fit is
                running, the callbacks do not fit the Trainer or one another, or a strategy cannot take the model.
            HyperparameterError: If a hyperparameter does not fit `train_fn`, or its name is taken.
            FunctionError: If a function cannot take what the batch and the hyperparameters give.
            BatchError: If a loader gives no batch, or a batch has not the batch axis.
            MetricError: If a function returns what is no metric, or a callback looks for one that nobody returns.
            OptimizerError: If the Trainer's optimizer is not the one that `train_fn` steps, and something depends on
                it: a schedule of its values, `accumulate`, `clip_norm`, fp16, an average of the weights. If `train_fn`
                steps without `optimize` where `accumulate` or fp16 needs that, or by a closure under these or
                `clip_norm`. With many processes, if its loss goes around the model, or parameters have no part in it.
            NotFiniteError, ProcessError: From `TerminateOnNaN`; if other processes train otherwise or are gone.
            CheckpointError: With a `Checkpoint`: if its folder is in use or holds another training, one could not be
                written, or it cannot put back `train_loader` or hold what is in ``trainer.state``.
            Exception: What functions, loaders and callbacks raise (OSError, if a file cannot be written), unchanged.
        """
        fitting.fit(self, self._functions, epochs, steps, eval_every, max_eval_steps, resume)
        return self.history

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a checkpoint as `ignition.callbacks.Checkpoint` does, to a folder of its own; all processes call it.

        Args:
            path: The folder; a checkpoint there is replaced. It warns where going on from it is not exact: in a step.

        Raises:
            CheckpointError: If what is to be saved fits into none, or `path` is a file or a folder of something else.
            OSError, TypeError: If it cannot be written, or `path` is no path; what was there stays.
            ProcessError: If other processes do something else.
        """
        fitting.save(self.training, path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Goes where a checkpoint was taken, or nowhere: what fails is undone. All processes call it.

        What callbacks keep is put back too; ``trainer.averaged`` has the averages. The next fit is one of its own.

        Args:
            path: A folder that `save` or a `Checkpoint` wrote.

        Raises:
            ArgumentError, ProcessError, TypeError: If a fit is running, other processes do not load, `path` is no path.
            CheckpointError: If it is broken or not there, or that of another model, optimizer or data set.
            Exception: What ``callback.prepare`` raises.
        """
        fitting.load(self, path)

    def find_lr(
        self, start_lr: float = 1e-6, end_lr: float = 10, steps: int = 100, *, metric: str = "loss",
        optimizer: str | int | None = None, smoothing: float = 0.9,
    ) -> LRSweep:  # fmt: skip
        """Trains for some steps at learning rates that grow from one to the next; afterwards all is as it was.

        Callbacks do not run. The rates grow by one factor (Smith 2015, arXiv:1506.01186); see `ignition.lr_finder`.

        Args:
            start_lr: The first learning rate, above 0, of the first group that has one; others keep their ratios to it.
            end_lr: The last one, above `start_lr`, unless the loss diverges before.
            steps: How many steps to take at most, 2 or more; the train loader begins again where it ends.
            metric: Which of the metrics of `train_fn` is the loss.
            optimizer: The name or place of one of several optimizers; all of them by default.
            smoothing: How much of its moving average each step keeps, from 0 to below 1.

        Returns:
            The curve, with its ``suggestion`` and ``plot()``.

        Raises:
            ArgumentError: If an argument is out of range, a fit runs, a loader is read once only, or no rate is there.
            BatchError, FunctionError, HyperparameterError, OptimizerError, ProcessError: As `fit` does.
            MetricError: If `train_fn` does not return `metric`.
        """
        return finding.find_lr(self, start_lr, end_lr, steps, metric, optimizer, smoothing)

    def stop(self, reason: str) -> None:
        """Ends the running fit after the current step, with its place kept; many processes within about two seconds.

        Args:
            reason: Why, for people; it is kept in ``trainer.stop_reason``, and printed unless ``progress=False``.
        """
        self.training.stop(reason)

    def evaluate(self, loader: Iterable[Any] | None = None, *, max_steps: int | None = None) -> dict[str, float]:
        """Measures the model with `eval_fn`, gradients off, in evaluation mode.

        Args:
            loader: What to evaluate on; `test_loader` by default.
            max_steps: Evaluate on no more than that many batches, 1 or more; None for all.

        Returns:
            The weighted mean of each metric; those of averaged models as ``ema_...``.

        Raises:
            ArgumentError: If there is no `eval_fn`, or no loader of batches, or `max_steps` is no positive integer.
            BatchError, FunctionError, HyperparameterError, MetricError, ProcessError: As `fit` does.
        """
        loader = self.test_loader if loader is None else loader
        arguments.check_measurable(self.training.eval_signature, loader, max_steps)
        return loop.measure(self.training, loader, max_steps)

    def predict(self, pred_fn: PredictFn, loader: Iterable[Any]) -> Any:
        """What the model predicts, in evaluation mode and the order in which the loader gives the data.

        Args:
            pred_fn: As for `ignition.predict`; it receives no hyperparameters.
            loader: Any iterable of batches that does not shuffle.

        Returns:
            The outputs for all samples, nested as the function returned them, joined along `batch_axis`: detached
            tensors on the CPU, ``(samples, ...)`` where that axis is 0.

        Raises:
            ArgumentError: If an argument has the wrong type or place.
            BatchError, ProcessError: As `ignition.predict` does.
            FunctionError: If the function cannot take a batch of this loader, or returns what cannot be joined.
        """
        signature = self._read(pred_fn, "pred_fn", "trainer.predict(pred_fn, loader)")
        arguments.check_loader(loader, "loader", "check the order: trainer.predict(pred_fn, loader)")
        return loop.predict_with(self.training, signature, loader)

    def _read(self, function: Any, role: str, call: str = TRAINER_CALL) -> Signature:
        """What a function takes; when it is called, it is under the Trainer's precision."""
        signature = Signature(function, role, call)
        signature.function = autocasting(signature.function, self._precision, self.device)
        return signature
