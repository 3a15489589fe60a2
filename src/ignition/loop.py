"""The loop: `run_batches` serves training, evaluation and prediction; `fit`, `evaluate` and `predict` feed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import torch

from ignition.goal import Goal
from ignition.means import Means
from ignition.modes import evaluation_mode, training_mode
from ignition.notes import explained
from ignition.optimizers import watch_steps
from ignition.parting import check_alike, raised_alike, together
from ignition.passes import Pass, has_ended, meet_first_batch, warn_if_short
from ignition.predictions import Predictions
from ignition.progress import Progress
from ignition.reading import at_most, check_ordered, extent_of, part_in_evaluation
from ignition.recording import begin_record, write_record
from ignition.running import Running, this_run
from ignition.signals import EvaluationStopped
from ignition.signature import Signature
from ignition.training import Training

__all__ = ["evaluate", "fit", "measure", "predict", "predict_with", "run_batches", "run_until_due"]


def run_batches(this: Pass, limit: int | None = None) -> bool:
    """Takes up to `limit` batches of a pass: calls the function for each, and hands on what it returns.

    Returns:
        Whether the loader has ended; False where `limit` or a stop came first.
    """
    function, model, hyper, take, axis = this.function, this.model, this.hyper, this.take, this.batch_axis
    on_batch_begin, on_batch_end, on_step_end = this.on_batch_begin, this.on_batch_end, this.on_step_end
    position, progress, window, weigh = this.position, this.progress, this.window, this.weigh
    left = -1 if limit is None else limit
    waited, asked = 0.0, perf_counter()
    try:
        for batch in this.batches:
            waited += perf_counter() - asked
            if on_batch_begin is not None:
                on_batch_begin()
            weight = weigh(batch, axis)  # before the call, which may change the batch
            if window is not None:
                window.begin_batch(weight, last=position.batch + 1 == this.length)
            try:
                if isinstance(batch, (tuple, list)):  # the result has no name: it would keep its graph for a call more
                    take(function(model, *batch, **hyper), weight)
                else:
                    take(function(model, batch, **hyper), weight)
            except TypeError:
                this.check(batch)  # says more, where the batch has not as many items as the first one
                raise
            position.batch += 1
            if on_batch_end is not None:
                on_batch_end()
            if window is None or window.end_batch(position):
                position.step += 1
                if on_step_end is not None:
                    on_step_end()
                left -= 1
                if not left or this.stopped:
                    return position.batch == this.length
            asked = perf_counter()
            if asked >= progress.next_draw:
                progress.draw(asked, position.batch, this.shown())  # waits for metrics on an accelerator
        if window is not None and window.close(position):  # the loader has ended inside a window
            position.step += 1
            if on_step_end is not None:
                on_step_end()
        return True
    finally:
        this.data_seconds += waited


def fit(training: Training, goal: Goal) -> None:
    """Trains until the goal is reached or somebody called ``trainer.stop``.

    The events come in this order::

        on_train_begin
        for each epoch:
            on_epoch_begin
            for each batch:
                on_batch_begin -> train_fn(model, *batch, **hyper) -> metrics -> on_batch_end
                (window full)  on_step_end
                (eval_every)   on_eval_begin -> evaluate -> on_eval_end -> record -> on_record
            on_eval_begin -> evaluate -> on_eval_end -> record -> on_record
            on_epoch_end
        on_train_end            # in every case; on_exception before it when something was raised

    A step that has a record already gets no second one. A fit that ends inside an epoch leaves its pass open,
    and the next fit goes on there, without another on_epoch_begin.
    """
    events = training.events
    with explained(), this_run(Running(training.device, training=True, window=training.window)):
        try:
            events.fire("train_begin")
            while training.goes_on(goal):
                try:
                    _train_epoch(training, goal)
                except EvaluationStopped:
                    training.save_point()  # the record is still due; this ends the fit
        except BaseException as error:
            training.trainer.exception = error
            _note(error, [*events.fire_each("exception"), *events.fire_each("train_end")])
            raise
        failures = events.fire_each("train_end")
        if failures:
            _note(failures[0], failures[1:])
            raise failures[0]
        training.agree()
        training.end_for_signal()  # one that came when there was nothing left to interrupt


def _note(error: BaseException, others: list[BaseException]) -> None:
    for other in others:
        error.add_note(f"a callback raised too while this was handled: {other!r}")


def _train_epoch(training: Training, goal: Goal) -> None:
    """Trains to the end of an epoch, or inside it to the end of the fit."""
    position, progress = training.position, training.progress
    this = training.open_pass or training.begin_epoch()
    training_mode(training.prepared)
    met = training.pending is None  # else a record is still due, from before an interruption
    if met:
        meet_first_batch(this, training.train_signature, training.device)
    training.has_run = True
    left = None if goal.last_step is None else (goal.last_step - position.step) * training.rules.accumulate
    last = None if left is None else position.batch + left
    progress.begin(goal.epoch_name(position.epoch), at_most(this.total, last), position.batch)
    ended = False
    while not ended:
        training.agree()
        if training.pending is not None:
            ended = training.pending["epoch_ended"]
            write_record(training, goal)
        elif training.has_reached(goal):
            break
        else:
            if not met:  # not before the save point: a batch that was read ahead would be missing after it
                meet_first_batch(this, training.train_signature, training.device)
                met = True
            training.wrap_again()
            training.heed_pause(this)
            ended = run_until_due(training, this, goal.steps_until_due(position.step)) or has_ended(this)
            training.processes.meet(position.step)
            if ended:
                progress.end()
                warn_if_short(this)
                training.epoch_start.read_out(this.batches)
            if ended or goal.evaluates_at(position.step):
                begin_record(training, ended)
                write_record(training, goal)
        if not ended:
            training.save_point()
    if ended:
        training.end_epoch()
        training.save_point()
    else:
        progress.end()


def run_until_due(training: Training, this: Pass, limit: int | None) -> bool:
    """Takes up to `limit` steps of a training's pass, as `run_batches` does; fewer where a process was asked for it."""
    position, processes = training.position, training.processes
    last = None if limit is None else position.step + limit
    while True:
        left = processes.begin_steps(position.step, last)
        ended = _take_first_step(training, this) if training.steps_unchecked else run_batches(this, left)
        if ended or this.stopped or position.step == last or not processes.goes_on(position.step):
            return ended


def _take_first_step(training: Training, this: Pass) -> bool:
    """The first step of a fit: which optimizers take it shows whether the Trainer knows the right ones."""
    before = training.position.step
    with watch_steps(training.trainer.optimizer) as stepped:
        ended = run_batches(this, 1)
    if training.position.step > before:  # not so where a pass that was left open has nothing more
        training.check_steps(stepped)
    return ended


@together(raised_alike)
def measure(training: Training, loader: Any, max_steps: int | None) -> dict[str, float]:
    """An evaluation by a Trainer, with its events: of the model, and of the averages that callbacks keep of it."""
    signature = training.eval_signature
    extent = extent_of(loader, training.trainer.batch_axis, with_contents=not training.is_fitting)
    check_alike("evaluate", max_steps=max_steps, **extent)
    outer = not training.is_measuring  # one that a callback makes in these events is no event again
    training.is_measuring = True
    try:
        if outer:
            training.events.fire("eval_begin")
        with training.own_generators.in_use():
            metrics = _measured(training, signature, loader, max_steps)
        if outer:
            training.events.fire("eval_end")
    finally:
        training.is_measuring = not outer
    return metrics


def _measured(training: Training, signature: Signature | None, loader: Any, max_steps: int | None) -> dict[str, float]:
    trainer = training.trainer
    metrics: dict[str, float] = {}
    if signature is not None:
        for name, model in {"": training.prepare(), **trainer.averaged}.items():
            training.processes.share(model)
            with training.interruptible() as started:
                means = evaluate(
                    model, signature, training.source("eval", loader), batch_axis=trainer.batch_axis,
                    max_steps=max_steps, device=training.device, hyper=trainer.hyper, progress=training.progress,
                    started=started,
                )  # fmt: skip
            metrics |= {f"{name}_{metric}" if name else metric: value for metric, value in means.items()}
    return metrics


@together(raised_alike)
def predict_with(training: Training, signature: Signature, loader: Any) -> Any:
    """A prediction by a Trainer."""
    check_alike("predict", **extent_of(loader, training.trainer.batch_axis, with_contents=not training.is_fitting))
    model = training.prepare()
    training.processes.share(model)
    with training.own_generators.in_use():
        return predict(
            model, signature, training.source("predict", loader), batch_axis=training.trainer.batch_axis,
            device=training.device, progress=training.progress,
        )  # fmt: skip


def evaluate(
    model: Any,
    signature: Signature,
    loader: Any,
    *,
    batch_axis: int,
    device: torch.device,
    hyper: Mapping[str, Any],
    progress: Progress,
    max_steps: int | None = None,
    started: Callable[[Pass], object] | None = None,
) -> dict[str, float]:
    """The weighted means of what an eval function returns over a loader, with gradients off, in evaluation mode."""
    means = Means(signature.role)
    part = part_in_evaluation(loader, model, max_steps, means)
    this = Pass(
        signature.function, model, signature.select(hyper), part.batches, part.total, batch_axis,
        take=means.add, shown=means.running, progress=progress, weigh=part.weigh, may_be_empty=part.may_be_empty,
    )  # fmt: skip
    if started is not None:
        started(this)
    try:
        _run_without_gradients(this, signature, device, part.limit)
        return means.compute()
    finally:
        means.reset()  # metric objects of the user's begin the next evaluation anew


def predict(
    model: Any,
    signature: Signature,
    loader: Any,
    *,
    batch_axis: int,
    device: torch.device,
    progress: Progress,
    max_steps: int | None = None,
) -> Any:
    """What a predict function returns over a loader, joined along the batch axis, on the CPU."""
    check_ordered(loader)
    part = part_in_evaluation(loader, model, max_steps)
    predictions = Predictions(batch_axis, part.total)
    function, items = signature.function, signature.items_needed

    def of_first_items(model: Any, *batch: Any) -> Any:
        return function(model, *batch[:items])

    this = Pass(
        of_first_items, model, {}, part.batches, part.total, batch_axis,
        take=predictions.add, shown=dict, progress=progress, weigh=part.weigh,
    )  # fmt: skip
    _run_without_gradients(this, signature, device, part.limit, items)
    return predictions.result()


def _run_without_gradients(
    this: Pass, signature: Signature, device: torch.device, max_steps: int | None, items: int | None = None
) -> None:
    # Never inference_mode: what it makes cannot take part in a graph again, and torch.enable_grad() must work.
    with explained(), evaluation_mode(this.model), torch.no_grad(), this_run(Running(device, training=False)):
        meet_first_batch(this, signature, device, items)
        this.progress.begin("evaluate" if items is None else "predict", this.total)
        try:
            if run_batches(this, max_steps):
                warn_if_short(this)
        finally:
            this.progress.end()
