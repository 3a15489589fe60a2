"""Averages of the weights over the steps (EMA) and over the epochs (SWA)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, update_bn

from ignition.averages import AveragedModels
from ignition.buffers import transient_buffers
from ignition.callbacks.base import Callback
from ignition.callbacks.schedule import finite, positive_count
from ignition.errors import ArgumentError, kind_of
from ignition.modes import is_frozen, training_mode
from ignition.precision import autocasting
from ignition.signature import Signature
from ignition.state_values import check_memory
from ignition.structure import named
from ignition.weights import check_fit

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["EMA", "SWA"]


class EMA(Callback):
    """Keeps an exponential moving average of the weights, which often generalises better than the last ones.

    After each step that changed the weights, ``average = decay * average + (1 - decay) * weights``; the first one is
    the weights themselves. Buffers (batch norm's statistics) are those of the model. It is evaluated beside the
    model, as ``val_ema_*``; `SaveModel` writes it beside each file, as ``name.ema.pt``; ``trainer.averaged["ema"]``
    is the averaged model (or the structure of them), in evaluation mode, to be used like the model itself.

    Steps are counted on from fit to fit of one Trainer, but for those that an overflow left out (fp16); another
    Trainer starts again.

    Source: Polyak & Juditsky 1992, "Acceleration of stochastic approximation by averaging"; the average is
    `torch.optim.swa_utils.AveragedModel`.

    Args:
        decay: From 0 (the last weights) to below 1; 0.999 averages over about the last 1,000 steps.
        every: Average after the first step, and from there on after every so many, 1 or more.
        start: How many steps to leave out first, 0 or more: the first step is then number ``start + 1``. There is no
            average before.

    Raises:
        ArgumentError: If one of them is out of range; at the fit's start if a parameter has no values yet.

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
        self._average = AveragedModels(get_ema_multi_avg_fn(self.decay))  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        return f"EMA(decay={self.decay:g}, every={self.every}, start={self.start})"

    def prepare(self, trainer: Trainer[Any]) -> None:
        """Copies the user's own model, before it is wrapped."""
        if self._average.prepare(trainer):
            self._updates = 0

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

    def averages(self) -> list[dict[str, Any]]:
        """The average, from `prepare` on."""
        return self._average.wholes()

    def state_dict(self) -> dict[str, Any]:
        """The average, and how many steps it has seen."""
        return {"updates": self._updates, "average": self._average.state_dict()}

    def check_state(self, trainer: Trainer[Any], state: dict[str, Any]) -> None:
        """Checks the count, and that the average is one of these models."""
        check_memory(self, state, updates="count", average="object")
        _check_average(self, trainer.model, state["average"])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned."""
        self._updates = int(state["updates"])
        self._average.load_state_dict(state["average"])


class SWA(Callback):
    """Averages the weights at the ends of epochs with equal shares, and sets batch norm right for the average.

    Batch norm's statistics belong to the weights that made them, so at the end of each fit they are computed anew
    for the average, by one pass over the training data: `torch.optim.swa_utils.update_bn`, which runs the model in
    training mode without gradients. What `freeze` froze keeps its mode and its statistics. The model is called by
    `forward`, or else by the Trainer's ``eval_fn``, or else as ``model(first item of the batch)``; without batch norm
    there is no such pass. Then ``trainer.averaged["swa"]`` is the averaged model, in evaluation mode: what
    ``trainer.evaluate()`` measures as ``swa_*``. While a fit runs it is not there, and so in no record and in no file
    of `SaveModel`.

    A learning rate for the averaging phase is `LRSchedule` around `torch.optim.swa_utils.SWALR`.

    Source: Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization",
    arXiv:1803.05407.

    Args:
        start: The first epoch whose weights count, from 1 on.
        every: Take every so many epochs from there on, 1 or more.
        forward: ``forward(model, *batch)``: runs the model on a batch, for batch norm's statistics.

    Raises:
        ArgumentError: If one of them is out of range; at the fit's start if a parameter has no values yet, or if there
            is batch norm, and the training data can be read only once or nothing tells how several models are called.

    Example:
        >>> SWA(start=75)
        SWA(start=75, every=1)
    """

    def __init__(self, start: int, every: int = 1, forward: Callable[..., Any] | None = None) -> None:
        self.start = positive_count("start of SWA", start)
        self.every = positive_count("every of SWA", every)
        if forward is not None and not callable(forward):
            raise ArgumentError(
                f"forward of SWA is {kind_of(forward)}",
                "a function of the model and a batch",
                "for example forward=lambda model, x, y: model(x)",
            )
        self.forward = forward
        self._average = AveragedModels(None)
        self._ready = False

    def __repr__(self) -> str:
        return f"SWA(start={self.start}, every={self.every})"

    def prepare(self, trainer: Trainer[Any]) -> None:
        """Copies the user's own model, before it is wrapped."""
        if _has_batch_norm(trainer.model):
            if isinstance(trainer.train_loader, Iterator):
                raise ArgumentError(
                    "SWA was given a train_loader that can be read only once",
                    "one that can be read again, for batch norm's statistics",
                    "pass a DataLoader, a list, or an object whose __iter__ starts anew",
                )
            if self.forward is None and trainer.eval_fn is None and not isinstance(trainer.model, nn.Module):
                raise ArgumentError(
                    "SWA was given several models with batch norm, and the Trainer has no eval_fn",
                    "a function that runs them on a batch, for batch norm's statistics",
                    "pass SWA(..., forward=function), which is called as forward(models, *batch)",
                )
        self._average.prepare(trainer)

    def on_train_begin(self, trainer: Trainer[Any]) -> None:
        """Has the average wait for its statistics."""
        self._ready = False

    def on_epoch_end(self, trainer: Trainer[Any]) -> None:
        """Takes the weights into the average, if it is the turn of this epoch."""
        if trainer.epoch >= self.start and (trainer.epoch - self.start) % self.every == 0:
            self._average.add(trainer.model)

    def on_train_end(self, trainer: Trainer[Any]) -> None:
        """Computes batch norm's statistics for the average."""
        if trainer.exception is None and self._average.models("swa"):
            models = self._average.models("swa")["swa"]
            if _has_batch_norm(models):
                _renew_batch_norm(models, self._call_on(models, trainer), trainer.training_batches())
            self._ready = True

    def _call_on(self, models: Any, trainer: Trainer[Any]) -> Callable[[Any], Any]:
        """A function of a batch that runs the models on it as an evaluation would."""
        function, hyper = self.forward or trainer.eval_fn or _on_first_item, {}
        if function is trainer.eval_fn:
            hyper = Signature(function, "eval_fn").select(trainer.hyper)
        function = autocasting(function, trainer._precision, trainer.device)

        def call(batch: Any) -> None:
            items = batch if isinstance(batch, (tuple, list)) else (batch,)
            _reset_metrics(function(models, *items, **hyper))

        return call

    def averaged(self) -> dict[str, Any]:
        """``{"swa": model}`` at the end of a fit."""
        return self._average.models("swa") if self._ready else {}

    def averages(self) -> list[dict[str, Any]]:
        """The average, from `prepare` on."""
        return self._average.wholes()

    def state_dict(self) -> dict[str, Any]:
        """The average so far, and whether it has its statistics."""
        return {"average": self._average.state_dict(), "ready": self._ready}

    def check_state(self, trainer: Trainer[Any], state: dict[str, Any]) -> None:
        """Checks that the average is one of these models."""
        check_memory(self, state, ready="boolean", average="object")
        _check_average(self, trainer.model, state["average"])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned."""
        self._average.load_state_dict(state["average"])
        self._ready = bool(state["ready"])


def _check_average(owner: Callback, models: Any, average: dict[str, Any]) -> None:
    """Checks that an average of a checkpoint is one of these models; there is none before the first fit."""
    weights: dict[str, Any] = {}
    for name, state in average.items():
        whole = isinstance(state, dict) and all(isinstance(key, str) for key in state)
        count = state.get("n_averaged") if whole else None
        here = transient_buffers(named(models)[name]) if whole and name in named(models) else {}
        for key, value in state.items() if whole else ():
            if key.startswith("buffer.") and not _may_become(here.get(key.removeprefix("buffer.module.")), value):
                raise ArgumentError(
                    f"the state of {owner!r} has a {key} that the models cannot have",
                    "their buffers, of the shapes that these have or grow to",
                    "use another state",
                )
        if not isinstance(count, Tensor) or count.ndim or count.dtype != torch.long or count < 0:
            raise ArgumentError(
                f"the state of {owner!r} has no average with its count",
                "n_averaged: a whole number",
                "use another state",
            )
        weights[name] = {
            key.removeprefix("module."): value for key, value in state.items() if key.startswith("module.")
        }
    if average:
        check_fit(models, weights, f"the average of {owner!r}")


def _may_become(here: Tensor | None, saved: Any) -> bool:
    """Whether a buffer that no state dict has can come to be what was saved: a model may set it, or have it grow."""
    if here is None or not isinstance(saved, Tensor):
        return isinstance(saved, Tensor)
    alike = (here.dtype, here.ndim) == (saved.dtype, saved.ndim)
    return alike and all(now <= then for now, then in zip(here.shape, saved.shape, strict=True))


class _Through(nn.Module):
    """Has a function called where torch calls a model on a batch."""

    def __init__(self, models: Any, call: Callable[[Any], Any]) -> None:
        super().__init__()
        self.models = nn.ModuleList(named(models).values())
        self._call = call

    def forward(self, batch: Any) -> Any:
        return self._call(batch)


def _renew_batch_norm(models: Any, call: Callable[[Any], Any], batches: Iterable[Any]) -> None:
    frozen = [
        (buffer, buffer.clone())
        for module in named(models).values()
        for part in module.modules()
        if is_frozen(part)
        for buffer in part.buffers(recurse=False)
    ]

    def each_alone() -> Iterator[tuple[Any]]:
        # What runs here comes after update_bn has forgotten all statistics and set all parts to training.
        training_mode(models)
        for buffer, kept in frozen:
            buffer.copy_(kept)
        for batch in batches:
            yield (batch,)  # update_bn calls the model on the first item of what it is given

    update_bn(each_alone(), _Through(models, call))
    for module in named(models).values():
        module.eval()


def _has_batch_norm(models: Any) -> bool:
    """Whether there are statistics to be renewed: those of what is frozen stay."""
    return any(
        isinstance(part, nn.modules.batchnorm._BatchNorm) and not is_frozen(part)
        for module in named(models).values()
        for part in module.modules()
    )


def _on_first_item(model: Any, first: Any, *others: Any) -> Any:
    return model(first)


def _reset_metrics(result: Any) -> None:
    """Has metric objects forget what was no evaluation."""
    for value in result.values() if isinstance(result, Mapping) else ():
        if all(callable(getattr(value, method, None)) for method in ("update", "compute", "reset")):
            value.reset()


def _count(what: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ArgumentError(f"{what} is {value!r}", "a whole number, 0 or more", "leave it out for 0")
    return value
