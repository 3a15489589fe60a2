"""The exception tree. Every message has one form: what was given, what was expected, what to do.

The tree is::

    IgnitionError
    ├── ArgumentError         an argument of a call is wrong
    ├── FunctionError         a train, eval or predict function does not fit what it is called with
    ├── HyperparameterError   a hyperparameter does not fit the function, or its name is taken
    ├── BatchError            a loader is empty, or a batch has not what is read from it
    ├── MetricError           a function returned what is no metric, or a metric is asked for that nobody returns
    ├── CheckpointError       a checkpoint is broken, of another training, or cannot be written
    ├── OptimizerError        a step was taken by the wrong optimizer, or cannot be taken as asked
    ├── ProcessError          another process has failed, died or left, or the processes do not do the same
    └── NotFiniteError        a metric became NaN or infinite where that ends the training
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings

__all__ = [
    "ArgumentError",
    "BatchError",
    "CheckpointError",
    "FunctionError",
    "HyperparameterError",
    "IgnitionError",
    "IgnitionWarning",
    "MetricError",
    "NotFiniteError",
    "OptimizerError",
    "ProcessError",
]


class IgnitionError(Exception):
    """What Ignition raises of itself; exceptions of the user's own functions come out unchanged.

    Args:
        given: What was found, as one clause without a full stop.
        expected: What would have been right.
        fix: What to do now.
    """

    def __init__(self, given: str, expected: str, fix: str) -> None:
        super().__init__(given, expected, fix)  # all three, so that copies and pickles can be made of it

    def __str__(self) -> str:
        given, expected, fix = self.args
        return f"{given}\n  expected: {expected}\n  to do: {fix}"


class ArgumentError(IgnitionError, ValueError):
    """An argument has the wrong type, the wrong value or the wrong place."""


class FunctionError(IgnitionError, TypeError):
    """A function cannot take what the loader and the hyperparameters give; or what it predicts cannot be joined."""


class HyperparameterError(IgnitionError, ValueError):
    """A hyperparameter is not taken by the train function, or has a name that is taken already."""


class BatchError(IgnitionError, ValueError):
    """A loader gave no batch, or a batch lacks what is read from it."""


class MetricError(IgnitionError, ValueError):
    """A function returned something that is no metric, or a metric was named that is not there."""


class CheckpointError(IgnitionError, RuntimeError):
    """A checkpoint is broken, belongs to another training, or cannot be written or put back."""


class OptimizerError(IgnitionError, RuntimeError):
    """A step was taken by an optimizer that the Trainer does not know, by none, or otherwise than its options ask."""


class ProcessError(IgnitionError, RuntimeError):
    """Of many processes another one has failed, died or left; or they do not do the same."""


class NotFiniteError(IgnitionError, ArithmeticError):
    """A metric became NaN or infinite."""


class IgnitionWarning(UserWarning):
    """Something that goes on, though probably not as meant."""


def kind_of(value: object) -> str:
    """The kind of a value as words for messages: "an Adam", "a list"."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


def warn(message: str) -> None:
    """Warns at the line of the user's that led here, so that Python shows it once for each such line.

    Of several processes the first one warns.
    """
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0":
        return
    here, level, frame = os.path.dirname(__file__), 2, sys._getframe(1)
    while frame.f_back is not None and (
        os.path.dirname(frame.f_code.co_filename).startswith(here)
        or frame.f_code.co_filename == contextlib.__file__  # whose decorators are between ours
    ):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, IgnitionWarning, stacklevel=level)
