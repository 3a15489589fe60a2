"""A Trainer's sweep over learning rates, after which everything is as it was."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ignition.arguments import check_idle, check_not_empty
from ignition.callbacks.schedules import bind_schedules
from ignition.errors import ArgumentError, MetricError
from ignition.events import Events
from ignition.loop import run_until_due
from ignition.lr_finder import LRSweep, check_sweep, sweep
from ignition.modes import training_mode
from ignition.notes import explained
from ignition.parting import together
from ignition.passes import meet_first_batch
from ignition.running import Running, this_run
from ignition.structure import named
from ignition.trial import everything_restored

if TYPE_CHECKING:
    from ignition.progress import Progress
    from ignition.trainer import Trainer
    from ignition.training import Training

__all__ = ["find_lr"]


def find_lr(
    trainer: Trainer[Any], start_lr: Any, end_lr: Any, steps: Any, metric: Any, optimizer: Any, smoothing: Any
) -> LRSweep:
    """Runs `Trainer.find_lr`."""
    check_idle(trainer.training.is_fitting, "find_lr")
    check_sweep(start_lr, end_lr, steps, smoothing, metric)
    groups = _groups(trainer.optimizer, optimizer)
    check_not_empty(trainer.train_loader, "train_loader")
    training, progress = trainer.training, trainer.training.progress  # a trial has one that shows nothing
    with together(), training.own_generators.in_use():
        processes = training.processes
        processes.check_alike(
            trainer, "sweep learning rates", start_lr=start_lr, end_lr=end_lr, steps=steps, metric=metric,
            swept=optimizer, smoothing=smoothing,
        )  # fmt: skip
        processes.shard(trainer)  # in place and for good, so before the parts are remembered
        with everything_restored(trainer):
            return _swept(trainer, groups, start_lr, end_lr, steps, metric, smoothing, progress)


def _swept(
    trainer: Trainer[Any], groups: list[dict[str, Any]], start_lr: float, end_lr: float, steps: int, metric: str,
    smoothing: float, progress: Progress,
) -> LRSweep:  # fmt: skip
    training = trainer.training
    training.is_fitting = True
    trainer.stop_reason = None
    dependents = bind_schedules(trainer.callbacks, trainer, training.train_signature.hyper_names)
    training.train_signature.check_hyper(trainer.hyper)
    training.seed()
    training.wrap()
    training.begin_fit(Events(trainer, (), ()), [*dependents, "find_lr"], [], [])
    progress.begin("find_lr", steps)
    try:
        with explained(), this_run(Running(training.device, training=True, window=training.window)):
            step = _stepping(training, _setter(groups), metric, progress)
            found = sweep(step, start_lr=start_lr, end_lr=end_lr, steps=steps, smoothing=smoothing, metric=metric)
            training.processes.look()
            return found
    finally:
        if progress.is_open:
            progress.end()
        if training.window is not None:
            training.window.detach()


def _stepping(
    training: Training, set_lr: Callable[[float], None], metric: str, progress: Progress
) -> Callable[[float], float | None]:
    """A function that takes one step at a learning rate, and begins the loader again where it has ended."""
    position = training.position

    def step(lr: float) -> float | None:
        if training.trainer.stop_reason is not None:  # by the train function
            return None
        set_lr(lr)
        before = position.step
        while position.step == before:  # a loader may show its end only when it is asked for more
            this = training.open_pass
            if this is None:
                this = training.begin_epoch()
                training_mode(training.prepared)
                meet_first_batch(this, training.train_signature, training.device)
            if run_until_due(training, this, 1):
                training.open_pass = None
        means = training.means.compute()
        training.means.reset()
        if metric not in means:
            raise MetricError(
                f"train_fn returned no {metric!r}",
                f"one of {', '.join(means)}" if means else "a metric, by which learning rates are compared",
                'name another one: find_lr(metric="...")' if means else "return the loss from train_fn",
            )
        if perf_counter() >= progress.next_draw:
            progress.draw(perf_counter(), position.step - first, {"lr": lr, metric: means[metric]})
        return means[metric]

    first = position.step
    return step


def _groups(optimizers: Any, chosen: Any) -> list[dict[str, Any]]:
    """The groups whose learning rates are swept."""
    known = named(optimizers)
    if chosen is not None:
        if isinstance(chosen, bool) or not isinstance(chosen, (str, int)) or str(chosen) not in known:
            raise ArgumentError(
                f"find_lr was given optimizer={chosen!r}",
                f"one of {', '.join(map(repr, known))}" if "" not in known else "a Trainer with several optimizers",
                "leave it out to sweep all of them, or pass a name in the Trainer's dict, or a place in its list",
            )
        known = {str(chosen): known[str(chosen)]}
    groups = [group for one in known.values() for group in getattr(one, "param_groups", ()) if "lr" in group]
    if not groups:
        raise ArgumentError(
            "find_lr found no optimizer with a learning rate",
            "a Trainer with the optimizer that train_fn steps",
            "Trainer(model, optimizer, train_fn, train_loader)",
        )
    return groups


def _setter(groups: list[dict[str, Any]]) -> Callable[[float], None]:
    """A function that gives the first group a learning rate; the others keep their ratios to it."""
    rates = [float(group["lr"]) for group in groups]
    reference = next((rate for rate in rates if rate), None)
    shares = [1.0 if reference is None else rate / reference for rate in rates]

    def set_lr(lr: float) -> None:
        for group, share in zip(groups, shares, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * share)  # in place: a captured graph reads this very tensor
            else:
                group["lr"] = lr * share

    return set_lr
