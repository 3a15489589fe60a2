"""Averages of the weights over the steps (EMA) and over the epochs (SWA)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from ignition.callbacks.base import Callback
from ignition.callbacks.schedule import finite, positive_count
from ignition.errors import ArgumentError
from ignition.modes import is_frozen
from ignition.structure import like, named

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["EMA", "SWA"]


class EMA(Callback):
    """Keeps an exponential moving average of the weights, which often generalises better than the last ones.

    After each step that changed the weights, ``average = decay * average + (1 - decay) * weights``; the first one is
    the weights themselves. Buffers (batch norm's statistics) are those of the model. It is evaluated beside the
    model, as ``val_ema_*``; `SaveModel` writes it beside each file, as ``name.ema.pt``; ``trainer.averaged["ema"]``
    is the averaged model (or the structure of them), to be used like the model itself.

    Source: Polyak & Juditsky 1992, "Acceleration of stochastic approximation by averaging"; the average is
    `torch.optim.swa_utils.AveragedModel`.

    Args:
        decay: From 0 (the last weights) to below 1; 0.999 averages over about the last 1,000 steps.
        every: Average after every so many steps.
        start: How many steps to leave out first. There is no average before.

    Raises:
        ArgumentError: If one of them is out of range.

    Example:
        >>> EMA(0.999)
        EMA(decay=0.999, every=1, start=0)
    """

    needs_updates = True

    def __init__(self, decay: float, every: int = 1, start: int = 0) -> None:
        self.decay = finite("decay of EMA", decay)
        if not 0 <= self.decay < 1:
            raise ArgumentError(f"decay of EMA is {decay}", "0 or more, and below 1", "for example 0.999")
        self.every = positive_count("every of EMA", every)
        self.start = _count("start of EMA", start)
        self._updates = 0
        self._average = _Average(get_ema_multi_avg_fn(self.decay))  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        return f"EMA(decay={self.decay:g}, every={self.every}, start={self.start})"

    def prepare(self, trainer: Trainer[Any]) -> None:
        """Copies the user's own model, before it is wrapped."""
        if not len(trainer.history) and not self._average.is_loaded:
            self._updates = 0
        self._average.prepare(trainer.model)

    def on_step_end(self, trainer: Trainer[Any]) -> None:
        """Takes the weights into the average, if they have changed and it is their turn."""
        if trainer.updated():
            self._updates += 1
            beyond = self._updates - self.start
            if beyond > 0 and (beyond - 1) % self.every == 0:
                self._average.add(trainer.model)

    def averaged(self) -> dict[str, Any]:
        """``{"ema": model}`` once there is an average."""
        return self._average.models("ema")

    def state_dict(self) -> dict[str, Any]:
        """The average, and how many steps it has seen."""
        return {"updates": self._updates, "average": self._average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned."""
        self._updates = int(state["updates"])
        self._average.load_state_dict(state["average"])


class SWA(Callback):
    """Averages the weights at the ends of epochs with equal shares, and sets batch norm right for the average.

    Batch norm's statistics belong to the weights that made them, so at the end of each fit they are computed anew
    for the average, by one pass over the training data: `torch.optim.swa_utils.update_bn`, which runs the model in
    training mode without gradients. The model is called by `forward`, or else by the Trainer's ``eval_fn``, or else
    as ``model(first item of the batch)``. Then ``trainer.averaged["swa"]`` is the averaged model.

    A learning rate for the averaging phase is `LRSchedule` around `torch.optim.swa_utils.SWALR`.

    Source: Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization",
    arXiv:1803.05407.

    Args:
        start: The first epoch whose weights count, from 1 on.
        every: Take every so many epochs from there on.
        forward: ``forward(model, *batch)``: runs the model on a batch, for batch norm's statistics.

    Raises:
        ArgumentError: If one of them is out of range.
    """

    def __init__(self, start: int, every: int = 1, forward: Callable[..., Any] | None = None) -> None:
        self.start = positive_count("start of SWA", start)
        self.every = positive_count("every of SWA", every)
        if forward is not None and not callable(forward):
            raise ArgumentError(f"forward of SWA is a {type(forward).__name__}", "a function of the model and a batch")
        self.forward = forward
        self._average = _Average(None)
        self._ready = False

    def __repr__(self) -> str:
        return f"SWA(start={self.start}, every={self.every})"

    def prepare(self, trainer: Trainer[Any]) -> None:
        """Copies the user's own model, before it is wrapped."""
        if isinstance(trainer.train_loader, Iterator):
            raise ArgumentError(
                "SWA was given a train_loader that can be read only once",
                "one that can be read again, for batch norm's statistics",
                "pass a DataLoader, a list, or an object whose __iter__ starts anew",
            )
        self._average.prepare(trainer.model)
        self._ready = False

    def on_epoch_end(self, trainer: Trainer[Any]) -> None:
        """Takes the weights into the average, if it is the turn of this epoch."""
        if trainer.epoch >= self.start and (trainer.epoch - self.start) % self.every == 0:
            self._average.add(trainer.model)

    def on_train_end(self, trainer: Trainer[Any]) -> None:
        """Computes batch norm's statistics for the average."""
        if trainer.exception is None and self._average.models("swa"):
            models = self._average.models("swa")["swa"]
            if any(_has_batch_norm(module) for module in named(models).values()):
                _renew_batch_norm(models, self.forward or trainer.eval_fn, trainer)
            self._ready = True

    def averaged(self) -> dict[str, Any]:
        """``{"swa": model}`` at the end of a fit."""
        return self._average.models("swa") if self._ready else {}

    def state_dict(self) -> dict[str, Any]:
        """The average so far."""
        return {"average": self._average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned."""
        self._average.load_state_dict(state["average"])


class _Average:
    """An AveragedModel for each model of a structure."""

    def __init__(self, average: Callable[..., Any] | None) -> None:
        self._average = average
        self._source: Any = None
        self._averaged: Any = None
        self._loaded: dict[str, Any] | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether a state was loaded that no model has taken yet."""
        return self._loaded is not None

    def prepare(self, models: Any) -> None:
        """Makes the averages of these models, unless they are there."""
        if self._source is not models:
            self._averaged = like(models, lambda model: AveragedModel(model, multi_avg_fn=self._average))
            self._source = models
        if self._loaded is not None:
            for name, averaged in named(self._averaged).items():
                averaged.load_state_dict(self._loaded[name])
            self._loaded = None

    def add(self, models: Any) -> None:
        for averaged, model in zip(named(self._averaged).values(), named(models).values(), strict=True):
            averaged.update_parameters(model)

    def models(self, name: str) -> dict[str, Any]:
        averages = named(self._averaged)
        if not averages or not all(averaged.n_averaged > 0 for averaged in averages.values()):
            return {}
        return {name: like(self._averaged, lambda averaged: averaged.module)}

    def state_dict(self) -> dict[str, Any]:
        # Copies: the averages go on being changed in place.
        return {
            name: {key: value.detach().clone() for key, value in averaged.state_dict().items()}
            for name, averaged in named(self._averaged).items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loaded = dict(state)
        if self._averaged is not None:
            self.prepare(self._source)


class _Through(nn.Module):
    """Has a function of the user's called where torch calls a model on a batch."""

    def __init__(self, models: Any, call: Callable[[Any], Any]) -> None:
        super().__init__()
        self.models = nn.ModuleList(named(models).values())
        self._call = call

    def forward(self, batch: Any) -> Any:
        return self._call(batch)


def _renew_batch_norm(models: Any, function: Callable[..., Any] | None, trainer: Trainer[Any]) -> None:
    frozen = {
        part: {name: buffer.clone() for name, buffer in part.named_buffers(recurse=False)}
        for module in named(models).values()
        for part in module.modules()
        if is_frozen(part)
    }

    def call(batch: Any) -> Any:
        items = batch if isinstance(batch, (tuple, list)) else (batch,)
        return models(items[0]) if function is None else function(models, *items)

    update_bn(_each_alone(trainer.training_batches()), _Through(models, call))
    with torch.no_grad():
        for part, buffers in frozen.items():
            for name, buffer in buffers.items():
                part.get_buffer(name).copy_(buffer)
    for module in named(models).values():
        module.eval()


def _each_alone(batches: Iterable[Any]) -> Iterator[tuple[Any]]:
    """``update_bn`` calls the model on the first item of what it is given."""
    for batch in batches:
        yield (batch,)


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


def _count(what: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ArgumentError(f"{what} is {value!r}", "a whole number, 0 or more")
    return value
