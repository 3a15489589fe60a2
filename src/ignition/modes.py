"""What of a model is trained: freezing parts of it, and switching its modes without disturbing what is frozen."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, TypeVar

from torch import nn

from ignition.errors import ArgumentError, warn
from ignition.structure import named

__all__ = [
    "evaluation_mode",
    "freeze",
    "freeze_until",
    "is_frozen",
    "modes_of",
    "restore_modes",
    "set_frozen",
    "training_mode",
    "unfreeze",
    "warn_of_thawed",
]

M = TypeVar("M", bound=nn.Module)

_FROZEN = "_ignition_frozen"
"""A mark on each frozen module; an attribute, so that copies of the module have it too."""


def freeze(model: M) -> M:
    """Stops training a model or a part of it: no gradients, and evaluation mode even while a Trainer trains.

    So dropout is off in the frozen part, and batch norm neither uses nor updates the statistics of a batch. A
    ``model.train()`` in the train function would undo that, and is warned of: a Trainer sets the modes by itself.

    Args:
        model: A module; all that it contains is frozen with it.

    Returns:
        The same module.

    Raises:
        ArgumentError: If `model` is no module.

    Example:
        >>> backbone = freeze(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
        >>> any(parameter.requires_grad for parameter in backbone.parameters()), backbone.training
        (False, False)
    """
    _check_module("freeze", model)
    for module in model.modules():
        set_frozen(module, True)
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    model.eval()
    return model


def unfreeze(model: M) -> M:
    """Undoes `freeze` for a module and all that it contains: gradients again, and the mode of training.

    Args:
        model: A module.

    Returns:
        The same module.

    Raises:
        ArgumentError: If `model` is no module.

    Example:
        >>> layer = unfreeze(freeze(nn.Linear(2, 2)))
        >>> layer.weight.requires_grad, layer.training
        (True, True)
    """
    _check_module("unfreeze", model)
    for module in model.modules():
        set_frozen(module, False)
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point() or parameter.is_complex():  # quantized integers have no gradients
                parameter.requires_grad_(True)
    model.train()
    return model


def freeze_until(model: M, name: str) -> M:
    """Freezes all that comes before a named part, and unfreezes that part and all after it.

    Before and after are in the order of ``model.named_modules()`` and ``model.named_parameters()``: that of
    their definition. A parameter that two parts share is trained where the later one is.

    Args:
        model: A module.
        name: The name of a module (``"layer3"``) or a parameter (``"layer3.weight"``) in it.

    Returns:
        The same module.

    Raises:
        ArgumentError: If `model` is no module, or there is no part of that name. Nothing is changed then.

    Example:
        >>> net = freeze_until(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "1")
        >>> [parameter.requires_grad for parameter in net.parameters()]
        [False, False, True, True]
    """
    _check_module("freeze_until", model)
    modules = dict(model.named_modules(remove_duplicate=False))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if not isinstance(name, str) or not name or (name not in modules and name not in parameters):
        close = difflib.get_close_matches(str(name), [*modules, *parameters], n=3)
        raise ArgumentError(
            f"freeze_until was given the name {name!r}",
            expected="the name of a module or parameter of the model",
            fix=f"did you mean {', '.join(map(repr, close))}?" if close else "see model.named_modules() for the names",
        )
    unfreeze(model)
    owner = name if name in modules else name.rpartition(".")[0]
    earlier = dict.fromkeys(takewhile(lambda path: path != owner, modules))
    later = {module for path, module in modules.items() if path not in earlier}
    for path in earlier:
        # What contains the named part is only frozen in part; what is used there again is trained.
        if path and not owner.startswith(f"{path}.") and modules[path] not in later:
            set_frozen(modules[path], True)
            modules[path].training = False
    if name in parameters:
        before = set(takewhile(lambda path: path != name, parameters))
    else:
        before = {path for path in parameters if path.rpartition(".")[0] in earlier}
    trained = {parameter for path, parameter in parameters.items() if path not in before}
    for parameter in {parameters[path] for path in before} - trained:
        parameter.requires_grad_(False)
    return model


def is_frozen(module: nn.Module) -> bool:
    """Whether `freeze` froze this very module."""
    return bool(vars(module).get(_FROZEN, False))  # a module that lacks an attribute would look for long


def training_mode(model: Any) -> None:
    """``model.train()`` for a model or a structure of models, but for what is frozen."""
    for module in named(model).values():
        module.train()
        for part in module.modules():
            if is_frozen(part):
                part.training = False


def warn_of_thawed(model: Any) -> None:
    """Warns where a train function has taken what is frozen out of evaluation mode."""
    thawed = [
        f"{name and f'{name}.'}{path}" or type(module).__name__
        for name, module in named(model).items()
        for path, part in module.named_modules()
        if is_frozen(part) and part.training and not any(part.children())
    ]
    if thawed:
        warn(
            f"train_fn has put {len(thawed)} frozen modules into training mode ({', '.join(thawed[:3])}"
            f"{', ...' if len(thawed) > 3 else ''}): batch norm and dropout in them are those of training again; leave "
            "model.train() out, as a Trainer sets the modes, all but those of what freeze froze"
        )


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """``model.eval()`` inside the ``with`` block; afterwards each submodule has the mode that it had."""
    modes = modes_of(model)
    try:
        for module in named(model).values():
            module.eval()
        yield
    finally:
        restore_modes(modes)


def modes_of(model: Any) -> list[tuple[nn.Module, bool]]:
    """Each submodule with its mode, for `restore_modes`."""
    return [(part, part.training) for module in named(model).values() for part in module.modules()]


def restore_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    """Gives each submodule the mode that `modes_of` found."""
    for part, training in modes:  # each before what it contains, so that each has the last word on itself
        if part.training != training:
            part.train(training)  # by the method, which may do more: some merge weights while they are evaluated
    for part, training in modes:
        part.training = training


def set_frozen(module: nn.Module, frozen: bool) -> None:
    """Marks a module as frozen, or takes the mark away."""
    if frozen:
        setattr(module, _FROZEN, True)
    elif hasattr(module, _FROZEN):
        delattr(module, _FROZEN)


def _check_module(function: str, model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"{function} was given {type(model).__name__}",
            expected="an nn.Module",
            fix=f"pass a model or a part of it; for several, call {function} for each",
        )
