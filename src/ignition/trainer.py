"""The Trainer: what a user hands in, checked; the fit, and what can be read and set around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import torch

from ignition import loop
from ignition.arguments import (
    check_batch_axis,
    check_count,
    check_loader,
    check_model,
    check_not_empty,
    check_optimizer,
    eval_signature,
)
from ignition.callbacks.base import Callback
from ignition.callbacks.schedules import bind_schedules
from ignition.device import as_device, device_of, move_model
from ignition.errors import ArgumentError
from ignition.events import Events, check_callbacks, check_event
from ignition.history import History
from ignition.modes import modes_of, restore_modes
from ignition.progress import Progress
from ignition.rng import check_seed, seed_everything
from ignition.signature import Signature, check_names
from ignition.structure import named
from ignition.training import Goal, Training
from ignition.types import EvalFn, Model, PredictFn, TrainFn

__all__ = ["Trainer", "evaluate", "predict"]

F = TypeVar("F", bound=Callable[[Any], Any])


class Trainer(Generic[Model]):
    """Trains a model with a function for one batch, and keeps the history.

    Args:
        model: An ``nn.Module``, or a list, tuple or dict of them. It is moved to `device` in place.
        optimizer: The optimizer that `train_fn` steps, or a list, tuple or dict of several, or None.
        train_fn: ``train_fn(model, *batch, **hyper)``: trains on one batch, and returns metrics: a dict of numbers,
            0-d tensors, ``(value, weight)`` pairs or metric objects; or the loss alone; or None.
        train_loader: Any iterable of batches. A tuple or list is unpacked into the function's arguments.
        eval_fn: ``eval_fn(model, *batch)``: measures one batch, and returns metrics. It receives those
            hyperparameters that it names.
        test_loader: Any iterable of batches that can be read again and again.
        batch_axis: The axis along which the samples of a batch lie in its first tensor: its size is what a batch
            weighs in the means.
        device: ``"auto"`` (the accelerator if there is one), or a device or its name.
        seed: Seeds all generators at the first fit, and derives the order of the data and the randomness of each
            batch from it, whatever the number of workers. None leaves everything to the user.
        progress: Whether to show a bar (in a terminal or a notebook) and a line for each record.

    Attributes:
        model: The user's own model.
        optimizer: As given.
        state: What the functions carry from batch to batch.
        history: The records, a `History`.
        device: Where model and batches are.
        stop_reason: Why the last fit was stopped before its end, or None.
        exception: What ended the last fit, or None.

    Raises:
        ArgumentError: If an argument has the wrong type, value or place.

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

    def __init__(
        self,
        model: Model,
        optimizer: Any,
        train_fn: TrainFn,
        train_loader: Iterable[Any],
        eval_fn: EvalFn | None = None,
        test_loader: Iterable[Any] | None = None,
        *,
        batch_axis: int = 0,
        device: str | torch.device = "auto",
        seed: int | None = None,
        progress: bool = True,
    ) -> None:
        check_model(model)
        check_optimizer(optimizer)
        train_signature = Signature(train_fn, "train_fn")
        check_loader(train_loader, "train_loader")
        self._eval_signature = eval_signature(eval_fn, test_loader)
        check_batch_axis(batch_axis)
        self.seed = None if seed is None else check_seed(seed)
        self.device = as_device(device)

        self.model = model
        self.optimizer = optimizer
        self.train_fn, self.eval_fn = train_fn, eval_fn
        self._train_loader, self.test_loader = train_loader, test_loader
        self.batch_axis = batch_axis
        self.state: dict[str, Any] = {}
        self.history = History()
        self.stop_reason: str | None = None
        self.exception: BaseException | None = None
        self._hyper: dict[str, Any] = {}
        self._callbacks: list[Callback] = []
        self._functions: list[tuple[str, Callable[[Any], Any]]] = []
        self._seeded = False
        self._fitting = False
        move_model(model, optimizer, self.device)
        self._training = Training(self, train_signature, self.device, Progress(progress), batch_axis)

    # What can be read and set

    @property
    def epoch(self) -> int:
        """The number of the last epoch that began, from 1 on; 0 before the first."""
        return self._training.position.epoch

    @property
    def epoch_open(self) -> bool:
        """Whether that epoch is still to be finished: inside a fit, or after one that ended inside an epoch."""
        return self._training.open_pass is not None

    @property
    def step(self) -> int:
        """The number of steps finished."""
        return self._training.position.step

    @property
    def batch_metrics(self) -> dict[str, Any]:
        """What the train function returned last: numbers, and detached tensors where they are on an accelerator."""
        return self._training.means.last

    @property
    def hyper(self) -> dict[str, Any]:
        """The hyperparameters: `train_fn` receives all of them by name, `eval_fn` those that it names.

        Setting it takes a copy. Callbacks and functions may change it at any time.
        """
        return self._hyper

    @hyper.setter
    def hyper(self, hyper: Mapping[str, Any]) -> None:
        if not isinstance(hyper, Mapping):
            raise ArgumentError(
                f"trainer.hyper was given {type(hyper).__name__}",
                expected="a dict of hyperparameters by name",
                fix='for example trainer.hyper = {"lambd": 4.0}',
            )
        check_names(hyper)
        hyper = dict(hyper)
        self._hyper.clear()  # the same object, since the loop holds it
        self._hyper.update(hyper)

    @property
    def callbacks(self) -> list[Callback]:
        """The callbacks of the next fit. Schedules run first, whatever their place in the list."""
        return self._callbacks

    @callbacks.setter
    def callbacks(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = check_callbacks(callbacks)

    @property
    def train_loader(self) -> Iterable[Any]:
        """What is trained on. Setting it gives up an epoch that a fit left open."""
        return self._train_loader

    @train_loader.setter
    def train_loader(self, loader: Iterable[Any]) -> None:
        check_loader(loader, "train_loader")
        self._training.drop_pass()
        self._train_loader = loader

    def on(self, event: str) -> Callable[[F], F]:
        """A decorator that has a plain function called at an event: ``function(trainer)``.

        Args:
            event: ``"train_begin"``, ``"train_end"``, ``"epoch_begin"``, ``"epoch_end"``, ``"batch_begin"``,
                ``"batch_end"``, ``"step_end"``, ``"eval_begin"``, ``"eval_end"``, ``"record"`` or ``"exception"``.

        Raises:
            ArgumentError: If there is no such event, or what is decorated is no function.
        """
        check_event(event)

        def add(function: F) -> F:
            if not callable(function):
                raise ArgumentError(
                    f'@trainer.on("{event}") was given {type(function).__name__}', expected="a function of the trainer"
                )
            self._functions.append((event, function))
            return function

        return add

    # Training

    def fit(
        self,
        epochs: int | None = None,
        *,
        steps: int | None = None,
        eval_every: int | None = None,
        max_eval_steps: int | None = None,
    ) -> History:
        """Trains on, from where the last fit ended.

        With both `epochs` and `steps`, what is reached first ends it. A fit that ends inside an epoch keeps its
        place in the loader, and the next one goes on there; finishing that epoch counts as one.

        Args:
            epochs: How many epochs to end, 1 or more.
            steps: How many steps to take, 1 or more.
            eval_every: Evaluate and write a record whenever the number of steps is a multiple of it, besides the
                record at each epoch's end.
            max_eval_steps: Evaluate on no more than that many batches.

        Returns:
            The history, ``trainer.history``.

        Raises:
            ArgumentError: If neither `epochs` nor `steps` is given, or one of the numbers is no positive integer.
            HyperparameterError: If a hyperparameter does not fit `train_fn`.
            FunctionError: If a function cannot take what the batch and the hyperparameters give.
            BatchError: If a loader gives no batch, or a batch has not the batch axis.
            MetricError: If a function returns what is no metric.
            OptimizerError: If a schedule moves an optimizer that is not the one that `train_fn` steps.
        """
        goal = self._goal(epochs, steps, eval_every, max_eval_steps)
        if self._fitting:
            raise ArgumentError("fit was called inside a fit of the same Trainer", expected="one fit at a time")
        training, before = self._training, _Settings(self)
        self.stop_reason, self.exception = None, None
        self._fitting = True
        try:
            dependents = self._check_fit()
            if self.seed is not None and not self._seeded:
                seed_everything(self.seed)
                self._seeded = True
            for callback in self._callbacks:
                callback.prepare(self)
            training.begin_fit(Events(self, self._callbacks, self._functions), dependents)
            loop.fit(training, goal)
        except BaseException:
            if self.step == before.step:
                before.restore()
            raise
        finally:
            self._fitting = False
            training.end_fit()
        return self.history

    def stop(self, reason: str) -> None:
        """Ends the running fit after the current step, with its place in the loader kept.

        Args:
            reason: Why, for people; it is printed and kept in ``trainer.stop_reason``.
        """
        self.stop_reason = reason
        self._training.stop()

    def evaluate(self, loader: Iterable[Any] | None = None, *, max_steps: int | None = None) -> dict[str, float]:
        """Measures the model with `eval_fn`, gradients off, in evaluation mode.

        Args:
            loader: What to evaluate on; `test_loader` by default.
            max_steps: Evaluate on no more than that many batches.

        Returns:
            The weighted mean of each metric.

        Raises:
            ArgumentError: If the Trainer has no `eval_fn`, or there is no loader.
            BatchError, FunctionError, MetricError: As `fit` does.
        """
        loader = self.test_loader if loader is None else loader
        if self._eval_signature is None or loader is None:
            raise ArgumentError(
                "this Trainer has no eval_fn" if self._eval_signature is None else "there is no loader to evaluate on",
                expected="an eval_fn and a loader",
                fix="make it with Trainer(model, optimizer, train_fn, train_loader, eval_fn, test_loader), "
                "or call evaluate(model, eval_fn, loader)",
            )
        check_loader(loader, "loader")
        check_count(max_steps, "max_steps")
        training = self._training
        training.events.fire("eval_begin")
        metrics = loop.evaluate(
            training.prepared, self._eval_signature, training.source("eval", loader), batch_axis=self.batch_axis,
            device=self.device, hyper=self._hyper, progress=training.progress, max_steps=max_steps,
        )  # fmt: skip
        training.events.fire("eval_end")
        return metrics

    def predict(self, pred_fn: PredictFn, loader: Iterable[Any]) -> Any:
        """What the model predicts for the data of a loader; see `ignition.predict`."""
        signature = Signature(pred_fn, "pred_fn")
        check_loader(loader, "loader")
        training = self._training
        return loop.predict(
            training.prepared, signature, training.source("predict", loader), batch_axis=self.batch_axis,
            device=self.device, progress=training.progress,
        )  # fmt: skip

    def _check_fit(self) -> list[str]:
        """Checks what can be known before the first batch, and gives the schedules their places and first values.

        Returns:
            What depends on the Trainer's optimizers being those that `train_fn` steps, in words.
        """
        check_callbacks(self._callbacks)
        check_not_empty(self._train_loader, "train_loader")
        if self.test_loader is not None:
            check_not_empty(self.test_loader, "test_loader")
        train_signature = self._training.train_signature
        dependents = bind_schedules(self._callbacks, self, train_signature.names[1:])
        train_signature.check_hyper(self._hyper)
        if self._eval_signature is not None:
            self._eval_signature.check_hyper(self._eval_signature.select(self._hyper))
        return dependents

    def _goal(self, epochs: Any, steps: Any, eval_every: Any, max_eval_steps: Any) -> Goal:
        for name, count in (("epochs", epochs), ("steps", steps), ("eval_every", eval_every)):
            check_count(count, name)
        check_count(max_eval_steps, "max_eval_steps")
        if epochs is None and steps is None:
            raise ArgumentError(
                "fit was given neither epochs nor steps", expected="one of them or both", fix="fit(epochs=10)"
            )
        return Goal(
            last_epoch=None if epochs is None else self._training.epochs_ended + epochs,
            last_step=None if steps is None else self.step + steps,
            eval_every=eval_every,
            max_eval_steps=max_eval_steps,
        )


class _Settings:
    """What a fit changes before its first step, so that a fit that never gets there leaves it as it was."""

    def __init__(self, trainer: Trainer[Any]) -> None:
        self.step = trainer.step
        self._trainer = trainer
        self._modes = modes_of(trainer.model)
        self._hyper = dict(trainer.hyper)
        self._groups = [
            (group, {name: value for name, value in group.items() if name != "params"})
            for optimizer in named(trainer.optimizer).values()
            for group in getattr(optimizer, "param_groups", ())
        ]

    def restore(self) -> None:
        restore_modes(self._modes)
        self._trainer.hyper.clear()
        self._trainer.hyper.update(self._hyper)
        for group, values in self._groups:
            group.update(values)


def evaluate(
    model: Any,
    eval_fn: EvalFn,
    loader: Iterable[Any],
    *,
    batch_axis: int = 0,
    max_steps: int | None = None,
    hyper: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """The weighted means of what an eval function returns over a loader.

    Gradients are off (``torch.enable_grad()`` inside the function works), the model is in evaluation mode, and
    each submodule gets its mode back afterwards.

    Args:
        model: An ``nn.Module``, or a list, tuple or dict of them.
        eval_fn: ``eval_fn(model, *batch)``, returning metrics as a train function does.
        loader: Any iterable of batches. A tuple or list is unpacked, anything else passed whole.
        batch_axis: The axis of a batch's first tensor along which its samples lie: its size is the batch's weight.
        max_steps: Stop after that many batches.
        hyper: Hyperparameters; the function receives those that it names.
        device: Where the batches are moved; by default to where the model is.
        progress: Whether to show a bar, in a terminal or a notebook.

    Returns:
        The weighted mean of each metric, over those batches that returned it.

    Raises:
        ArgumentError: If an argument has the wrong type, value or place.
        BatchError: If the loader gives no batch, or a batch has not the batch axis.
        FunctionError: If the function cannot take a batch of this loader.
        MetricError: If the function returns what is no metric.

    Example:
        >>> def eval_fn(model, x):
        ...     return {"sum": model(x).sum()}
        >>> evaluate(torch.nn.Identity(), eval_fn, [torch.ones(2), torch.ones(4)], progress=False)
        {'sum': 3.3333333333333335}
    """
    check_model(model)
    signature = Signature(eval_fn, "eval_fn")
    check_loader(loader, "loader")
    check_batch_axis(batch_axis)
    check_count(max_steps, "max_steps")
    hyper = {} if hyper is None else hyper
    signature.check_hyper(signature.select(hyper))
    return loop.evaluate(
        model,
        signature,
        loader,
        batch_axis=batch_axis,
        device=device_of(model) if device is None else as_device(device),
        hyper=hyper,
        progress=Progress(progress),
        max_steps=max_steps,
    )


def predict(
    model: Any,
    pred_fn: PredictFn,
    loader: Iterable[Any],
    *,
    batch_axis: int = 0,
    max_steps: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Any:
    """What a model predicts for the data of a loader, in the order of the data.

    Args:
        model: An ``nn.Module``, or a list, tuple or dict of them. It is in evaluation mode meanwhile.
        pred_fn: ``pred_fn(model, *items)``: receives as many of a batch's items as it has positional parameters
            without a default, so that `predict_on_batch` takes a loader with labels. It returns a tensor
            ``(batch, ...)``, or any nesting of such tensors in tuples, lists and dicts.
        loader: Any iterable of batches.
        batch_axis: The axis along which the outputs are joined.
        max_steps: Stop after that many batches.
        device: Where the batches are moved; by default to where the model is.
        progress: Whether to show a bar, in a terminal or a notebook.

    Returns:
        The outputs for all samples, nested as the function returned them: detached tensors on the CPU.

    Raises:
        ArgumentError: If an argument has the wrong type, value or place.
        BatchError: If the loader gives no batch.
        FunctionError: If the function cannot take a batch of this loader, or returns what cannot be joined.

    Example:
        >>> from ignition import predict_on_batch
        >>> predict(torch.nn.Identity(), predict_on_batch, [torch.zeros(2, 1), torch.ones(1, 1)]).shape
        torch.Size([3, 1])
    """
    check_model(model)
    signature = Signature(pred_fn, "pred_fn")
    check_loader(loader, "loader")
    check_batch_axis(batch_axis)
    check_count(max_steps, "max_steps")
    return loop.predict(
        model,
        signature,
        loader,
        batch_axis=batch_axis,
        device=device_of(model) if device is None else as_device(device),
        progress=Progress(progress),
        max_steps=max_steps,
    )
