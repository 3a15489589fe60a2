"""What a checkpoint keeps of models, by name, found in one way through their modules: the training waits meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ignition.gathered_metrics import metric_of
from ignition.modes import is_frozen
from ignition.structure import key_in, named

__all__ = ["ModelParts", "modules_of", "parameters_of", "parts_of"]

_TORCHS_OWN = nn.Module.state_dict, nn.Module._save_to_state_dict, nn.Module.get_extra_state


@dataclass(slots=True)
class ModelParts:
    """Parts of models, by the name of the model and the way to them.

    Attributes:
        state: The tensors that ``state_dict`` gives; the parameters may be themselves, with a gradient.
        extra: What else it gives, which is what modules return by ``get_extra_state``.
        metrics: For each model what the metric objects in it have gathered, by their ways.
        buffers: Those of ``state`` and those that are not kept there.
        parameters: By each of the names that modules have for them.
        frozen: The names of the modules that `freeze` froze.
        unset: The names of the buffers that are None.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    unset: list[str] = field(default_factory=list)


def parts_of(models: Any) -> ModelParts:
    """What there is in one model, or in several."""
    parts = ModelParts()
    for name, model in named(models).items():
        if not _add(model, name, parts):
            for key, value in model.state_dict().items():
                (parts.state if isinstance(value, Tensor) else parts.extra)[key_in(name, key)] = value
    return parts


def modules_of(models: Any) -> Iterator[tuple[str, nn.Module]]:
    """All modules with their names, each once."""
    for name, model in named(models).items():
        for path, module in model.named_modules():
            yield key_in(name, path), module


def parameters_of(models: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """All parameters with their names, each once."""
    for name, model in named(models).items():
        for path, parameter in model.named_parameters():
            yield key_in(name, path), parameter


def _add(model: nn.Module, name: str, parts: ModelParts) -> bool:
    """Adds what is in a model; False if without its state, for which ``state_dict`` is to be called: twice the time."""
    is_plain, state = True, dict[str, Tensor]()
    metrics = parts.metrics[name] = {}
    parameters, buffers = parts.parameters, parts.buffers
    seen: set[int] = set()
    left = [("", key_in(name, ""), model)]
    while left:
        path, prefix, module = left.pop()
        if id(module) in seen:
            is_plain = False  # its tensors have two names in state_dict
            continue
        seen.add(id(module))
        is_plain = is_plain and _is_plain(module)
        if (metric := metric_of(module)) is not None:
            metrics[path] = metric
        if is_frozen(module):
            parts.frozen.append(key_in(name, path))
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                state[prefix + leaf] = parameters[prefix + leaf] = parameter
        for leaf, buffer in module._buffers.items():
            if buffer is None:
                parts.unset.append(prefix + leaf)
            else:
                buffers[prefix + leaf] = buffer
                if leaf not in module._non_persistent_buffers_set:
                    state[prefix + leaf] = buffer
        if module._modules:
            inner = [
                (key_in(path, leaf), f"{prefix}{leaf}.", child)
                for leaf, child in module._modules.items()
                if child is not None
            ]
            left += reversed(inner)  # the first of them is the next, as in state_dict
    if is_plain:
        parts.state |= state
    return is_plain


def _is_plain(module: nn.Module) -> bool:
    """Whether ``state_dict`` does for a module what it does for all that say nothing else."""
    kind, own = type(module), vars(module)
    return (
        (kind.state_dict, kind._save_to_state_dict, kind.get_extra_state) == _TORCHS_OWN
        and "state_dict" not in own
        and "_save_to_state_dict" not in own
        and not own.get("_state_dict_hooks")
        and not own.get("_state_dict_pre_hooks")
    )
