"""What a Trainer keeps of its training from fit to fit, and hands to the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from ignition import rng
from ignition.clock import Clock
from ignition.data import drop_workers, rekeyed
from ignition.epoch_start import EpochStart, EvaluationStart
from ignition.events import Events
from ignition.first_step import check_first_step
from ignition.goal import Goal
from ignition.loader_advice import Advisor
from ignition.means import Means
from ignition.modes import warn_of_thawed
from ignition.own_generators import OwnGenerators
from ignition.passes import Pass, checking, with_known_end
from ignition.position import Position
from ignition.processes import Processes
from ignition.progress import Progress
from ignition.reading import part_of, rounds_of, weighing_borrowed
from ignition.signals import EvaluationStopped, end_as
from ignition.signature import Signature
from ignition.structure import like, named
from ignition.unused_gradients import UnusedGradients
from ignition.window import UpdateRules, Window

if TYPE_CHECKING:
    from ignition.step_graphs import StepGraphs
    from ignition.trainer import Trainer

__all__ = ["Training"]


class Training:
    """The moving parts of a training: place, open pass, means so far, events.

    Args:
        trainer: What callbacks receive.
        train_signature: The train function.
        eval_signature: The eval function, if there is one.
        device: Where model and batches are.
        progress: What a person sees.
        rules: How steps are taken.
        processes: What is done together with other processes.

    Attributes:
        compiled: What the functions receive where no gradients are wanted.
        prepared: What the functions receive in the place of the user's model.
        open_pass: The pass of an epoch that is still to be finished.
        pending: A record that is due and not yet written, while its evaluation runs.
        fit: What is known of the running or last fit: its number in the script, where it began, whether it has ended.
        signal: The signal that asked for an end, if one came.
    """

    def __init__(
        self, trainer: Trainer[Any], train_signature: Signature, eval_signature: Signature | None,
        device: torch.device, progress: Progress, rules: UpdateRules, processes: Processes,
    ) -> None:  # fmt: skip
        self.trainer = trainer
        self.train_signature, self.eval_signature = train_signature, eval_signature
        self.device, self.progress = device, progress
        self.rules, self.processes = rules, processes
        processes.take_up(trainer)
        self.window: Window | None = None
        self.graphs: StepGraphs | None = None  # of a fit's steps
        self.position, self.means = Position(), Means(train_signature.role)
        self.compiled = self.prepared = trainer.model
        self.events = Events(trainer, (), ())
        self.open_pass: Pass | None = None
        self.evaluating: Pass | None = None
        self.pending: dict[str, Any] | None = None
        self.goal: Goal | None = None  # of the fit that is running
        self.fit: dict[str, Any] = {"number": 0}
        self.folders: dict[str, Any] = {}  # the Checkpoint that wrote there last, by folder
        self.seeded = self.is_fitting = self.is_measuring = self.paused = self.ended_in_order = False
        self.has_begun = False  # whether the last fit has come to the loop
        self.signal: int | None = None
        self.met: tuple[Signature, int] | None = None  # what the eval function has been tried on
        self.steps_unchecked, self.has_run = True, False  # has_run: this fit has used up something of an open pass
        self.step_dependents: list[str] = []
        self.savers: list[Callable[[Any], None]] = []
        self._keyed: dict[str, tuple[Any, Any]] = {}
        self._unread: tuple[Any, Iterator[Any]] | None = None  # of a pass that was dropped before its first batch
        self._scales: dict[str, Any] = {}
        self.generators, self.advisor, self.unused_gradients = rng.Generators(trainer), Advisor(), UnusedGradients(self)
        self.own_generators = OwnGenerators()
        self.epoch_start, self.evaluation_start = EpochStart(), EvaluationStart()
        self.clock = Clock()

    @property
    def epochs_ended(self) -> int:
        """How many epochs have come to their end."""
        return self.position.epoch - (self.open_pass is not None)

    def goes_on(self, goal: Goal) -> bool:
        """Whether anything is left to do; a record that an interruption left due is written also where no step is."""
        self.agree()
        return self.pending is not None or not self.has_reached(goal)

    def has_reached(self, goal: Goal) -> bool:
        """Whether nothing is left to do: stopped, or at the last epoch or step."""
        return (
            self.trainer.stop_reason is not None
            or (goal.last_epoch is not None and self.epochs_ended >= goal.last_epoch)
            or (goal.last_step is not None and self.position.step >= goal.last_step)
        )

    @property
    def epoch_is_read(self) -> bool:
        """Whether the loader has come to the end of the epoch that was begun last."""
        return self.open_pass is None or (self.pending is not None and self.pending["epoch_ended"])

    # Fits

    def prepare(self) -> Any:
        """What the functions receive in the place of the user's model: compiled, if that was asked for."""
        compiling = self.trainer.compile
        if compiling and compiling != "step" and self.compiled is self.trainer.model:
            options = compiling if isinstance(compiling, Mapping) else {}
            self.compiled = like(self.trainer.model, lambda model: torch.compile(model, **options))
        return self.compiled

    def wrap(self) -> None:
        """Prepares what the train function receives: sharded, or under DDP, where there are several processes."""
        self.prepared = None  # the one before may have to go first, and with it what holds on to it
        if self.window is not None:
            self.window.set_sync(None)
        if self.open_pass is not None:
            self.open_pass.model, self.open_pass.check = None, lambda batch: None
        self.prepared = self.processes.wrap(self.trainer, self.prepare())

    def wrap_again(self) -> None:
        """Between two steps, does the same anew where a callback has frozen or unfrozen parameters."""
        if self.window is not None and self.open_pass is not None and self.processes.trains_others():
            self.wrap()
            self.window.set_sync(self.processes.gradient_sync(self.prepared))
            self._set_hooks(self.open_pass)
            self.open_pass.check = checking(self.open_pass, self.train_signature)

    def seed(self) -> None:
        """Seeds all generators, once in a training, if a seed was given."""
        if self.trainer.seed is not None and not self.seeded:
            self.processes.seed_generators(self.trainer.seed)
        self.seeded = True

    def begin_fit(
        self,
        events: Events,
        dependents: Iterable[str],
        watched: Iterable[str],
        savers: Iterable[Callable[[Any], None]],
    ) -> None:
        """Sets what holds for one fit.

        Args:
            events: Who is called when.
            dependents: What moves values of the Trainer's optimizers, in words.
            watched: What wants to know which optimizers really took a step, in words.
            savers: What is called between steps, when all that belongs to the last one is done.
        """
        self.events = events
        self.step_dependents = [*dependents, *watched, *self.rules.described()]
        self.steps_unchecked = True
        self.has_run = self.open_pass is None
        self.window = self.signal = None
        self.paused = self.ended_in_order = False
        self.has_begun = True
        self.generators.look_again()
        self.savers = list(savers)
        sync = self.processes.gradient_sync(self.prepared)
        if watched or self.rules.described() or sync is not None:
            self.window = Window(named(self.trainer.optimizer), self.rules, self.device, sync)
            self.window.load_state_dict(self._scales)
            self.window.attach()
        self.clock.begin()
        self.progress.open()
        if self.open_pass is not None:
            self._set_hooks(self.open_pass)

    def end_fit(self) -> None:
        """Keeps the time that belongs to the next record. A pass in which something was raised cannot go on."""
        self.progress.close()
        if self.trainer.stop_reason is not None:
            self.progress.say(f"stopped after step {self.position.step}: {self.trainer.stop_reason}")
        if self.position.step and not len(self.trainer.history) and self.trainer.exception is None:
            self.progress.say(
                f"no record yet: the fit ended inside epoch {self.position.epoch}; fit(..., eval_every=...) writes one "
                "every so many steps"
            )
        self.clock.end()
        self._scales = self.scales()
        if self.window is not None:
            self.window.detach()
        if self.trainer.exception is not None:
            self.processes.forget_pass()
            self._keyed.clear()
            drop_workers(self.trainer.train_loader, self.trainer.test_loader)
            if self.has_run and not self.ended_in_order:
                self.drop_pass()
        self.events = Events(self.trainer, (), ())

    def stop(self, reason: str) -> None:
        """Has the fit end after the current step."""
        if not (self.is_fitting and self.processes.notes("stop", reason)):
            self.trainer.stop_reason = reason
            self.pause()

    def pause(self) -> None:
        """Has training come to a save point after the current step. Safe in any thread."""
        if self.processes.notes("pause", True):
            return
        self.paused = True
        this = self.open_pass
        if this is not None:
            this.stopped = True

    def interrupt(self, number: int) -> None:
        """Has training and evaluation end at the next place from which they can go on. Safe in a signal handler."""
        if self.processes.notes("signal", number):
            return
        self.signal = number
        for this in (self.open_pass, self.evaluating):
            if this is not None:
                this.stopped = True

    def agree(self) -> None:
        """What one of many processes was asked for, all do: from here on, and at the same step."""
        agreed = self.processes.agree()
        self.paused = self.paused or "pause" in agreed
        self.signal = agreed.get("signal", self.signal)
        self.trainer.stop_reason = agreed.get("stop", self.trainer.stop_reason)

    def heed_pause(self, this: Pass) -> None:
        """Has a pass that goes on end after a step, if that was asked for while none was running."""
        if self.paused or self.signal is not None:
            this.stopped = True

    @contextmanager
    def interruptible(self) -> Iterator[Callable[[Pass], None]]:
        """Lets a signal end the evaluation of a record that is due; its pass is to be handed to what this yields.

        Raises:
            EvaluationStopped: If that happened.
        """
        due = self.pending is not None
        running: list[Pass] = []

        def begin(this: Pass) -> None:
            running.append(this)
            self.evaluating = this if due else None
            if due and self.signal is not None:  # it came before, or between two averaged models
                this.stopped = True

        try:
            yield begin
        finally:
            self.evaluating = None
        if self.pending is not None and running and running[0].stopped:
            self.generators.restore(self.pending["generators"])  # what it drew, it draws again
            self.evaluation_start.again()
            raise EvaluationStopped

    def save_point(self) -> None:
        """Between two steps: checkpoints are written here, and here the training ends for a signal."""
        asked, self.paused = self.signal, False  # before the savers look: what comes later stays for the next time
        if self.open_pass is not None:
            self.open_pass.stopped = False
        self.ended_in_order = True  # whatever a saver raises, between two steps
        for save in self.savers:
            save(self.trainer)
        self.ended_in_order = False
        if asked is not None:
            self.end_for_signal()

    def ends_by_agreement(self, error: BaseException) -> bool:
        """Whether an error is how all processes end for a signal."""
        return self.signal is not None and isinstance(error, (KeyboardInterrupt, SystemExit))

    def end_for_signal(self) -> None:
        """Ends the process as the signal would have, if one came: 128 + its number is the exit status."""
        if self.signal is not None:
            self.ended_in_order = True
            end_as(self.signal)

    # Epochs

    def begin_epoch(self) -> Pass:
        """Opens the next epoch's pass, after its on_epoch_begin."""
        self.position.epoch += 1
        self.position.batch = self.position.offset = self.position.shift = 0
        self.open_pass = self._new_pass()
        self.events.fire("epoch_begin")
        # After the event, in which a callback may still set the sampler's epoch or the batch size.
        self._read(self.open_pass)
        return self.open_pass

    def end_epoch(self) -> None:
        """Closes the pass."""
        self.open_pass = None
        self.trainer.history.end_epoch()  # where the record was written before the loader showed its end
        self.events.fire("epoch_end")

    def drop_pass(self) -> None:
        """Gives up an epoch that is open; it begins anew under the same number."""
        if self.open_pass is not None:
            if self.position.batch == 0 and isinstance(self.trainer.train_loader, Iterator):  # it gives nothing again
                self._unread = self.trainer.train_loader, self.open_pass.batches
            self.open_pass = None
            self.position.epoch -= 1
            self.position.batch = self.position.offset = self.position.shift = 0
        self.pending = None
        self.evaluation_start.end()
        self.means.reset()

    def source(self, purpose: str, loader: Any) -> Any:
        """The loader as it is read: by key under a seed, else the user's own."""
        if self.trainer.seed is None:
            return loader
        known = self._keyed.get(purpose)
        if known is None or known[0] is not loader:  # kept from epoch to epoch, so that persistent workers are
            known = self._keyed[purpose] = (loader, rekeyed(loader, self.trainer.seed, purpose))
        return known[1]

    def _new_pass(self) -> Pass:
        this = Pass(
            self.train_signature.function, self.prepared, self.trainer.hyper, iter(()), None, self.trainer.batch_axis,
            take=self.means.add, shown=self.means.running, progress=self.progress, position=self.position,
        )  # fmt: skip
        if self.processes.many:
            this.weigh = weighing_borrowed(self.means)
        self._set_hooks(this)
        return this

    def _read(self, this: Pass) -> None:
        """Opens the loader where the position is."""
        loader, position = self.trainer.train_loader, self.position
        this.total, this.length = (rounds_of(loader, position, "split", sure) for sure in (False, True))
        asked = perf_counter()
        source, read = self.source("train", loader), position.batch + position.offset + position.shift
        opened = self.epoch_start.open(loader, source, position.epoch, read)
        batches = part_of(source, position, "split", opened, sure=this.length is not None)
        this.data_seconds += perf_counter() - asked
        if self.rules.accumulate > 1:  # the epoch's last window is to be known by its last batch
            batches = with_known_end(this, loader, batches)
        unread, self._unread = self._unread, None
        this.batches = unread[1] if unread is not None and unread[0] is loader else batches

    def _set_hooks(self, this: Pass) -> None:
        this.stopped = False
        this.function, this.model = self.graphs or self.train_signature.function, self.prepared
        this.on_batch_begin = self.events.calls("batch_begin")
        this.on_batch_end = self.events.calls("batch_end")
        this.on_step_end = self.events.calls("step_end")
        this.window = self.window

    # Steps

    def check_steps(self, stepped: list[Optimizer]) -> None:
        """Compares the optimizers that took the first step with those that the Trainer knows."""
        self.steps_unchecked = False
        if self.window is not None and self.window.skipped:  # for an overflow: it was asked to
            stepped = [*stepped, *named(self.trainer.optimizer).values()]
        check_first_step(self.trainer.optimizer, stepped, self.step_dependents)
        warn_of_thawed(self.trainer.model)

    # What a checkpoint keeps, besides what hangs on the trainer

    def scales(self) -> dict[str, Any]:
        """The scales of the losses, by the optimizers' names."""
        return self._scales if self.window is None else self.window.state_dict()

    def restore(self, state: Mapping[str, Any], scales: dict[str, Any], loader_state: Any) -> None:
        """Goes where a checkpoint was taken."""
        for name, value in state["position"].items():
            setattr(self.position, name, value)
        self.fit, self.seeded = dict(state["fit"]), True
        self._keyed.clear()
        self._scales, self.clock.seconds = scales, state["seconds"]
        self.means.load_state_dict(state["means"])
        self.pending = state["pending"]
        self.open_pass = self._new_pass() if state["open"] else None
        self.epoch_start.load(self.trainer.train_loader, state["order"], loader_state, self.epoch_is_read)
        self.evaluation_start.load(self.trainer.test_loader, state["test_order"])
        to_open, was_begun = None if self.epoch_is_read else self.open_pass, state["order"]["epoch"] > 0
        if to_open is not None and was_begun:
            self._read(to_open)
        self.generators.restore(state["generators"])
        if to_open is not None and not was_begun:  # its order is still to be drawn
            self._read(to_open)
