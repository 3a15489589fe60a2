"""What a user's function takes, read once, and whether that fits what it will be called with."""

from __future__ import annotations

import inspect
import keyword
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from ignition.data import describe_batch, items_of
from ignition.errors import ArgumentError, FunctionError, HyperparameterError, kind_of

__all__ = ["TRAINER_CALL", "Signature"]

_COLUMNS = frozenset({"epoch", "step", "seconds", "data_seconds", "lr"})
_COLUMN_PREFIXES = ("train_", "val_", "lr_")

TRAINER_CALL = "Trainer(model, optimizer, train_fn, train_loader, eval_fn, test_loader)"

Parameter = inspect.Parameter


class Signature:
    """The parameters of a train, eval or predict function.

    Args:
        function: The user's function, or any callable object that is no module.
        role: What it is called in messages: ``"train_fn"``.
        call: The call that it is an argument of, for messages: that of the Trainer, or ``"evaluate(model, ...)"``.

    Attributes:
        names: The parameters that can be given by name.
        hyper_names: Those of them that a hyperparameter may fill: all but the first, which the model fills.
        takes_all: Whether there is a ``**kwargs``.
        readable: Whether Python can tell the parameters at all; a function of which it cannot is called as it is.

    Raises:
        ArgumentError: If `function` is no function.
    """

    def __init__(self, function: Any, role: str, call: str = TRAINER_CALL) -> None:
        self.role = role
        self._call = call
        if not callable(function) or isinstance(function, (nn.Module, type)):
            raise ArgumentError(
                f"{role} is {_what(function)}",
                expected=f"a function of one batch: {role}(model, *batch)",
                fix=f"check the order: {call}",
            )
        self.function: Callable[..., Any] = function
        try:
            self._signature = _signature_of(function)
            self.readable = True
        except (ValueError, TypeError):
            self._signature = inspect.Signature()
            self.readable = False
        parameters = self._signature.parameters.values()
        self.positional = [
            p for p in parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        ]
        self.names = [p.name for p in parameters if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)]
        first = self.positional[0].name if self.positional else None
        self.hyper_names = [name for name in self.names if name != first]
        self.takes_all = not self.readable or any(p.kind is Parameter.VAR_KEYWORD for p in parameters)
        self.takes_any_items = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters)
        self._keyword_only = [p for p in parameters if p.kind is Parameter.KEYWORD_ONLY]

    def __str__(self) -> str:
        parameters = [
            parameter.replace(
                annotation=Parameter.empty,
                default=Parameter.empty if parameter.default is Parameter.empty else _Short(parameter.default),
            )
            for parameter in self._signature.parameters.values()
        ]
        return f"{self.role}{inspect.Signature(parameters)}"

    def check_hyper(self, hyper: Mapping[str, Any]) -> None:
        """Checks the hyperparameters, as far as that is possible before a batch is there.

        Raises:
            HyperparameterError: If one is not taken by the function, or has a name that is taken.
            FunctionError: If the function needs a parameter by name that nothing supplies.
        """
        check_names(hyper)
        for name in hyper:
            if self.positional and name == self.positional[0].name:
                raise HyperparameterError(
                    f"the hyperparameter {name!r} is the name of the first parameter of {self}, which the model fills",
                    expected="a name of its own for each hyperparameter",
                    fix="rename the hyperparameter",
                )
            if name not in self.hyper_names and not self.takes_all:
                raise HyperparameterError(
                    f"the hyperparameter {name!r} is no parameter of {self}",
                    expected=f"a function that takes every hyperparameter by name ({', '.join(map(repr, hyper))})",
                    fix=f"add {name!r} to the function's parameters, or take it out of trainer.hyper and the schedules",
                )
        missing = [p.name for p in self._keyword_only if p.default is Parameter.empty and p.name not in hyper]
        if missing:
            in_trainer = self._call == TRAINER_CALL
            raise FunctionError(
                f"{self} needs {', '.join(map(repr, missing))}, which nothing supplies",
                expected=f"a hyperparameter{' or a schedule' * in_trainer} for each such parameter, or a default",
                fix=f"{'set trainer.hyper = ' if in_trainer else 'pass hyper='}{{{missing[0]!r}: ...}}",
            )

    def check_batch(self, model: Any, batch: Any, hyper: Mapping[str, Any]) -> None:
        """Checks that the function can be called with the model, this batch and these hyperparameters.

        Raises:
            HyperparameterError: If a hyperparameter has the name of a parameter that the batch fills.
            FunctionError: If there are too few or too many items, or a parameter is left without a value.
        """
        if not self.readable:
            return
        items = items_of(batch)
        filled = [p.name for p in self.positional[: 1 + len(items)]]
        doubled = [name for name in hyper if name in filled and name in self.names]
        if doubled:
            raise HyperparameterError(
                f"the hyperparameter {doubled[0]!r} is a parameter of {self} that the batch fills with "
                f"its {describe_batch(batch)}",
                expected="a name of its own for each hyperparameter",
                fix="rename the hyperparameter, or the parameter of the function",
            )
        try:
            self._signature.bind(model, *items, **hyper)
        except TypeError as error:
            missing = [
                p.name
                for p in self.positional[1 + len(items) :]
                if p.default is Parameter.empty and p.name not in hyper
            ]
            wanted = ["model", *(f"item{i + 1}" for i in range(len(items))), *hyper]
            raise FunctionError(
                f"{self} cannot take a batch of {describe_batch(batch)}"
                + (f" with the hyperparameters {', '.join(hyper)}" if hyper else "")
                + f": {error}",
                expected=f"a function that can be called as {self.role}({', '.join(wanted)})",
                fix=(self._to_supply(missing) if missing else "")
                + "change the function's parameters, or what the loader gives",
            ) from None

    def _to_supply(self, names: list[str]) -> str:
        """How parameters get values, as the first half of a sentence."""
        listed = ", ".join(names)
        if self.role == "pred_fn":
            return f"give {listed} a default or a value by functools.partial, as no hyperparameters come here, else "
        where = "set trainer.hyper" if self._call == TRAINER_CALL else "pass hyper="
        return f"{where} for {listed} if that is a hyperparameter, else "

    def select(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """Those hyperparameters that the function names, or all where it has ``**kwargs``."""
        if not self.readable:
            return {}
        return {name: value for name, value in hyper.items() if self.takes_all or name in self.hyper_names}

    @property
    def items_needed(self) -> int | None:
        """How many of a batch's items a predict function receives; None for all of them.

        As many as it has positional parameters without a default, besides the model.
        """
        if self.takes_any_items or not self.readable:
            return None
        return max(sum(p.default is Parameter.empty for p in self.positional) - 1, 0)


def check_names(hyper: Iterable[Any]) -> None:
    """Checks that hyperparameters can be columns of history beside those that are always there.

    Raises:
        HyperparameterError: If a name is no string, or is or could be a column of history already.
    """
    for name in hyper:
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise HyperparameterError(
                f"the hyperparameter {name!r}",
                expected="a name that can be a parameter's",
                fix="rename it: letters, digits and underscores, and no word of Python's own",
            )
        if name in _COLUMNS or name.startswith(_COLUMN_PREFIXES):
            raise HyperparameterError(
                f"the hyperparameter {name!r} has the name of a column of history",
                expected=f"none of {', '.join(sorted(_COLUMNS))}, and nothing that begins with train_, val_ or lr_",
                fix='rename it; the learning rate is the optimizer\'s: set_lr(optimizer, ...) or LinearDecay("lr", ...)'
                if name == "lr"
                else "rename it",
            )


def _signature_of(function: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):  # where annotations are evaluated when asked for; some name what is not imported
        from annotationlib import Format

        return inspect.signature(function, annotation_format=Format.FORWARDREF)
    return inspect.signature(function)


class _Short:
    """A default value, shown where that is short."""

    def __init__(self, value: Any) -> None:
        shown = repr(value) if isinstance(value, (int, float, str)) or value is None else "..."
        self._shown = shown if len(shown) <= 20 else "..."

    def __repr__(self) -> str:
        return self._shown


def _what(value: Any) -> str:
    if value is None:
        return "None"
    return kind_of(value) if not isinstance(value, type) else f"the class {value.__name__}"
