"""What a Trainer keeps of its training from fit to fit, and hands to the loop."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ignition.arguments import check_count
from ignition.data import iterate, length_of, rekeyed
from ignition.errors import ArgumentError, IgnitionWarning, OptimizerError
from ignition.events import Events
from ignition.means import Means
from ignition.optimizers import learning_rates
from ignition.passes import Pass, looking_ahead
from ignition.position import Position
from ignition.progress import Progress
from ignition.signature import Signature
from ignition.structure import like, named
from ignition.window import UpdateRules, Window

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["Goal", "Training", "check_goal"]


@dataclass(slots=True, frozen=True)
class Goal:
    """When a fit ends and when it evaluates, in epochs and steps counted from the Trainer's first."""

    last_epoch: int | None
    last_step: int | None
    eval_every: int | None
    max_eval_steps: int | None

    def steps_until_due(self, step: int) -> int | None:
        """How many steps there are until the fit ends or evaluates; None where neither is known."""
        due = [] if self.last_step is None else [self.last_step - step]
        if self.eval_every is not None:
            due.append(self.eval_every - step % self.eval_every)
        return min(due, default=None)

    def evaluates_at(self, step: int) -> bool:
        """Whether a record is due after that step, besides those at each epoch's end."""
        return self.eval_every is not None and step % self.eval_every == 0

    def epoch_name(self, epoch: int) -> str:
        """What the bar of an epoch is called."""
        return f"epoch {epoch}" if self.last_epoch is None else f"epoch {epoch}/{self.last_epoch}"


class Training:
    """The moving parts of a training: place, open pass, means so far, events.

    Args:
        trainer: What callbacks receive.
        train_signature: The train function.
        eval_signature: The eval function, if there is one.
        device: Where model and batches are.
        progress: What a person sees.
        rules: How steps are taken.
    """

    def __init__(
        self,
        trainer: Trainer[Any],
        train_signature: Signature,
        eval_signature: Signature | None,
        device: torch.device,
        progress: Progress,
        rules: UpdateRules,
    ) -> None:
        self.trainer = trainer
        self.train_signature = train_signature
        self.eval_signature = eval_signature
        self.device = device
        self.progress = progress
        self.rules = rules
        self.window: Window | None = None
        self.position = Position()
        self.means = Means(train_signature.role)
        self.prepared: Any = trainer.model  # what the functions receive
        self.events = Events(trainer, (), ())
        self.open_pass: Pass | None = None
        self.steps_unchecked = True
        self.has_run = False  # whether this fit has used up anything of an open pass
        self.step_dependents: list[str] = []  # what would go wrong in silence if the wrong optimizer stepped
        self._keyed: dict[str, tuple[Any, Any]] = {}
        self._scales: dict[str, Any] = {}
        self._seconds = 0.0
        self._since: float | None = None

    # Where the training is

    @property
    def epochs_ended(self) -> int:
        """How many epochs have come to their end."""
        return self.position.epoch - (self.open_pass is not None)

    def has_reached(self, goal: Goal) -> bool:
        """Whether nothing is left to do: stopped, or at the last epoch or step."""
        return (
            self.trainer.stop_reason is not None
            or self.epochs_ended == goal.last_epoch
            or self.position.step == goal.last_step
        )

    # Epochs

    def prepare(self) -> Any:
        """What the functions receive in the place of the user's model: compiled, if that was asked for."""
        compiling = self.trainer.compile
        if compiling and self.prepared is self.trainer.model:
            options = compiling if isinstance(compiling, Mapping) else {}
            self.prepared = like(self.trainer.model, lambda model: torch.compile(model, **options))
        return self.prepared

    def begin_fit(self, events: Events, dependents: Iterable[str], watched: Iterable[str]) -> None:
        """Sets what holds for one fit.

        Args:
            events: Who is called when.
            dependents: What moves values of the Trainer's optimizers, in words.
            watched: What wants to know which optimizers really took a step, in words.
        """
        self.events = events
        self.step_dependents = [*dependents, *watched, *self.rules.described()]
        self.steps_unchecked = True
        self.has_run = self.open_pass is None
        self.window = None
        if watched or self.rules.described():
            self.window = Window(named(self.trainer.optimizer), self.rules, self.device)
            self.window.load_state_dict(self._scales)
            self.window.attach()
        self._since = perf_counter()
        if self.open_pass is not None:
            self._set_hooks(self.open_pass)

    def begin_epoch(self) -> Pass:
        """Opens the next epoch's pass, after its on_epoch_begin."""
        trainer = self.trainer
        self.position.epoch += 1
        self.position.batch = 0
        self.open_pass = Pass(
            self.train_signature.function,
            self.prepared,
            trainer.hyper,
            iter(()),
            length_of(trainer.train_loader),
            self.trainer.batch_axis,
            take=self.means.add,
            shown=self.means.running,
            progress=self.progress,
            position=self.position,
        )
        self._set_hooks(self.open_pass)
        self.events.fire("epoch_begin")
        # After the event, in which a callback may still set the sampler's epoch or the batch size.
        self.open_pass.length = length_of(trainer.train_loader)
        asked = perf_counter()
        batches = iterate(self.source("train", trainer.train_loader), self.position.epoch)  # starts its workers
        self.open_pass.data_seconds += perf_counter() - asked
        if self.rules.accumulate > 1 and self.open_pass.length is None and isinstance(trainer.train_loader, DataLoader):
            # So that the epoch's last window is known by its last batch. Not for any iterable: an environment would
            # have to go a step ahead of the function.
            batches = looking_ahead(self.open_pass, batches)
        self.open_pass.batches = batches
        return self.open_pass

    def end_epoch(self) -> None:
        """Closes the pass."""
        self.open_pass = None
        self.trainer.history.end_epoch()  # where the record was written before the loader showed its end
        self.events.fire("epoch_end")

    def stop(self) -> None:
        """Has the open pass end after the current step."""
        if self.open_pass is not None:
            self.open_pass.stopped = True

    def end_fit(self) -> None:
        """Keeps the time that belongs to the next record. A pass in which something was raised cannot go on."""
        while self.progress.is_open:
            self.progress.end()
        if self.trainer.stop_reason is not None:
            self.progress.say(f"stopped after step {self.position.step}: {self.trainer.stop_reason}")
        self._seconds, self._since = self._elapsed(), None
        if self.window is not None:
            self.window.detach()
            self._scales = self.window.state_dict()
        if self.trainer.exception is not None and self.has_run:
            self.drop_pass()
        self.events = Events(self.trainer, (), ())

    def drop_pass(self) -> None:
        """Gives up an epoch that is open; it begins anew under the same number."""
        if self.open_pass is not None:
            self.open_pass = None
            self.position.epoch -= 1
            self.position.batch = 0
        self.means.reset()

    def source(self, purpose: str, loader: Any) -> Any:
        """The loader as it is read: by key under a seed, else the user's own."""
        if self.trainer.seed is None:
            return loader
        known = self._keyed.get(purpose)
        if known is None or known[0] is not loader:  # kept from epoch to epoch, so that persistent workers are
            known = self._keyed[purpose] = (loader, rekeyed(loader, self.trainer.seed, purpose))
        return known[1]

    def _set_hooks(self, this: Pass) -> None:
        this.stopped = False
        this.function = self.train_signature.function
        this.on_batch_begin = self.events.calls("batch_begin")
        this.on_batch_end = self.events.calls("batch_end")
        this.on_step_end = self.events.calls("step_end")
        this.window = self.window

    # Records

    def write_record(self, goal: Goal, epoch_ended: bool) -> None:
        """Evaluates and writes a row of history, unless this step has one: eval_every may meet the epoch's end."""
        trainer, position = self.trainer, self.position
        if trainer.history.last.get("step") == position.step:
            return
        # Read before the evaluation: a metric object may serve both functions.
        record: dict[str, Any] = {f"train_{name}": value for name, value in self.means.compute().items()}
        self.means.reset()
        if trainer.eval_fn is not None:
            evaluated = trainer.evaluate(max_steps=goal.max_eval_steps)
            record |= {f"val_{name}": value for name, value in evaluated.items()}
        record |= learning_rates(trainer.optimizer) | _plain(trainer.hyper) | self._take_seconds()
        trainer.history.append({"epoch": position.epoch, "step": position.step, **record}, epoch_ended=epoch_ended)
        self.progress.record(trainer.history.last, goal.last_epoch)
        self.events.fire("record")

    def _elapsed(self) -> float:
        return self._seconds + (0.0 if self._since is None else perf_counter() - self._since)

    def _take_seconds(self) -> dict[str, float]:
        """The seconds since the record before, and how many of them were spent waiting on the loader."""
        seconds, waited = self._elapsed(), 0.0
        self._seconds, self._since = 0.0, perf_counter()
        if self.open_pass is not None:
            waited, self.open_pass.data_seconds = self.open_pass.data_seconds, 0.0
        return {"seconds": seconds, "data_seconds": waited}

    # Optimizers

    def check_steps(self, stepped: list[Optimizer]) -> None:
        """Compares the optimizers that took the first step with those that the Trainer knows.

        Raises:
            OptimizerError: If they are others, and something in this fit depends on the steps.
        """
        self.steps_unchecked = False
        known = named(self.trainer.optimizer)
        if not all(isinstance(optimizer, Optimizer) for optimizer in known.values()):
            return  # one that is not torch's takes its steps unseen
        strange = [optimizer for optimizer in stepped if all(optimizer is not one for one in known.values())]
        idle = bool(known) and not any(optimizer is one for optimizer in stepped for one in known.values())
        idle = idle and not (self.window is not None and self.window.skipped)  # one that overflowed is known
        if not strange and not idle:
            return
        names = ", ".join(type(optimizer).__name__ for optimizer in strange)
        found = f"the first step was taken by an optimizer that the Trainer does not have ({names})" if strange else (
            f"the Trainer's optimizer ({', '.join(type(one).__name__ for one in known.values())}) took no step in the "
            "first call of train_fn"
        )  # fmt: skip
        expected = "the optimizer that train_fn steps is the one that was given to Trainer(...)"
        fix = "make the Trainer after the optimizer, with that very object (in a notebook: run the cell again)"
        if self.step_dependents:
            raise OptimizerError(f"{found}, on which depends: {', '.join(self.step_dependents)}", expected, fix)
        warnings.warn(f"{found}; {expected}; {fix}", IgnitionWarning, stacklevel=2)


def check_goal(training: Training, epochs: Any, steps: Any, eval_every: Any, max_eval_steps: Any) -> Goal:
    """The goal of a fit that begins where the training is. Raises ArgumentError if that makes no goal."""
    given = {"epochs": epochs, "steps": steps, "eval_every": eval_every, "max_eval_steps": max_eval_steps}
    for name, count in given.items():
        check_count(count, name)
    if epochs is None and steps is None:
        raise ArgumentError(
            "fit was given neither epochs nor steps", expected="one of them or both", fix="fit(epochs=10)"
        )
    return Goal(
        last_epoch=None if epochs is None else training.epochs_ended + epochs,
        last_step=None if steps is None else training.position.step + steps,
        eval_every=eval_every,
        max_eval_steps=max_eval_steps,
    )


def _plain(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters that can be entries of history: plain values, and tensors of one element as numbers."""
    plain: dict[str, Any] = {}
    for name, value in hyper.items():
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()  # once a record: waits where it is on an accelerator
        if isinstance(value, (numbers.Real, str)) or value is None:  # numpy's numbers are Real too
            plain[name] = value
    return plain
