"""One fit from end to end: checks, what an earlier run has done of it, the loop, and the clearing up."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ignition import distributed, loop, rng
from ignition.arguments import check_batch_axis, check_evaluation, check_idle, check_not_empty
from ignition.callbacks.base import Callback
from ignition.callbacks.checkpointing import Checkpoint
from ignition.callbacks.schedule import Schedule
from ignition.callbacks.schedules import bind_schedules
from ignition.captured import warn_of_captured
from ignition.checkpoint import check_replaceable
from ignition.codec import encode
from ignition.data import batch_weight, can_be_looked_at, items_of, iterate
from ignition.data_order import ORDER, SAMPLES, order_of
from ignition.differences import Run, tell_differences, tell_of_finished
from ignition.errors import ArgumentError, CheckpointError, warn
from ignition.events import Events, check_callbacks
from ignition.goal import Goal, check_goal
from ignition.memory import Memory
from ignition.parting import check_alike, raised_alike, together
from ignition.recording import check_columns_can_come
from ignition.sampler_memory import own_samplers
from ignition.settings import Settings, options_of, settings_of
from ignition.sharded_checkpoint import read, write
from ignition.snapshot import apply, capture
from ignition.step_graphs import step_graphs

if TYPE_CHECKING:
    from ignition.trainer import Trainer
    from ignition.training import Training

__all__ = ["begin_with", "fit", "load", "save"]


def fit(
    trainer: Trainer[Any],
    functions: list[tuple[str, Callable[[Any], Any]]],
    epochs: Any,
    steps: Any,
    eval_every: Any,
    max_eval_steps: Any,
    resume: Any,
) -> None:
    """Runs `Trainer.fit`; `functions` are those that `Trainer.on` added."""
    check_goal(epochs, steps, eval_every, max_eval_steps)
    training = trainer.training

    def by_agreement(error: BaseException) -> bool:
        return training.ends_by_agreement(error) or (not training.has_begun and raised_alike(error))

    with together(by_agreement), training.own_generators.in_use():
        _fit(trainer, functions, epochs, steps, eval_every, max_eval_steps, resume)


def _fit(
    trainer: Trainer[Any],
    functions: list[tuple[str, Callable[[Any], Any]]],
    epochs: Any,
    steps: Any,
    eval_every: Any,
    max_eval_steps: Any,
    resume: Any,
) -> None:
    training = trainer.training
    if training.is_fitting:
        raise ArgumentError(
            "fit was called inside a fit of the same Trainer",
            expected="one fit at a time",
            fix="call it when the first has ended, or train other things with a Trainer of their own",
        )
    training.has_begun = False
    saver = _saver(check_callbacks(trainer.callbacks), resume)
    training.processes.check_alike(
        trainer, epochs=epochs, steps=steps, eval_every=eval_every, max_eval_steps=max_eval_steps, resume=resume
    )
    before, previous = Settings(trainer), training.fit
    bound = [(one, dict(vars(one))) for one in trainer.callbacks if isinstance(one, Schedule)]
    goes_on = resume and saver is not None and saver.goes_on(trainer)  # as a script does that is run again
    trainer.stop_reason, trainer.exception = None, None
    training.is_fitting = True
    try:
        _check_parts(trainer)
        training.epoch_start.look_at(trainer.train_loader)
        training.evaluation_start.look_at(trainer.test_loader, trainer.train_loader)
        training.fit = begun = previous if goes_on else _next_fit(trainer)
        asked: dict[str, Any] = {"epochs": epochs, "steps": steps, "options": {ORDER: order_of(trainer.train_loader)}}
        if saver is not None:
            asked["options"] = options_of(trainer, eval_every=eval_every, max_eval_steps=max_eval_steps)
        if saver is not None and _was_finished(trainer, saver, resume, goes_on, asked):
            return
        training.fit |= asked
        goal = Goal(
            *_end(training.fit, epochs, steps), eval_every, max_eval_steps, None if saver is None else saver.save_every
        )
        taken_up = Settings(trainer) if goes_on or training.fit is not begun else None
        dependents = bind_schedules(trainer.callbacks, trainer, training.train_signature.hyper_names)
        if taken_up is not None:
            _put_back(trainer, taken_up)
            before = taken_up
        _check_hyper(trainer)
        check_columns_can_come(trainer)
        _meet_test_batch(trainer)
        if saver is not None:
            encode(trainer.state, {}, "trainer.state", exact=True)  # raises before the first batch, and not at a save
            if training.fit["number"] == 1:
                warn_of_captured(trainer)
        training.seed()
        for callback in trainer.callbacks:
            callback.prepare(trainer)
        training.wrap()
        training.graphs = step_graphs(training)
        watched = [repr(callback) for callback in trainer.callbacks if callback.needs_updates]
        training.begin_fit(
            Events(trainer, trainer.callbacks, functions),
            dependents,
            watched,
            [] if saver is None else [saver.save_point],
        )
        if saver is not None:
            training.unused_gradients.watch()
        training.goal = goal
        loop.fit(training, goal)
        for models in (trainer.model, *trainer.averaged.values()):  # whose buffers each has changed in the last step
            training.processes.share(models)
        training.fit["ended"] = True
    except BaseException:
        if training.position.step == before.step:
            before.restore()
            for schedule, attributes in bound:  # one that has moved nothing has not begun to count
                vars(schedule).update(attributes)
        if not training.has_begun:
            training.fit = previous
        raise
    finally:
        training.is_fitting = False
        if training.graphs is not None:
            training.graphs.close()
            training.graphs = None
        training.unused_gradients.rest()
        training.end_fit()
        if saver is not None:
            saver.release()


@together(raised_alike)
def save(training: Training, path: str | os.PathLike[str]) -> None:
    """Writes a checkpoint by hand: `Trainer.save`."""
    check_alike("save")
    check_replaceable(Path(path))
    if not training.epoch_is_read:
        training.epoch_start.warn_if_lost(training.trainer.train_loader)
    unfinished = _unfinished(training) if training.is_fitting else None
    if unfinished is not None:
        warn(
            f"the checkpoint {os.fspath(path)} is from {unfinished}: a training that goes on from it is not exactly "
            "the one that goes on here. Save in on_record or on_epoch_end, from a function of trainer.on, or have a "
            "Checkpoint do it"
        )
    # Not copied: nothing changes meanwhile.
    with training.own_generators.in_use():
        content = capture(training, lambda file, tensors: {name: one.detach().cpu() for name, one in tensors.items()})
    if content is not None:
        write(Path(path), content)
    distributed.barrier()


@together(raised_alike)
def load(trainer: Trainer[Any], path: str | os.PathLike[str]) -> None:
    """Goes where a checkpoint was taken: `Trainer.load`."""
    training = trainer.training
    check_idle(training.is_fitting, "load")
    check_alike("load")
    number = training.fit["number"]

    def begin_anew() -> None:
        # The next one is another fit, with a number that this script has not had.
        training.fit |= {"number": max(number, training.fit["number"]), "ended": True}
        for callback in trainer.callbacks:  # the averages that it keeps are there at once
            callback.prepare(trainer)

    with training.own_generators.in_use():
        apply(training, read(Path(path)), str(path), then=begin_anew)


def _unfinished(training: Training) -> str | None:
    """What is being done in a fit that a checkpoint taken now would leave half done; None between two steps."""
    event, goal, step = training.events.now, training.goal, training.position.step
    if event == "exception" or (event == "train_end" and training.trainer.exception is not None):
        return None if training.ended_in_order else f"on_{event}, after an error inside a step"
    if event == "step_end" and goal is not None and goal.evaluates_at(step):
        return f"on_step_end of step {step}, before the record that is due after it"
    if event == "eval_end" and training.pending is not None:
        return "on_eval_end, before the record of that evaluation"
    if event == "batch_begin" and training.window is not None and training.window.is_open:
        return "on_batch_begin in the middle of a step of several batches"
    if event in ("", "batch_end"):
        return f"{f'on_{event}' if event else 'a function of the loop'}, in the middle of a step or an evaluation"
    comes_again = event == "eval_begin" and training.pending is not None  # with the evaluation, which begins anew
    others = training.events.done if comes_again else training.events.to_come
    for one in others:
        if type(one).state_dict is not Callback.state_dict:
            return f"on_{event} {'after' if comes_again else 'before'} that of {one!r}, which changes what it keeps"
    return None


def begin_with(trainer: Trainer[Any], loader: Any) -> None:
    """Makes way for another train loader. An epoch that is open was read from the one before.

    Raises:
        CheckpointError: If a fit is running that is to be gone on with: the script, run again, would have its first
            loader in the middle of an epoch of this one.
    """
    if not trainer.training.is_fitting:
        trainer.training.drop_pass()
    elif loader is not trainer.train_loader and any(isinstance(one, Checkpoint) for one in trainer.callbacks):
        raise CheckpointError(
            f"train_loader was set inside a fit with a Checkpoint, in epoch {trainer.epoch}",
            expected="one loader for a whole fit, since a run that goes on inside an epoch has the one that the script "
            "gave before the fit",
            fix="set it between two fits, each of which goes on with its own: fit(epochs=3, resume=True), "
            "trainer.train_loader = other, fit(epochs=2, resume=True); or have one sampler choose what an epoch reads, "
            "by its set_epoch",
        )


def _next_fit(trainer: Trainer[Any]) -> dict[str, Any]:
    training = trainer.training
    return {
        "number": training.fit["number"] + 1,
        "start_epoch": training.epochs_ended,
        "start_step": training.position.step,
        "ended": False,
        "stop_reason": None,
        "settings": settings_of(trainer),
    }


def _put_back(trainer: Trainer[Any], taken_up: Settings) -> None:
    """Takes back the values of the next step that schedules set at a fit's start: they come when that step does.

    What an interrupted run has left is a record, or nothing; neither is to see them. A hyperparameter that is new in
    the script keeps its value.
    """
    bound = dict(trainer.hyper)
    taken_up.restore()
    trainer.hyper.update({name: value for name, value in bound.items() if name not in trainer.hyper})


def _saver(callbacks: list[Any], resume: Any) -> Checkpoint | None:
    """The Checkpoint among the callbacks."""
    savers = [callback for callback in callbacks if isinstance(callback, Checkpoint)]
    if len(savers) > 1:
        raise ArgumentError(
            f"there are {len(savers)} Checkpoint callbacks",
            expected="one, from which the training goes on",
            fix="keep one; SaveModel writes weights at other times",
        )
    if not isinstance(resume, bool):
        raise ArgumentError(
            f"resume={resume!r}", expected="True or False", fix="the folder is that of Checkpoint(folder)"
        )
    if resume and not savers:
        raise ArgumentError(
            "resume=True, and there is no Checkpoint among the callbacks",
            expected="the one whose folder the training goes on from",
            fix='trainer.callbacks = [Checkpoint("runs/a"), ...]',
        )
    return savers[0] if savers else None


def _was_finished(trainer: Trainer[Any], saver: Checkpoint, resume: bool, goes_on: bool, asked: dict[str, Any]) -> bool:
    """Goes where an earlier run of the script was; whether that had done this fit already.

    Args:
        trainer: Between two fits.
        saver: The Checkpoint among its callbacks.
        resume: Whether to go on from an earlier run.
        goes_on: Whether it is the Trainer's last fit once more.
        asked: What the script says of this fit.
    """
    training = trainer.training
    begun, number = training.fit, training.fit["number"]
    if goes_on and SAMPLES in begun.get("options", {}):  # as then: callbacks may have changed weights and indices
        asked["options"][SAMPLES] = begun["options"][SAMPLES]
    script = Run(None if training.processes.seed_drawn else trainer.seed, begun | asked)
    was_ended = saver.take_up(trainer, resume, goes_on)
    if trainer.seed is None:
        trainer.seed = torch.initial_seed() % 2**63  # draws nothing, and leaves the generators as they are
        training.seeded = True
    checkpoint, is_loaded = Run(trainer.seed, dict(training.fit)), training.fit is not begun
    is_done = training.fit["stop_reason"] is not None or saver.is_beyond(number)
    if was_ended and (is_done or _is_reached(trainer, asked["epochs"], asked["steps"])):
        trainer.stop_reason = training.fit["stop_reason"]
        for callback in trainer.callbacks:  # the averages that it keeps are there for the code after this fit
            callback.prepare(trainer)
        head = f"fit {number} was finished at step {trainer.step}, and is passed over"
        training.progress.say(head)
        tell_of_finished(trainer, script, checkpoint, head, saver.folder, not saver.is_beyond(number))
        return True
    if was_ended:  # the number has been raised since
        training.fit["ended"] = False
    else:
        trainer.stop_reason = training.fit["stop_reason"]
    head = f"goes on from {saver.last_path or 'memory'} at step {trainer.step}"
    if training.position.step > training.fit["start_step"] or is_loaded:
        training.progress.say(head)
    if is_loaded:
        tell_differences(trainer, script, checkpoint, head, saver.folder)
    return False


def _end(fit: dict[str, Any], epochs: int | None, steps: int | None) -> tuple[int | None, int | None]:
    """The last epoch and the last step of a fit, from where it began."""
    last_epoch = None if epochs is None else fit["start_epoch"] + epochs
    return last_epoch, None if steps is None else fit["start_step"] + steps


def _is_reached(trainer: Trainer[Any], epochs: int | None, steps: int | None) -> bool:
    return trainer.training.has_reached(Goal(*_end(trainer.training.fit, epochs, steps), None, None))


def _check_parts(trainer: Trainer[Any]) -> None:
    """Checks what may have been set since the Trainer was made."""
    check_evaluation(trainer.eval_fn, trainer.test_loader)
    check_batch_axis(trainer.batch_axis)
    check_not_empty(trainer.train_loader, "train_loader")
    if trainer.test_loader is not None:
        check_not_empty(trainer.test_loader, "test_loader")


def _meet_test_batch(trainer: Trainer[Any]) -> None:
    """Looks at a first batch for `eval_fn`, whose errors would otherwise wait for an epoch to be trained.

    Once for each function and loader, and only where that uses nothing up; generators and samplers are put back.
    """
    training, loader = trainer.training, trainer.test_loader
    signature = training.eval_signature
    if signature is None or not can_be_looked_at(loader) or training.met == (signature, id(loader)):
        return
    samplers, states = Memory(vars(one) for one in own_samplers(loader).values()), rng.capture()
    try:
        for first in iterate(training.source("eval", loader)):
            signature.check_batch(trainer.model, items_of(first), signature.select(trainer.hyper))
            batch_weight(first, trainer.batch_axis)
            break
    finally:
        rng.restore(states)
        samplers.restore()
    training.met = (signature, id(loader))


def _check_hyper(trainer: Trainer[Any]) -> None:
    """Checks, as far as it is known before the first batch, that the functions take the hyperparameters."""
    training = trainer.training
    training.train_signature.check_hyper(trainer.hyper)
    if training.eval_signature is not None:
        training.eval_signature.check_hyper(training.eval_signature.select(trainer.hyper))
