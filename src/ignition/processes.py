"""What a training does together with the other processes: one model, one seed, and one mind about when to stop."""

from __future__ import annotations

import gc
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ignition import distributed, rng
from ignition.batch_norm import synchronise_batch_norm
from ignition.errors import OptimizerError, warn
from ignition.gradient_sync import GradientSync
from ignition.parting import check_alike, together
from ignition.reading import contents_of, samples_of, size_of
from ignition.said import memory_of, plainly, settings_of
from ignition.strategy import DDP, FSDP, check_replicable, is_sharded, replicated, share_values
from ignition.structure import like, named

if TYPE_CHECKING:
    from ignition.fsdp import Sharded

__all__ = ["Processes"]

_SECONDS_BETWEEN = 1.0
_MOST_STEPS_BETWEEN = 1000
_ASKED = math.inf  # said in the place of the seconds that a step takes: the sum with what the others say is the same


class Processes:
    """A training's side of the processes that it runs in; in one process there is next to nothing to it.

    What is asked of one process (to stop, to come to a save point, to end for a signal) is noted in `asked`, and done
    by all of them at the same step, when they next `agree`. About once a second each says whether it was asked for
    anything, and hears the next time what all have said: so none of them waits for another one.

    Args:
        strategy: How the model is trained.
        device: Where it is.

    Attributes:
        many: Whether there are other processes.
        asked: What this process was asked for, and the others do not know yet.
        seed_drawn: Whether the seed that all have was given to none of them.
        sharded: The models under FSDP (`ignition.fsdp.Sharded`), once they are.
    """

    def __init__(self, strategy: DDP | FSDP, device: torch.device) -> None:
        self.many = distributed.world_size() > 1
        self.strategy = strategy
        self.asked: dict[str, Any] = {}
        self.sharded: Sharded | None = None
        self._unit: float | None = None
        self._sync: GradientSync | None = None
        self._device = device
        self.seed_drawn = self._warned = False
        self._wrapped: tuple[set[int], Any] | None = None  # which parameters DDP knows, and what it has made
        self._seen: set[int] = set()  # which were trained when the last steps ended
        self._between = 1
        self._began = 0.0, 0

    # One seed

    def shared_seed(self, seed: int | None) -> int | None:
        """The seed of the first process for all: the one given, else the one that its torch has; as given in one."""
        if not self.many:
            return seed
        self.seed_drawn = seed is None
        mine = torch.initial_seed() % 2**63 if seed is None else seed
        with together():
            check_alike("make a Trainer")
            return int(distributed.text_of_main(str(mine)))

    def seed_generators(self, seed: int) -> None:
        """Seeds the generators that the model draws from: in each process others, in the first as in one process."""
        number = distributed.rank()
        if number:
            rng.seed_everything(rng.key_of(seed, "process", number))
        elif not self.seed_drawn:
            rng.seed_everything(seed)

    # One model

    def reshard(self) -> None:
        """Before sharded parameters are read: lets go of whole ones that a forward pass may have left."""
        if self.sharded is not None:
            self.sharded.reshard()

    def wrap(self, trainer: Any, models: Any) -> Any:
        """What the train function receives: the models sharded, or under DDP.

        Args:
            trainer: Its models and optimizers are sharded in place, and the averages that its callbacks have made.
            models: The models, compiled if that was asked for. Those under DDP are made anew where other parameters
                are trained than before.
        """
        if not self.many:
            return models
        if isinstance(self.strategy, FSDP):
            self.shard(trainer)
            return models
        trained = {id(one) for one in _parameters(models) if self.is_trained(one)}
        self._seen = _trained(models)
        if self._wrapped is None or self._wrapped[0] != trained:
            self.warn_if_unequal()  # of what the one before has noted
            self._unit, self._sync, self._wrapped = self.unit, None, None
            gc.collect()  # the one before, whose hooks would reduce gradients too
            if self.strategy.sync_batch_norm:
                for model in named(models).values():
                    synchronise_batch_norm(model)
            strategy = self.strategy
            with _training(models, trained):
                self._wrapped = trained, like(models, lambda model: replicated(model, strategy, self._device))
        return self._wrapped[1]

    def is_trained(self, parameter: Tensor) -> bool:
        """Whether a parameter is trained, between two steps.

        One that DDP knows and that a function has frozen for the moment, as that of a GAN does, is: the function trains
        it again in its next call. What was changed since the last steps was changed for good.
        """
        is_changed = parameter.requires_grad is not (id(parameter) in self._seen)
        if self._wrapped is None or is_changed:
            return parameter.requires_grad
        return id(parameter) in self._wrapped[0]

    def share(self, models: Any) -> None:
        """Gives models the buffers of the first process; before they are wrapped, their parameters too.

        Waits for all processes.
        """
        if self.many:
            is_wrapped = self._wrapped is not None or self.sharded is not None
            for model in named(models).values():
                share_values(model.buffers())
                if not is_wrapped:
                    share_values(model.parameters())

    def trains_others(self) -> bool:
        """Whether other parameters are trained under DDP now than when the last steps ended."""
        return self._wrapped is not None and self._seen != _trained(self._wrapped[1])

    def look(self) -> None:
        """Notes, as steps end, which parameters are trained.

        Raises:
            OptimizerError: If some are that DDP does not know of.
        """
        if self._wrapped is None:
            return
        self._seen = _trained(self._wrapped[1])
        if not self._seen <= self._wrapped[0]:
            raise OptimizerError(
                "parameters were unfrozen inside an epoch, between two steps or in train_fn, and DDP has averaged none "
                "of their gradients",
                expected="the same trained parameters in all steps from one record to the next",
                fix="unfreeze in on_epoch_begin, in on_record, or between two fits",
            )

    def shard(self, trainer: Any) -> None:
        """Shards the models in place, where they are to be and are not yet; all processes must call it."""
        if not self.many or not isinstance(self.strategy, FSDP):
            return
        self.take_up(trainer)
        if self.sharded is not None:
            self.sharded.adopt(trainer.optimizer)
            return
        # Where they are wanted: they take long to import.
        from torch.distributed.device_mesh import init_device_mesh

        from ignition.fsdp import shard

        if self.strategy.sync_batch_norm:
            for model in named(trainer.model).values():
                synchronise_batch_norm(model)
        averages = [one for callback in trainer.callbacks for one in callback.averages()]
        mesh = init_device_mesh(self._device.type, (distributed.world_size(),))
        distributed.saving_group()  # all processes make it together
        self.sharded = shard(trainer.model, trainer.optimizer, self.strategy, mesh, averages)

    def take_up(self, trainer: Any) -> None:
        """Goes on with models that another Trainer has sharded in the same way."""
        if self.many and isinstance(self.strategy, FSDP) and self.sharded is None and is_sharded(trainer.model):
            from ignition.fsdp import sharded_before

            self.sharded = sharded_before(trainer.model, self.strategy)

    def forget_pass(self) -> None:
        """After an error: a forward or backward pass of a sharded model may have been cut short."""
        if self.sharded is not None:
            self.sharded.reset()

    def gradient_sync(self, prepared: Any) -> GradientSync | None:
        """How the gradients of a fit's steps come together; None in one process."""
        unit = self.unit
        self._sync = GradientSync(named(prepared).values(), unit, self.sharded) if self.many else None
        return self._sync

    @property
    def unit(self) -> float | None:
        """In which weight batches are measured; None before the first update."""
        return self._unit if self._sync is None else self._sync.unit

    @unit.setter
    def unit(self, unit: float | None) -> None:
        self._unit, self._sync = unit, None

    def warn_if_unequal(self) -> None:
        """Warns once where batches differed in weight, and steps were taken as plain averages over the processes."""
        if self._sync is not None and not self._warned:
            self._warned = self._sync.warn_if_unequal()

    # One mind

    def check_alike(self, trainer: Any, what: str = "train", **goal: Any) -> None:
        """Compares what the processes are about to do in a fit, or in what else takes steps.

        Raises:
            ProcessError: If they differ.
        """
        if self.many:
            check_replicable(trainer.model)
            models = {
                name: [type(one).__name__, sum(part.numel() for part in one.parameters())]
                for name, one in named(trainer.model).items()
            }
            loaders = {"train": trainer.train_loader, "test": trainer.test_loader}
            extents: dict[str, Any] = {f"{name}_loader": size_of(one) for name, one in loaders.items()}
            extents |= {f"{name}_samples": samples_of(one, trainer.batch_axis) for name, one in loaders.items()}
            for name, one in loaders.items():
                extents |= {f"{name}_{key}": value for key, value in contents_of(one).items()}
            optimizers = {name: type(one).__name__ for name, one in named(trainer.optimizer).items()}
            check_alike(
                what, **goal, **self._options_of(trainer), **extents, model=models, optimizer=optimizers,
                callbacks=[type(one).__name__ for one in trainer.callbacks],
                hyper=sorted(trainer.hyper), step=trainer.step, epoch=trainer.epoch, **settings_of(trainer.optimizer),
                optimizer_state=memory_of(trainer.optimizer),
            )  # fmt: skip
            self._warn_of_hyper(trainer.hyper)

    def _warn_of_hyper(self, hyper: Mapping[str, Any]) -> None:
        """Warns of numbers that differ: a process may have its own, but the history has those of the first."""
        mine = {name: plainly(value) for name, value in hyper.items() if isinstance(value, Real)}
        every = [json.loads(text) for text in distributed.gather_texts(json.dumps(mine))]
        apart = [name for name, value in every[0].items() if any(one.get(name) != value for one in every)]
        if apart:
            warn(
                f"the hyperparameter {apart[0]!r} differs between the processes: "
                f"{', '.join(str(one.get(apart[0])) for one in every[:4])}; each trains with its own, and the history "
                "has that of process 0"
            )

    def _options_of(self, trainer: Any) -> dict[str, Any]:
        rules = trainer.training.rules
        options = {
            "strategy": self.strategy, "accumulate": rules.accumulate, "clip_norm": rules.clip_norm,
            "precision": trainer._precision, "compile": trainer.compile, "batch_axis": trainer.batch_axis,
            "device": self._device.type, "seed": "drawn" if self.seed_drawn else "given",
        }  # fmt: skip
        return {name: plainly(value) for name, value in options.items()}

    def check_settings(self, trainer: Any) -> None:
        """Compares the learning rates and all else that is set of the optimizers. Waits for all processes.

        Raises:
            ProcessError: If they differ.
        """
        if not self.many:
            return
        settings = settings_of(trainer.optimizer)
        mine = json.dumps(settings)
        if len(set(distributed.gather_texts(hashlib.sha256(mine.encode()).hexdigest()))) > 1:
            check_alike("train", **settings)

    def notes(self, name: str, value: Any) -> bool:
        """Notes what this process is asked for, if others have to agree; False in one process. Safe anywhere."""
        if self.many:
            self.asked[name] = value
        return self.many

    def agree(self) -> dict[str, Any]:
        """What the processes were asked for since they last agreed: "pause", "signal", "stop" (a reason).

        Waits for all of them. In one process nothing is ever noted, since what is asked for is done at once.
        """
        if not self.many:
            return {}
        mine, self.asked = self.asked, {}
        if not distributed.max_of([float(bool(mine))])[0]:
            return {}
        agreed: dict[str, Any] = {}
        for one in reversed([json.loads(text) for text in distributed.gather_texts(json.dumps(mine))]):
            agreed |= one  # the first process has the last word
        return agreed

    def begin_steps(self, step: int, last: int | None) -> int | None:
        """How many steps may be taken up to the `last` one before `goes_on` is to be asked."""
        left = None if last is None else last - step
        if not self.many:
            return left
        self._began = perf_counter(), step
        return self._between if left is None else min(left, self._between)

    def goes_on(self, step: int) -> bool:
        """Whether the processes take more steps before they `meet` and `agree`.

        What this process says now, all of them hear the next time: so it waits for none of them, but under FSDP for
        what they have said in the last step. Where a step takes long they meet at each: to wait is next to nothing
        there, and to hear of a signal a step later may be too late.

        Raises:
            OptimizerError: If the gradients of some step were not averaged over the processes.
            ProcessError: If they have not taken the same steps.
        """
        if self._sync is None or self._between == 1:
            return not self.many
        self.look()
        heard = self._sync.pass_by(_ASKED if self.asked else self._pace(step))
        if heard == _ASKED:
            return False
        self._keep_pace(heard)
        return True

    def meet(self, step: int) -> None:
        """Looks whether all processes have taken the same steps. Waits for all of them.

        Raises:
            OptimizerError: If the gradients of some step were not averaged over the processes.
            ProcessError: If they have not.
        """
        self.look()
        if self._sync is not None:
            self._keep_pace(self._sync.meet(self._pace(step)))

    def _pace(self, step: int) -> float:
        """The seconds that a step has taken since `begin_steps`; 0 where none was taken."""
        began, first = self._began
        return (perf_counter() - began) / (step - first) if step > first else 0.0

    def _keep_pace(self, seconds: float) -> None:
        if seconds:
            self._between = min(max(int(_SECONDS_BETWEEN / seconds), 1), _MOST_STEPS_BETWEEN)

    def row_of_main(self, row: dict[str, Any]) -> dict[str, Any]:
        """The record of the first process, whose clock counts, for all."""
        if not self.many:
            return row
        shared: dict[str, Any] = json.loads(distributed.text_of_main(json.dumps(row)))
        return shared


@contextmanager
def _training(models: Any, trained: set[int]) -> Iterator[None]:
    """Inside the ``with`` block these parameters are trained, by their ids, and no others."""
    others = [one for one in _parameters(models) if one.requires_grad is not (id(one) in trained)]
    for one in others:
        one.requires_grad_(not one.requires_grad)
    try:
        yield
    finally:
        for one in others:
            one.requires_grad_(not one.requires_grad)


def _trained(models: Any) -> set[int]:
    """Which parameters of models are trained, by their ids."""
    return {id(one) for one in _parameters(models) if one.requires_grad}


def _parameters(models: Any) -> list[nn.Parameter]:
    return [one for model in named(models).values() for one in model.parameters()]
