"""What a schedule is: a value by the epoch or step about to run, and what it moves; no two may move the same."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from ignition.callbacks.base import Callback
from ignition.callbacks.lr_schedule import LRSchedule
from ignition.errors import ArgumentError, kind_of, warn
from ignition.state_values import check_memory
from ignition.structure import named

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from ignition.trainer import Trainer

__all__ = ["Schedule", "bind_schedules", "finite", "positive_count"]


class Schedule(Callback):
    """Moves a hyperparameter, or an optimizer's own value, by a function of the epoch or step about to run.

    What `name` means is decided at each fit's start. With `optimizer` or `group` it is a value of that optimizer.
    Else it is a hyperparameter if it is in ``trainer.hyper`` or is a parameter of the train function; else a value
    of the optimizer if its parameter groups have one of that name; else a hyperparameter. A hyperparameter needs no
    entry in ``trainer.hyper``: the schedule supplies it.

    Counts are 1-based and start at the fit that first saw the schedule; a checkpoint keeps that start. A fit that
    goes on counts on; a schedule that is given to another Trainer starts again. Steps that an overflow left out (fp16)
    are not counted.

    Without `group` all groups move: the first one whose value was not zero at first sight gets the value itself, and
    the others keep their ratio to it (all get the value where all were zero). A group that is added later has the
    ratio of its own value to that group's at that moment, or 1 where that is zero.

    Args:
        name: A hyperparameter ("lambd"), or a key of the optimizer's parameter groups ("lr", "momentum",
            "weight_decay").
        fn: From the count (int, 1 for the first epoch or step) to the value, a finite number. It must be pure: it is
            called again for the same count, and not at all for counts that a resumed run passes over.
        every: "epoch" sets the value before each epoch, "step" before each step.
        optimizer: Which of several: its name in a dict, or its place in a list or tuple. Default: the only one.
        group: The index of the one parameter group to move. Default: all of them.

    Raises:
        ArgumentError: At once for a bad argument; at the fit's start if the optimizer, the group or the name in it is
            not there, or if another schedule moves the same; when it happens if `fn` returns no finite number.

    Example:
        >>> halve = Schedule("lambd", lambda epoch: 4 / 2 ** (epoch - 1))
        >>> [halve.fn(epoch) for epoch in (1, 2, 3)]
        [4.0, 2.0, 1.0]
    """

    order: ClassVar[int] = -1

    def __init__(
        self,
        name: str,
        fn: Callable[[int], float],
        *,
        every: Literal["epoch", "step"] = "epoch",
        optimizer: str | int | None = None,
        group: int | None = None,
    ) -> None:
        if not isinstance(name, str) or not name.strip():
            raise ArgumentError(
                f"{type(self).__name__} got {name!r} as its name",
                "what it moves, as text: 'lr', or a hyperparameter",
                f'write the name first: {type(self).__name__}("lr", ...)',
            )
        if not callable(fn):
            raise ArgumentError(
                f"{type(self).__name__}({name!r}) got {fn!r} as its function",
                "a function from the number of the epoch or step to the value",
                f"for example Schedule({name!r}, lambda epoch: 0.1 / epoch)",
            )
        if every not in ("epoch", "step"):
            raise ArgumentError(
                f"{type(self).__name__}({name!r}) got every={every!r}",
                "'epoch' or 'step'",
                "leave it out for 'epoch', or pass every='step'",
            )
        if optimizer is not None and (isinstance(optimizer, bool) or not isinstance(optimizer, (str, int))):
            raise ArgumentError(
                f"{type(self).__name__}({name!r}) got {kind_of(optimizer)} as optimizer=",
                "the optimizer's name in the Trainer's dict, or its place in the Trainer's list",
                "leave it out where the Trainer has one optimizer; else pass for example optimizer='G' or optimizer=0",
            )
        if group is not None and (isinstance(group, bool) or not isinstance(group, int) or group < 0):
            raise ArgumentError(
                f"{type(self).__name__}({name!r}) got group={group!r}",
                "the index of a parameter group, 0 or more",
                "pass group=0 for the first, or leave it out to move all groups",
            )
        self.name = name
        self.fn = fn
        self.every = every
        self.optimizer = optimizer
        self.group = group
        self._seen = False
        self._start_epoch = 0
        self._start_step = 0
        self._shares: list[float] = []  # what the groups had at first sight; only their ratios count
        self._trainer: weakref.ref[Trainer[Any]] | None = None
        self._moved: Optimizer | None = None
        self._targets: frozenset[tuple[str | int, ...]] = frozenset()
        self._listen()

    def _listen(self) -> None:
        # On the instance and not the class: the loop calls nothing at each batch for a schedule by epoch.
        if self.every == "epoch":
            self.on_epoch_begin = self._apply  # type: ignore[method-assign]
        else:
            self.on_batch_begin = self._apply  # type: ignore[method-assign]

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._listen()  # a copy by itself, and not through the one that it was made of

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, every={self.every!r})"

    @property
    def targets(self) -> frozenset[tuple[str | int, ...]]:
        """What it moves, once bound: ``("hyper", name)``, or one ``("optimizer", optimizer, group, name)`` a group."""
        return self._targets

    def bind(self, trainer: Trainer[Any], parameters: Collection[str]) -> None:
        """Finds what `name` means, and the start if it is the first time; a hyperparameter gets its value.

        Args:
            trainer: The one whose fit begins.
            parameters: The names that the train function takes.

        Raises:
            ArgumentError: If the optimizer, the group or the name in it is not there, or `fn` returns no finite number.
                Nothing is changed then.
        """
        self._commit(trainer, self._resolve(trainer, parameters))

    def _resolve(self, trainer: Trainer[Any], parameters: Collection[str]) -> _Binding:
        """All that `bind` checks and finds out, with nothing changed yet."""
        known = self._seen and (self._trainer is None or self._trainer() is trainer)
        ended = trainer.epoch - 1 if trainer.epoch_open else trainer.epoch
        start_epoch, start_step = (self._start_epoch, self._start_step) if known else (ended, trainer.updates)
        shares = self._shares if known else []
        chosen = self._chosen_optimizer(trainer, parameters)
        targets: set[tuple[str | int, ...]]
        if chosen is None:
            optimizer = None
            targets = {("hyper", self.name)}
            shares = shares or self._first_of_hyper(trainer)
        else:
            optimizer = named(trainer.optimizer)[chosen]
            first = self.group or 0
            groups = self._groups(optimizer)
            targets = {("optimizer", chosen, first + index, self.name) for index in range(len(groups))}
            shares = shares or self._first_of_groups([float(group[self.name]) for group in groups])
        value = self._value(ended + 1 - start_epoch, trainer.updates + 1 - start_step, _reference(shares))
        return _Binding(optimizer, frozenset(targets), shares, start_epoch, start_step, value)

    def _commit(self, trainer: Trainer[Any], binding: _Binding) -> None:
        """Takes what `_resolve` found, and sets the value where no event is sure to do it in time."""
        self._seen = True
        self._trainer = weakref.ref(trainer)
        self._start_epoch, self._start_step = binding.start_epoch, binding.start_step
        self._shares = binding.shares
        self._moved = binding.optimizer
        self._targets = binding.targets
        # A fit that goes on inside an epoch begins none; an optimizer is left alone until the first event otherwise.
        if binding.value is not None and (binding.optimizer is None or trainer.epoch_open):
            self._write(trainer, binding.value)

    def state_dict(self) -> dict[str, Any]:
        """Where the count starts, and the groups' ratios; empty before the first fit."""
        if not self._seen:
            return {}
        return {"start_epoch": self._start_epoch, "start_step": self._start_step, "shares": list(self._shares)}

    def check_state(self, trainer: Trainer[Any], state: dict[str, Any]) -> None:
        """Checks the values."""
        check_memory(self, state, start_epoch="count", start_step="count", shares="numbers")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned."""
        self._seen = bool(state)
        self._trainer = None  # the next trainer is the one that the state belongs to
        self._start_epoch = int(state.get("start_epoch", 0))
        self._start_step = int(state.get("start_step", 0))
        self._shares = [float(share) for share in state.get("shares", [])]

    def _apply(self, trainer: Trainer[Any]) -> None:
        epochs, steps = trainer.epoch - self._start_epoch, trainer.updates - self._start_step + 1
        value = self._value(epochs, steps, _reference(self._shares))
        if value is not None:
            self._write(trainer, value)

    def _value(self, epochs: int, steps: int, own: float | None) -> float | None:
        """The value in that epoch and step; None to leave it. `own` is what there was at first sight."""
        count = epochs if self.every == "epoch" else steps
        value: Any = self.fn(count)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        number: float = value  # an int stays one, for a hyperparameter that counts
        if not isinstance(value, Real) or not math.isfinite(value):
            raise ArgumentError(
                f"the function of {self!r} returned {value!r} for {self.every} {count}",
                "a finite number",
                "return a number for every count from 1 on, also after the last one that you planned",
            )
        return number

    def _write(self, trainer: Trainer[Any], value: float) -> None:
        if self._moved is None:
            trainer.hyper[self.name] = value
            return
        groups = self._moved.param_groups if self.group is None else [self._moved.param_groups[self.group]]
        reference = _reference(self._shares) or 1.0
        if len(groups) > len(self._shares):
            current = float(groups[self._shares.index(reference)][self.name])
            for group in groups[len(self._shares) :]:
                ratio = float(group[self.name]) / current if current else 1.0
                self._shares = [*self._shares, reference * ratio]
        for group, share in zip(groups, self._shares, strict=False):
            moved = value if share == reference else share * (value / reference)
            if isinstance(group[self.name], Tensor):
                group[self.name].fill_(moved)  # in place: a captured graph reads this very tensor
            else:
                group[self.name] = moved

    def _chosen_optimizer(self, trainer: Trainer[Any], parameters: Collection[str]) -> str | None:
        """The name of the optimizer whose value it is; None for a hyperparameter."""
        optimizers = named(trainer.optimizer)
        if self.optimizer is not None:
            if str(self.optimizer) not in optimizers:
                raise ArgumentError(
                    f"{self!r} got optimizer={self.optimizer!r}",
                    f"one of the Trainer's, which has {_listed(optimizers)}",
                    _to_choose(optimizers),
                )
            return str(self.optimizer)
        if self.group is None:
            if self.name in trainer.hyper or self.name in parameters:
                return None
            if not any(
                self.name in group for each in optimizers.values() for group in getattr(each, "param_groups", ())
            ):
                return None
        if len(optimizers) != 1:
            raise ArgumentError(
                f"{self!r} moves a value of the optimizer, and the Trainer has {_listed(optimizers)}",
                "exactly one, or optimizer= to choose among them",
                _to_choose(optimizers),
            )
        return next(iter(optimizers))

    def _groups(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        groups = optimizer.param_groups
        if self.group is not None:
            if self.group >= len(groups):
                raise ArgumentError(
                    f"{self!r} got group={self.group}",
                    f"0 to {len(groups) - 1}: {type(optimizer).__name__} has so many",
                    "pass one of these, or leave group= out to move all of them",
                )
            groups = [groups[self.group]]
        if not all(_is_number(group.get(self.name)) for group in groups):
            there = ", ".join(repr(key) for key, value in groups[0].items() if _is_number(value))
            raise ArgumentError(
                f"{self!r} moves {self.name!r}, which is no number in the groups of {type(optimizer).__name__}",
                f"one of {there}",
                "name one of these; a hyperparameter of that name is set in trainer.hyper, and takes no group=",
            )
        return groups

    def _first_of_groups(self, values: list[float]) -> list[float]:
        if any(values):
            return values
        if len(values) > 1:
            warn(f"{self!r} found {self.name!r} at 0 in all groups, which so have no ratio: all get one value")
        return [1.0] * len(values)

    def _first_of_hyper(self, trainer: Trainer[Any]) -> list[float]:
        return []


@dataclass(frozen=True)
class _Binding:
    """What a schedule found out at a fit's start, before it changed anything."""

    optimizer: Optimizer | None
    targets: frozenset[tuple[str | int, ...]]
    shares: list[float]
    start_epoch: int
    start_step: int
    value: float | None


def bind_schedules(callbacks: Sequence[Callback], trainer: Trainer[Any], parameters: Collection[str]) -> list[str]:
    """Binds every schedule in a list of callbacks, once all of them are known to fit.

    Args:
        callbacks: All of the trainer's callbacks, in any order.
        trainer: The one whose fit begins.
        parameters: The names that the train function takes.

    Returns:
        The schedules that move a value of an optimizer, as words: they count on its being the one that steps.

    Raises:
        ArgumentError: If two schedules move the same thing, or one cannot be bound. No value has been changed then.
    """
    found: list[tuple[Schedule, _Binding]] = []
    owners: dict[tuple[str | int, ...], Callback] = {}
    of_optimizers: list[str] = []
    for callback in callbacks:
        if isinstance(callback, Schedule):
            binding = callback._resolve(trainer, parameters)
            found.append((callback, binding))
            targets = binding.targets
        elif isinstance(callback, LRSchedule):
            callback.bind(trainer, parameters)
            targets = callback.targets
        else:
            continue
        if any(target[0] == "optimizer" for target in targets):
            of_optimizers.append(repr(callback))
        for target in sorted(targets, key=repr):
            if target in owners:
                raise ArgumentError(
                    f"{owners[target]!r} and {callback!r} both move {_words(target)}",
                    "one schedule for each value",
                    "leave one out, or put one after the other: Warmup(steps, then=...), "
                    "or SequentialLR or ChainedScheduler of torch",
                )
            owners[target] = callback
    for schedule, binding in found:
        schedule._commit(trainer, binding)
    return of_optimizers


def finite(what: str, value: Any) -> float:
    """`value` as a float; ArgumentError if it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ArgumentError(f"{what} is {value!r}", "a finite number", _as_number(value, "0.1"))
    return float(value)


def positive_count(what: str, value: Any) -> int:
    """`value` as an int; ArgumentError if it is no whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ArgumentError(f"{what} is {value!r}", "a whole number, 1 or more", _as_number(value, "10"))
    return int(value)


def _as_number(value: Any, example: str) -> str:
    if isinstance(value, str):
        return f"write a number without quotes, such as {example}"
    return "take the number out with .item()" if hasattr(value, "item") else f"pass a number such as {example}"


def _reference(shares: list[float]) -> float | None:
    return next((share for share in shares if share), None)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, Real) and not isinstance(value, bool)


def _listed(optimizers: Collection[str]) -> str:
    if not optimizers:
        return "no optimizer"
    if "" in optimizers:
        return "a single optimizer, which needs no name"
    return f"the optimizers {', '.join(map(repr, optimizers))}"


def _to_choose(optimizers: Collection[str]) -> str:
    if not optimizers:
        return "give the Trainer an optimizer, or put the name into trainer.hyper if it is a hyperparameter"
    return "leave optimizer= out" if "" in optimizers else f"pass optimizer={next(iter(optimizers))!r}, for example"


def _words(target: tuple[str | int, ...]) -> str:
    if target[0] == "hyper":
        return f"the hyperparameter {target[1]!r}"
    return f"{target[3]!r} of group {target[2]} of the optimizer" + (f" {target[1]!r}" if target[1] else "")
