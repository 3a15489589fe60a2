"""Any scheduler of `torch.optim.lr_scheduler` as a callback."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Collection, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch.optim import Optimizer

from ignition.callbacks.base import Callback
from ignition.errors import ArgumentError
from ignition.state_values import is_number
from ignition.structure import named

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["LRSchedule"]


class LRSchedule(Callback):
    """Ticks a scheduler of `torch.optim.lr_scheduler`, as ``scheduler.step()`` does in a loop written by hand.

    Args:
        torch_scheduler: The scheduler. Its optimizer must be one of the Trainer's.
        every: "epoch" ticks at each epoch's end, "step" after each step that its optimizer takes (not one that is left
            out for an overflow), "record" after each record of history (so also at each `eval_every`).
        monitor: A column of history ("val_loss") whose value in the last record is passed to the tick; for
            ReduceLROnPlateau, which needs one. Default: none.

    Raises:
        ArgumentError: At once for what is no scheduler, for an `every` that is none of these, for one that needs
            `monitor` and has none, for a `monitor` that is no name, with one that takes no metric, or with
            ``every="step"``; at the fit's start if its optimizer is none of the Trainer's, or if another schedule moves
            the same learning rate.
        MetricError: Before the first record is written if it lacks `monitor`; before the first batch for a metric of an
            evaluation where there is none.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> LRSchedule(torch.optim.lr_scheduler.StepLR(optimizer, step_size=30))
        LRSchedule(StepLR, every='epoch')
    """

    order: ClassVar[int] = -1

    def __init__(
        self,
        torch_scheduler: Any,
        every: Literal["epoch", "step", "record"] = "epoch",
        monitor: str | None = None,
    ) -> None:
        needs = ("step", "state_dict", "load_state_dict")
        if (
            isinstance(torch_scheduler, type)
            or not all(callable(getattr(torch_scheduler, method, None)) for method in needs)
            or not isinstance(getattr(torch_scheduler, "optimizer", None), Optimizer)
        ):
            raise ArgumentError(
                f"LRSchedule got {torch_scheduler!r}",
                "a scheduler of torch.optim.lr_scheduler, made with its optimizer",
                "pass LRSchedule(StepLR(optimizer, step_size=30)), for example",
            )
        kind = type(torch_scheduler).__name__
        if every not in ("epoch", "step", "record"):
            raise ArgumentError(
                f"LRSchedule({kind}) got every={every!r}",
                "'epoch', 'step' or 'record'",
                "every='epoch' is the default; pass every='step' for a scheduler that counts batches",
            )
        if monitor is not None and (not isinstance(monitor, str) or not monitor):
            raise ArgumentError(
                f"LRSchedule({kind}) got monitor={monitor!r}",
                "a column of history: 'val_loss'",
                "pass monitor='val_loss', for example, or leave it out",
            )
        # `epoch` is the old way to say where the scheduler is; whatever else `step` takes is the metric.
        metrics = [each for each in inspect.signature(torch_scheduler.step).parameters.values() if each.name != "epoch"]
        if monitor is None and any(
            each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in metrics
        ):
            raise ArgumentError(
                f"LRSchedule({kind}) got no monitor, and {kind} needs a metric at each tick",
                "the column of history that it watches",
                'pass monitor="val_loss", or another metric that your functions return',
            )
        if monitor is not None and not metrics:
            raise ArgumentError(
                f"LRSchedule({kind}) got monitor={monitor!r}, and {kind} takes no metric",
                "monitor= with ReduceLROnPlateau only",
                "leave monitor= out",
            )
        if monitor is not None and every == "step":
            raise ArgumentError(
                f"LRSchedule({kind}) got monitor={monitor!r} with every='step', and there is no record at each step",
                "every='epoch' or every='record'",
                "pass every='epoch', or every='record' with fit(eval_every=...) for more than one tick an epoch",
            )
        self.scheduler = torch_scheduler
        self.every = every
        self.monitor = monitor
        self._targets: frozenset[tuple[str | int, ...]] = frozenset()
        self.needs_updates = every == "step"
        self._listen()

    def _listen(self) -> None:
        # On the instance and not the class: an event that it does not tick at costs nothing.
        if self.every == "epoch":
            self.on_epoch_end = self._tick  # type: ignore[method-assign]
        elif self.every == "step":
            self.on_step_end = self._tick_after_step  # type: ignore[method-assign]
        else:
            self.on_record = self._tick  # type: ignore[method-assign]

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._listen()  # a copy by itself, and not through the one that it was made of

    def __repr__(self) -> str:
        return f"LRSchedule({type(self.scheduler).__name__}, every={self.every!r})"

    @property
    def targets(self) -> frozenset[tuple[str | int, ...]]:
        """What it moves, once bound: ``("optimizer", optimizer, group, "lr")`` for each group, momentum if cycled."""
        return self._targets

    def bind(self, trainer: Trainer[Any], parameters: Collection[str]) -> None:
        """Finds the scheduler's optimizer among the Trainer's.

        Args:
            trainer: The one whose fit begins.
            parameters: The names that the train function takes; not used.

        Raises:
            ArgumentError: If it is not there.
        """
        optimizer = self.scheduler.optimizer
        for name, each in named(trainer.optimizer).items():
            if each is optimizer:
                groups = range(len(optimizer.param_groups))
                keys = {"lr"} | _cycled(self.scheduler)
                self._targets = frozenset(("optimizer", name, group, key) for group in groups for key in keys)
                return
        raise ArgumentError(
            f"the scheduler of {self!r} was made for an optimizer that the Trainer lacks",
            "a scheduler of one of the Trainer's own optimizers",
            "make the scheduler again from the optimizer that the Trainer has; a notebook cell that was run twice "
            "leaves two",
        )

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's own state, as plain values; its functions and its optimizer are left out."""
        state: dict[str, Any] = _plain(self.scheduler.state_dict())
        return state

    def check_state(self, trainer: Trainer[Any], state: dict[str, Any]) -> None:
        """Checks that each value is of the kind that the scheduler has at its place."""
        now = _plain(self.scheduler.state_dict())
        if "last_epoch" in now and "last_epoch" not in state:
            state = state | {"last_epoch": None}
        for key, value in state.items():
            # A word is a setting, which the checkpoint decides.
            is_word = isinstance(value, str) and isinstance(now.get(key), str)
            if key in now and not is_word and not _is_alike(value, now[key]):
                raise ArgumentError(
                    f"the state of {self!r} has {key}={value!r:.80}",
                    f"something like {now[key]!r:.80}",
                    "use another state",
                )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned; what that left out stays as the script made it."""
        self.scheduler.load_state_dict(_as_before(self.scheduler.state_dict(), state))

    def columns_needed(self) -> tuple[str, ...]:
        """`monitor`."""
        return () if self.monitor is None else (self.monitor,)

    def _tick(self, trainer: Trainer[Any]) -> None:
        try:
            if self.monitor is None:
                self.scheduler.step()
            else:
                self.scheduler.step(trainer.history.latest(self.monitor))
        except ValueError as error:  # OneCycleLR's, which names the numbers alone
            most = getattr(self.scheduler, "total_steps", None)
            if not isinstance(most, int) or self.scheduler.last_epoch <= most:
                raise
            raise ArgumentError(
                f"the scheduler of {self!r} was made for {most} ticks, and step {trainer.step} asks for one more",
                "a fit that ends with them",
                "make it for all steps of the fit, total_steps=...; a fit that goes on from a checkpoint has the "
                "scheduler of the checkpoint: have it end where that does, and train on in another fit behind it with "
                "a new one, or begin anew in another folder",
            ) from error

    def _tick_after_step(self, trainer: Trainer[Any]) -> None:
        if trainer.updated(self.scheduler.optimizer):  # not where it left the step out, or an overflow did
            self._tick(trainer)


_LEFT_OUT = object()


def _plain(value: Any) -> Any:
    """`value` out of None, numbers, strings, tensors, lists and dicts with text keys; the rest is left out."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        kept = {
            key: item for key, item in ((key, _plain(item)) for key, item in value.items()) if item is not _LEFT_OUT
        }
        if all(isinstance(key, str) for key in value):
            return kept
        return _plain([list(pair) for pair in kept.items()])  # JSON would make text of the milestones of MultiStepLR
    if isinstance(value, (list, tuple)):
        items = [_plain(item) for item in value]
        return _LEFT_OUT if any(item is _LEFT_OUT for item in items) else items
    return _LEFT_OUT  # a function, an optimizer, or an object with one inside


def _is_alike(saved: Any, now: Any) -> bool:
    """Whether a value out of `_plain` can take the place of another; of None nothing is known."""
    if isinstance(now, torch.Tensor):
        return is_number(saved) or (isinstance(saved, torch.Tensor) and saved.shape == now.shape)
    if isinstance(now, dict):
        return isinstance(saved, dict) and all(_is_alike(saved[key], now[key]) for key in now if key in saved)
    if isinstance(now, list):
        if now and all(isinstance(item, list) for item in now):  # what was counted by number may be other numbers
            return isinstance(saved, list) and all(isinstance(item, list) and _is_alike(item, now[0]) for item in saved)
        alike = isinstance(saved, list) and len(saved) == len(now)
        return alike and all(_is_alike(one, here) for one, here in zip(saved, now, strict=True))
    if type(now) is float:
        return is_number(saved) or (isinstance(saved, torch.Tensor) and saved.numel() == 1)
    return now is None or (saved == now if isinstance(now, str) else type(saved) is type(now))


def _as_before(live: Any, saved: Any) -> Any:
    """`saved` with the types of `live`, and with what `_plain` left out taken from there."""
    if isinstance(live, torch.Tensor) and isinstance(saved, (torch.Tensor, Real)):
        return torch.as_tensor(saved, dtype=live.dtype, device=live.device)
    if isinstance(live, Mapping) and isinstance(saved, Mapping):
        merged = {**live, **{key: _as_before(live.get(key), item) for key, item in saved.items()}}
        return Counter(merged) if isinstance(live, Counter) else merged
    if isinstance(live, Counter) and isinstance(saved, list):
        return Counter(dict(saved))
    if isinstance(live, (list, tuple)) and isinstance(saved, list):
        matched = saved
        if len(live) == len(saved):
            matched = [_as_before(old, new) for old, new in zip(live, saved, strict=True)]
        return tuple(matched) if isinstance(live, tuple) else matched
    return saved


def _cycled(scheduler: Any) -> set[str]:
    """Which value besides the learning rate a scheduler moves, those inside it included."""
    keys: set[str] = set()
    if getattr(scheduler, "cycle_momentum", False):
        keys.add("betas" if getattr(scheduler, "use_beta1", False) else "momentum")
    for inner in getattr(scheduler, "_schedulers", ()):
        keys |= _cycled(inner)
    return keys
