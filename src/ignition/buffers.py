"""Buffers that a model has only now, or has no more: set, grown or dropped by its forward pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ignition.structure import key_in

__all__ = ["copy_buffers", "fit_buffers", "is_unset", "load_transient_buffers", "transient_buffers"]


def is_unset(module: nn.Module, key: str) -> bool:
    """Whether that is the name of a buffer which a module has registered as None, and may set."""
    path, _, leaf = key.rpartition(".")
    try:
        owner = module.get_submodule(path)
    except AttributeError:
        return False
    return leaf in owner._buffers and owner._buffers[leaf] is None


def fit_buffers(module: nn.Module, state: Mapping[str, Any], unset: Collection[str]) -> None:
    """Sets those buffers of a module that are None and have a value in its saved state; drops those that had none.

    Args:
        module: The model.
        state: The state dict that it is about to load.
        unset: The names of its buffers that were None.
    """
    near = next(module.parameters(), None)
    for path, part in module.named_modules():
        for leaf, buffer in part._buffers.items():
            key = key_in(path, leaf)
            if key in unset:
                part._buffers[leaf] = None
            elif buffer is None and isinstance(state.get(key), Tensor):
                part._buffers[leaf] = state[key].to(None if near is None else near.device, copy=True)


@torch.no_grad()
def copy_buffers(module: nn.Module, source: nn.Module) -> None:
    """Gives a copy of a module the buffers that the module has now, those that it has set or grown since too."""
    for mine, theirs in zip(module.modules(), source.modules(), strict=True):
        for leaf, buffer in theirs._buffers.items():
            kept = mine._buffers.get(leaf)
            if buffer is not None and kept is not None and kept.shape == buffer.shape:
                kept.copy_(buffer)
            else:
                mine._buffers[leaf] = None if buffer is None else buffer.detach().clone()


def transient_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """The buffers that a module's state dict leaves out, by name."""
    return {
        key_in(path, leaf): part._buffers[leaf]
        for path, part in module.named_modules()
        for leaf in sorted(part._non_persistent_buffers_set)
    }


def load_transient_buffers(module: nn.Module, name: str, others: Mapping[str, Tensor]) -> None:
    """Gives back the buffers that a module's state dict leaves out.

    Args:
        module: The model.
        name: Its name among several.
        others: Those buffers by ``buffer.`` and their names; what else is in it is passed over.
    """
    prefix = f"buffer.{key_in(name, '')}"
    kept = module.state_dict().keys()
    here = dict(module.named_buffers())
    modules = dict(module.named_modules())
    for key, value in others.items():
        path, _, leaf = key.removeprefix(prefix).rpartition(".")
        full = f"{path}.{leaf}" if path else leaf
        if not key.startswith(prefix) or full in kept or path not in modules:
            continue
        if full in here and not is_lazy(here[full]) and here[full].shape == value.shape:
            with torch.no_grad():
                here[full].copy_(value)
        elif hasattr(modules[path], leaf):  # made or grown since the model was new, as a cache of positions is
            near = here.get(full, next(module.parameters(), value))
            setattr(modules[path], leaf, value.to(near.device, copy=True))
