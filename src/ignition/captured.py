"""What a user's functions hold on to, and no checkpoint does: found once, and named in a warning."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ignition.errors import warn
from ignition.structure import named
from ignition.types import MetricObject, Stateful

if TYPE_CHECKING:
    from ignition.trainer import Trainer

__all__ = ["variables_of", "warn_of_captured"]


def warn_of_captured(trainer: Trainer[Any]) -> None:
    """Warns of what the functions use, changes as they train, and would be new after a resume.

    That is an optimizer, a scheduler, a gradient scaler, a module in training, a metric object, or whatever else has a
    ``state_dict``, among the variables of a function (its closure, the globals that it names, the arguments bound to
    it), which is neither the Trainer's, nor a callback's, nor in ``trainer.state``.
    """
    covered = {id(one) for held in (trainer.model, trainer.optimizer, trainer.state) for one in named(held).values()}
    covered |= {id(trainer.train_loader), id(trainer.test_loader)}
    covered |= {id(part) for one in named(trainer.model).values() for part in one.modules()}
    covered |= {id(one) for callback in trainer.callbacks for one in (callback, *vars(callback).values())}
    found: dict[str, str] = {}
    for role, function in (("train_fn", trainer.train_fn), ("eval_fn", trainer.eval_fn)):
        for name, value in variables_of(function):
            kind = _kind(value)
            if kind is not None and id(value) not in covered:
                found.setdefault(name, f"{kind} {name!r} of {role}")
    if found:
        warn(
            f"a checkpoint does not hold {', '.join(found.values())}; after a resume it would begin anew. Give it to "
            "the Trainer as a model or optimizer, or a scheduler to the callback LRSchedule, or put it into "
            'trainer.state: trainer.state["name"] = it; freeze a module that is not trained'
        )


def _kind(value: Any) -> str | None:
    if isinstance(value, Optimizer):
        return "the optimizer"
    if isinstance(value, nn.Module):
        # torchmetrics' metrics are modules too, and have no parameters.
        if isinstance(value, MetricObject):
            return "the metric"
        trained = any(parameter.requires_grad for parameter in value.parameters()) or any(True for _ in value.buffers())
        return "the module" if value.training and trained else None
    if isinstance(value, (type, dict, set, ModuleType)):
        return None
    if isinstance(value, LRScheduler):
        return "the scheduler"
    if isinstance(value, GradScaler):
        return "the gradient scaler"
    if isinstance(value, MetricObject):
        return "the metric"
    return f"the {type(value).__name__}" if isinstance(value, Stateful) else None


def variables_of(function: Callable[..., Any] | None) -> Iterator[tuple[str, Any]]:
    """The variables that a function names, besides its own."""
    if function is None:
        return
    bound = getattr(function, "__self__", None)
    if isinstance(function, partial):
        yield from ((str(place), value) for place, value in enumerate(function.args))
        yield from function.keywords.items()
        yield from variables_of(function.func)
    elif bound is not None or not inspect.isfunction(inspect.unwrap(function)):
        yield from getattr(bound if bound is not None else function, "__dict__", {}).items()
    if inspect.isfunction(inspect.unwrap(function)) or inspect.ismethod(function):
        variables = inspect.getclosurevars(inspect.unwrap(function))
        yield from variables.nonlocals.items()
        yield from variables.globals.items()
